r"""Deep streaming linear discriminant analysis (Hayes & Kanan, 2020, arXiv:1909.01520).

Classes are Gaussians with separate means and one shared covariance. Both are exact after
every example of a stream, however it is cut. A query belongs to the class of the largest score
(eq. 1 to 4), with ε the `shrinkage`:

$$z_c = \mu_c^\top \Lambda f(x) - \tfrac12 \mu_c^\top \Lambda \mu_c, \qquad
  \Lambda = \big((1 - \varepsilon) \Sigma + \varepsilon I\big)^{-1}$$

Differs from the paper: Σ is the pooled covariance within classes. The paper's update (eq. 3)
weighs an example's square by how many came before it, not by how many of its class. Sums of
chunks are merged as Chan, Golub & LeVeque (1979) do, in double precision. Features are measured
from the mean of all examples, so that a common offset costs no digits.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.linear import double, nonzero, without_autocast
from quickstudy.core.prototypes import class_means
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.learner import Learner


class StreamingLDAState(NamedTuple):
    """The sufficient statistics of a stream; their size does not grow with the examples.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.StreamingLDA(torch.nn.Identity()).adapt(support)
        >>> state.sizes, state.scatter.shape
        (tensor([1., 1.]), torch.Size([2, 2]))
    """

    means: Tensor  # (C, D)  of each class; 0 of an unseen class
    sizes: Tensor  # (C,)  the total weight of each class
    scatter: Tensor  # (D, D)  the sum of squared deviations from class means


class StreamingLDA(Learner[StreamingLDAState], Embeds):
    """Accumulates moments of the embedding `embed`: (N, *features) -> (N, D).

    Args:
        shrinkage: ε, from 0 to 1. 0 needs more examples than features and classes; 1 predicts
            the class of the nearest mean.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x = torch.tensor([[0.0, 0], [2, 0], [0, 3], [2, 3]])
        >>> y = torch.eye(2)[[0, 0, 1, 1]]
        >>> learner = qs.StreamingLDA(torch.nn.Identity(), shrinkage=0.1)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(4)))
        >>> state.means.tolist()
        [[1.0, 0.0], [1.0, 3.0]]
        >>> learner.predict(state, torch.tensor([[9.0, 1.0]])).argmax(-1)
        tensor([0])
    """

    class_axes = {"means": 0, "sizes": 0}
    independent_classes = True

    def __init__(self, embed: nn.Module, *, shrinkage: float = 1e-4):
        super().__init__()
        self.embed, self.shrinkage = embed, shrinkage

    def adapt(
        self, support: Examples, state: StreamingLDAState | None = None
    ) -> StreamingLDAState:
        """Return the moments of the examples and of all before them."""
        features = self.embed(support.x).to(support.weight)
        # sums of squares, and the inverse of their matrix, need more digits than half precision
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        with without_autocast(features):
            new = moments(features, support)
            return new if state is None else merge(state, new)

    def predict(self, state: StreamingLDAState, x: Tensor) -> Tensor:
        """Return logits (Q, C), up to a number for each query; -inf for an unseen class."""
        embedded = self.embed(x)
        features = double(embedded)
        means, sizes, scatter = tree_map(double, state)
        with without_autocast(features):
            total = nonzero(sizes.sum())
            origin = sizes @ means / total  # moves a query's logits together
            means = means - origin
            eye = torch.eye(len(scatter), dtype=total.dtype, device=total.device)
            covariance = (1 - self.shrinkage) * scatter / total + self.shrinkage * eye
            weight = torch.linalg.solve(covariance, means.T).T  # (C, D)
            logits = F.linear(features - origin, weight, -(weight * means).sum(-1) / 2)
        return logits.to(embedded).masked_fill(state.sizes == 0, -torch.inf)


def moments(features: Tensor, examples: Examples) -> StreamingLDAState:
    """Return the moments of features (N, D), with the labels and weights of `examples`.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> moments(x, Examples(x, torch.ones(2, 1), torch.ones(2)))
        StreamingLDAState(means=tensor([[2.]]), sizes=tensor([2.]), scatter=tensor([[2.]]))
    """
    x, y, weight = double(features), double(examples.y), double(examples.weight)
    means = class_means(x, examples)
    deviations = x - y @ means
    scatter = (weight[:, None] * deviations).T @ deviations
    state = StreamingLDAState(means, weight @ y, scatter)
    return tree_map(lambda leaf: leaf.to(features), state)


def merge(a: StreamingLDAState, b: StreamingLDAState) -> StreamingLDAState:
    """Return the moments of the examples of both.

    Examples:
        >>> import torch
        >>> a, b = (
        ...     StreamingLDAState(torch.tensor([[mean]]), torch.ones(1), torch.zeros(1, 1))
        ...     for mean in (1.0, 3.0)
        ... )
        >>> merge(a, b)
        StreamingLDAState(means=tensor([[2.]]), sizes=tensor([2.]), scatter=tensor([[2.]]))
    """
    dtype = a.means.dtype
    a, b = tree_map(double, a), tree_map(double, b)
    sizes = a.sizes + b.sizes
    fraction = b.sizes / nonzero(sizes)  # (C,)  of b
    difference = b.means - a.means
    between = ((a.sizes * fraction)[:, None] * difference).T @ difference
    means = a.means + fraction[:, None] * difference
    state = StreamingLDAState(means, sizes, a.scatter + b.scatter + between)
    return tree_map(lambda leaf: leaf.to(dtype), state)
