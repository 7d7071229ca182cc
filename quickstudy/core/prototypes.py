"""Classes represented by the mean of their examples."""

from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.core.similarity import Similarity, negative_squared_distance
from quickstudy.core.task import Examples


class Prototypes(NamedTuple):
    """Sums and sizes instead of means, so that more examples can be added later.

    Examples:
        >>> prototypes = Prototypes(torch.tensor([[6.0, 0.0]]), torch.tensor([3.0]))
        >>> class_logits(torch.tensor([[2.0, 1.0]]), prototypes)
        tensor([[-1.]])
    """

    sums: Tensor  # (C, D)  of the embeddings of each class
    sizes: Tensor  # (C,)  numbers of examples


def class_logits(
    x: Tensor, prototypes: Prototypes, similarity: Similarity = negative_squared_distance
) -> Tensor:
    """Return logits (N, C) of embeddings x (N, D): similarities to the means; -inf for a class
    without examples.

    Examples:
        >>> prototypes = Prototypes(torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
        >>> class_logits(torch.tensor([[3.0]]), prototypes)
        tensor([[-9., -inf]])
    """
    mean = prototypes.sums / prototypes.sizes.clamp_min(1e-12)[:, None]  # (C, D)
    return similarity(x, mean).masked_fill(prototypes.sizes == 0, -torch.inf)


def class_means(features: Tensor, examples: Examples) -> Tensor:
    """Return the mean (C, D) of the features (N, D) of each class; 0 without examples.

    Examples:
        >>> pair = Examples(torch.zeros(2, 1), torch.eye(2, 3), torch.ones(2))
        >>> class_means(torch.tensor([[1.0], [2.0]]), pair).squeeze(1)
        tensor([1., 2., 0.])
    """
    member = examples.y * examples.weight[:, None]  # (N, C)
    sizes = examples.weight @ examples.y  # (C,)
    return member.T @ features / sizes.clamp_min(1e-12)[:, None]
