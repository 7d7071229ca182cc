"""How alike two embeddings are: what learners that compare are built on.

A similarity is any function, or module, of embeddings (A, D) and (B, D) to a number for every
pair of them (A, B), larger for what is more alike.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.functional import squared_distance

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle of every row of (A, D) to every row of (B, D): (A, B)."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Minus the squared Euclidean distance of every row to every row: (A, B)."""
    return -squared_distance(a, b)


class ScaledSimilarity(nn.Module):
    """A similarity times a learned factor, the inverse of a temperature.

    Cosines need one: between -1 and 1, they are too close together for a softmax.

    Args:
        scale: where the factor starts, above 0; it stays there.
    """

    def __init__(self, similarity: Similarity = cosine_similarity, scale: float = 10.0):
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale={scale}: give a positive number.")
        self.similarity = similarity
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, D), (B, D) -> (A, B)."""
        return self.log_scale.exp() * self.similarity(a, b)
