r"""Ridge regression as a learner, after R2-D2 (Bertinetto et al., 2019, arXiv:1805.08136).

The regression is Hoerl & Kennard's (1970, doi:10.1080/00401706.1970.10488634), on top of an
embedding f. Embedding and penalty are learned through its closed form (eq. 4 of R2-D2):

$$W = (X^\top X + \lambda I)^{-1} X^\top Y, \qquad X = f(x) - \bar{f}, \quad Y = y - \bar{y}$$

Differs from R2-D2: an unpenalised intercept replaces the scale and shift of the output. The
linear system is D wide, not S, because its matrices are sums over examples.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import Criterion, squared_error
from quickstudy.core.linear import double, nonzero
from quickstudy.core.parameters import log_parameter
from quickstudy.core.task import Examples
from quickstudy.learner import Learner


class RidgeState(NamedTuple):
    """The sufficient statistics of linear regression.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.RidgeRegression(torch.nn.Flatten()).adapt(support)
        >>> state.size, state.mean_x
        (tensor(2.), tensor([0.5000, 0.5000]))
    """

    size: Tensor  # ()  number of examples
    mean_x: Tensor  # (D,)  of the embeddings
    mean_y: Tensor  # (C,)
    xx: Tensor  # (D, D)  sum of the outer products of the centred embeddings
    xy: Tensor  # (D, C)  sum of their products with the centred targets


class RidgeRegression(Learner[RidgeState], Embeds):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and the penalty.

    Args:
        embed: the embedding; `nn.Flatten()` for plain ridge regression on the inputs.
        penalty: initial value of λ, above 0; 1 is scikit-learn's `Ridge(alpha=1)`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> learner = qs.RidgeRegression(torch.nn.Flatten(), penalty=1e-6)
        >>> state = learner.adapt(qs.Examples(x, 2 * x + 1, torch.ones(3)))
        >>> learner.predict(state, torch.tensor([[10.0]])).round().detach()
        tensor([[21.]])
    """

    class_axes = {"mean_y": 0, "xy": 1}

    def __init__(
        self, embed: nn.Module, *, penalty: float = 1.0, criterion: Criterion = squared_error
    ):
        super().__init__(criterion)
        self.embed, self.log_penalty = embed, log_parameter("penalty", penalty)

    def adapt(self, support: Examples, state: RidgeState | None = None) -> RidgeState:
        """Merge the moments of the examples with those of `state`."""
        x, y, weight = self.embed(support.x), support.y, support.weight  # (S, D), (S, C), (S,)
        size = weight.sum()
        share = double(weight) / nonzero(size)
        mean_x, mean_y = ((share @ double(part)).to(part) for part in (x, y))
        x, y = x - mean_x, y - mean_y
        xw = (x * weight[:, None]).T  # (D, S)
        new = RidgeState(size, mean_x, mean_y, xw @ x, xw @ y)
        return new if state is None else _merge(state, new)

    def predict(self, state: RidgeState, x: Tensor) -> Tensor:
        """Return values (Q, C); zeros before the first example."""
        xx, xy = double(state.xx), double(state.xy)
        penalty = self.log_penalty.exp() * torch.eye(len(xx)).to(xx)
        W = torch.linalg.solve(xx + penalty, xy).to(state.xy)  # (D, C)
        return (self.embed(x) - state.mean_x) @ W + state.mean_y


def _merge(a: RidgeState, b: RidgeState) -> RidgeState:
    """Merge the moments of two sets of examples (Chan, Golub & LeVeque, 1983,
    doi:10.1080/00031305.1983.10483115); unlike raw sums, precise far from the origin too."""
    size = a.size + b.size
    share = b.size / nonzero(size)
    step_x, step_y = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    between = a.size * share * step_x  # (D,)
    return RidgeState(
        size,
        a.mean_x + share * step_x,
        a.mean_y + share * step_y,
        a.xx + b.xx + between[:, None] * step_x,
        a.xy + b.xy + between[:, None] * step_y,
    )
