r"""Deep streaming linear discriminant analysis (Hayes & Kanan, 2020, arXiv:1909.01520).

Classes are Gaussians with means of their own and one covariance, both known exactly after every
example of a stream, however it is cut. A query belongs to the class of the largest score
(eq. 1 to 4), ε being the `shrinkage`:

$$z_c = \mu_c^\top \Lambda f(x) - \tfrac12 \mu_c^\top \Lambda \mu_c, \qquad
  \Lambda = \big((1 - \varepsilon) \Sigma + \varepsilon I\big)^{-1}$$

Differs from the paper: Σ is the pooled covariance within classes. The paper's update (eq. 3)
weighs an example's square by how many came before it, not by how many of its class. Sums of
chunks are merged as Chan, Golub & LeVeque (1979) do.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.heads.r2d2 import in_full
from quickstudy.learners.transfer.baseline import class_means


class Moments(NamedTuple):
    """All that is kept of a stream; its size does not grow with the examples."""

    means: Tensor  # (C, D)  of each class; 0 of one that was not seen
    sizes: Tensor  # (C,)  how many there were
    scatter: Tensor  # (D, D)  the sum of squared deviations from the own class's mean


class StreamingLDA(Learner[Moments], Embeds):
    """Adds up moments of the embedding `embed`: (N, *features) -> (N, D).

    Args:
        shrinkage: ε, from 0 to 1. At 0 there have to be more examples than features and
            classes; at 1 the class of the nearest mean is predicted.
    """

    class_axes = {"means": 0, "sizes": 0}
    independent_classes = True

    def __init__(self, embed: nn.Module, *, shrinkage: float = 1e-4):
        super().__init__()
        self.embed, self.shrinkage = embed, shrinkage

    def adapt(self, support: Examples, state: Moments | None = None) -> Moments:
        """Moments of the examples and of all those before them."""
        features = self.embed(support.x).to(support.weight)
        with in_full(features):
            new = moments(features, support)
            return new if state is None else merged(state, new)

    def predict(self, state: Moments, x: Tensor) -> Tensor:
        """Logits (Q, C); -inf for a class of which no example was seen."""
        features = self.embed(x).to(state.means)
        with in_full(features):
            size = state.sizes.sum().clamp_min(1e-12)
            eye = torch.eye(len(state.scatter), dtype=size.dtype, device=size.device)
            covariance = (1 - self.shrinkage) * state.scatter / size + self.shrinkage * eye
            weight = torch.linalg.solve(covariance, state.means.T).T  # (C, D)
            logits = F.linear(features, weight, -(weight * state.means).sum(-1) / 2)
        return logits.masked_fill(state.sizes == 0, -torch.inf)


def moments(features: Tensor, examples: Examples) -> Moments:
    """Of features (N, D), with the labels and weights of `examples`."""
    means = class_means(features, examples)
    away = features - examples.y @ means
    scatter = (examples.weight[:, None] * away).T @ away
    return Moments(means, examples.weight @ examples.y, scatter)


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of the examples of both."""
    sizes = a.sizes + b.sizes
    share = b.sizes / sizes.clamp_min(1e-12)  # (C,)  of b
    apart = b.means - a.means
    between = ((a.sizes * share)[:, None] * apart).T @ apart
    means = a.means + share[:, None] * apart
    return Moments(means, sizes, a.scatter + b.scatter + between)
