r"""Prototypical networks (Snell, Swersky & Zemel, 2017, arXiv:1703.05175).

A class is the mean of its embedded examples; a query belongs to the nearest mean (eq. 1, 2):

$$p(y = c \mid x) \propto \exp(-\lVert f(x) - \mu_c \rVert^2), \qquad
  \mu_c = \tfrac{1}{|S_c|} \sum_{i \in S_c} f(x_i)$$

Differs from the paper: nothing. `cosine_prototypical` is the classifier of Meta-Baseline (Chen,
Liu, Xu, Darrell & Wang, 2021, arXiv:2003.04390, section 3.2).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings, PredictsSimilarities
from quickstudy.core.similarity import ScaledSimilarity, Similarity, negative_squared_distance
from quickstudy.core.task import Examples
from quickstudy.learner import Learner


class Prototypes(NamedTuple):
    """Sums and sizes, not means: so that more examples can be added later."""

    sums: Tensor  # (C, D)  of the embeddings of each class
    sizes: Tensor  # (C,)  how many there were


class PrototypicalNetwork(Learner[Prototypes], ComparesEmbeddings, PredictsSimilarities):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        similarity: of embeddings (Q, D) and means (C, D): logits (Q, C).
    """

    class_axes = {"sums": 0, "sizes": 0}
    independent_classes = True

    def __init__(self, embed: nn.Module, *, similarity: Similarity = negative_squared_distance):
        super().__init__()
        self.embed, self.similarity = embed, similarity

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """The sum of the embeddings of each class, on top of what `state` has."""
        member = support.y * support.weight[:, None]  # (S, C)
        new = Prototypes(member.T @ self.embed(support.x), member.sum(0))
        return new if state is None else Prototypes(*map(torch.add, state, new))

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """The similarities to the means: logits (Q, C); -inf for a class of which no example
        was seen."""
        return compare(self.embed(x), state, self.similarity)


def compare(
    x: Tensor, prototypes: Prototypes, similarity: Similarity = negative_squared_distance
) -> Tensor:
    """Logits (N, C) of embeddings x (N, D): -inf for a class without examples."""
    mean = prototypes.sums / prototypes.sizes.clamp_min(1e-12)[:, None]  # (C, D)
    return similarity(x, mean).masked_fill(prototypes.sizes == 0, -torch.inf)


def cosine_prototypical(embed: nn.Module, *, scale: float = 10.0) -> PrototypicalNetwork:
    """A prototypical network whose logits are cosines times a learned factor, from `scale`."""
    return PrototypicalNetwork(embed, similarity=ScaledSimilarity(scale=scale))
