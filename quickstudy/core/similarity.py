"""Similarities of embeddings, on which learners that compare are built.

A similarity is any function, or module, of embeddings (A, D) and (B, D) to a number for every
pair of them (A, B), larger for more similar ones.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.parameters import log_parameter

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distance of every row of (A, D) to every row of (B, D).

    Returns:
        Distances (A, B).

    Examples:
        >>> import torch
        >>> squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(2, 2))
        tensor([[25., 25.]])
    """
    return (a[:, None] - b[None]).square().sum(-1)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle of every row of (A, D) to every row of (B, D): (A, B).

    Examples:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.eye(2))
        tensor([[1., 0.]])
    """
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return minus the squared Euclidean distance of every row to every row: (A, B).

    Examples:
        >>> import torch
        >>> negative_squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([[-25.]])
    """
    return -squared_distance(a, b)


class ScaledSimilarity(nn.Module):
    """A similarity times a learned factor, the inverse of a temperature.

    Cosines need one: between -1 and 1, they are too close together for a softmax.

    Args:
        scale: the initial factor, above 0; learning keeps it above 0.

    Examples:
        >>> import torch
        >>> similarity = ScaledSimilarity(scale=10.0)
        >>> similarity(torch.eye(2), torch.eye(2)).round()
        tensor([[10.,  0.],
                [ 0., 10.]], grad_fn=<RoundBackward0>)
    """

    def __init__(self, similarity: Similarity = cosine_similarity, scale: float = 10.0):
        super().__init__()
        self.similarity, self.log_scale = similarity, log_parameter("scale", scale)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, D), (B, D) -> (A, B)."""
        return self.log_scale.exp() * self.similarity(a, b)
