r"""Prototypical networks (Snell, Swersky & Zemel, 2017, arXiv:1703.05175).

A class is the mean of its embedded examples; a query belongs to the nearest mean (eq. 1, 2):

$$p(y = c \mid x) \propto \exp(-\lVert f(x) - \mu_c \rVert^2), \qquad
  \mu_c = \tfrac{1}{|S_c|} \sum_{i \in S_c} f(x_i)$$

Differs from the paper: nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.functional import squared_distance
from quickstudy.learner import Learner
from quickstudy.task import Examples


class Prototypes(NamedTuple):
    """Sums and sizes, not means: so that more examples can be added later."""

    sums: Tensor  # (C, D)  of the embeddings of each class
    sizes: Tensor  # (C,)  how many there were


class PrototypicalNetwork(Learner[Prototypes]):
    """Learns the embedding `embed`: (N, *features) -> (N, D)."""

    def __init__(self, embed: nn.Module):
        super().__init__()
        self.embed = embed

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """The sum of the embeddings of each class, on top of what `state` has."""
        member = support.y * support.weight[:, None]  # (S, C)
        new = Prototypes(member.T @ self.embed(support.x), member.sum(0))
        return new if state is None else Prototypes(*map(torch.add, state, new))

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Minus the squared distances to the means: logits (Q, C); -inf for a class of which
        no example was seen."""
        mean = state.sums / state.sizes.clamp_min(1e-12)[:, None]  # (C, D)
        logits = -squared_distance(self.embed(x), mean)  # (Q, C)
        return logits.masked_fill(state.sizes == 0, -torch.inf)
