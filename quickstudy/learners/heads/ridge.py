r"""Ridge regression as a learner, after R2-D2 (Bertinetto et al., 2019, arXiv:1805.08136).

The regression itself is Hoerl & Kennard's (1970, doi:10.1080/00401706.1970.10488634), on top of
an embedding f that is learned through its closed form (eq. 4 of R2-D2), as the penalty is:

$$W = (X^\top X + \lambda I)^{-1} X^\top Y, \qquad X = f(x) - \bar{f}, \quad Y = y - \bar{y}$$

Differs from R2-D2: an intercept, not penalised, in place of its scale and shift of the output;
and the system that is solved is D wide, not S, because its matrices add up over examples.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import Criterion, squared_error
from quickstudy.core.task import Examples
from quickstudy.learner import Learner


class Moments(NamedTuple):
    """All that a linear regression needs to know of its examples."""

    size: Tensor  # ()  how many there were
    mean_x: Tensor  # (D,)  of the embeddings
    mean_y: Tensor  # (C,)
    xx: Tensor  # (D, D)  sum of the squares of the embeddings about their mean
    xy: Tensor  # (D, C)  sum of the products with the targets, both about their means


class RidgeRegression(Learner[Moments], Embeds):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and the penalty.

    Args:
        embed: `nn.Flatten()` for plain ridge regression on the inputs.
        penalty: where the penalty starts, above 0; 1 is scikit-learn's `Ridge(alpha=1)`.
    """

    class_axes = {"mean_y": 0, "xy": 1}

    def __init__(
        self, embed: nn.Module, *, penalty: float = 1.0, criterion: Criterion = squared_error
    ):
        super().__init__(criterion)
        if not (penalty > 0 and math.isfinite(penalty)):
            raise ValueError(f"penalty={penalty}: give a positive number.")
        self.embed = embed
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)))

    def adapt(self, support: Examples, state: Moments | None = None) -> Moments:
        """The moments of the examples, merged with those that `state` has."""
        x, y, weight = self.embed(support.x), support.y, support.weight  # (S, D), (S, C), (S,)
        size = weight.sum()
        share = weight / size.clamp_min(1e-12)
        mean_x, mean_y = share @ x, share @ y
        x, y = x - mean_x, y - mean_y
        xw = (x * weight[:, None]).T  # (D, S)
        new = Moments(size, mean_x, mean_y, xw @ x, xw @ y)
        return new if state is None else _merge(state, new)

    def predict(self, state: Moments, x: Tensor) -> Tensor:
        """Values (Q, C); before the first example, 0."""
        penalty = self.log_penalty.exp() * torch.eye(len(state.xx)).to(state.xx)
        slope = torch.linalg.solve(state.xx + penalty, state.xy)  # (D, C)
        return (self.embed(x) - state.mean_x) @ slope + state.mean_y


def _merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of examples together (Chan, Golub & LeVeque, 1983,
    doi:10.1080/00031305.1983.10483115): unlike raw sums, exact also far from the origin."""
    size = a.size + b.size
    share = b.size / size.clamp_min(1e-12)
    step_x, step_y = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    between = a.size * share * step_x  # (D,)
    return Moments(
        size,
        a.mean_x + share * step_x,
        a.mean_y + share * step_y,
        a.xx + b.xx + between[:, None] * step_x,
        a.xy + b.xy + between[:, None] * step_y,
    )
