"""Class prototypes: the mean embedding of each class, and logits of queries from them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.core.linear import double, nonzero
from quickstudy.core.similarity import Similarity, compare, negative_squared_distance
from quickstudy.core.task import Examples
from quickstudy.core.tree import merge


class Prototypes(NamedTuple):
    """Sums and sizes of classes; stored instead of means so that more examples can be added.

    Examples:
        >>> import torch
        >>> from quickstudy.core import Prototypes
        >>> Prototypes(torch.tensor([[2.0, 4.0], [0.0, 0.0]]), torch.tensor([2.0, 0.0])).means
        tensor([[1., 2.],
                [0., 0.]])
    """

    sums: Tensor  # (C, D)  of the embeddings of each class
    sizes: Tensor  # (C,)  number of examples of each class

    @property
    def means(self) -> Tensor:
        """The prototypes (C, D); zeros for a class without examples."""
        return self.sums / nonzero(self.sizes)[:, None]


def class_sums(
    embedded: Tensor, examples: Examples, prototypes: Prototypes | None = None
) -> Prototypes:
    """Add the embeddings (N, D) of `examples` to the sums of their classes.

    Args:
        embedded: the embeddings of the examples.
        examples: their labels and weights.
        prototypes: of earlier examples. None: there are none.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[1.0], [3.0], [5.0]]), torch.eye(2)[[0, 0, 1]]
        >>> qs.core.class_sums(x, qs.Examples(x, y, torch.ones(3))).means
        tensor([[2.],
                [5.]])
    """
    member = examples.y * examples.weight[:, None]  # (N, C)
    sums = (double(member).T @ double(embedded)).to(embedded)
    return merge(torch.add, prototypes, Prototypes(sums, member.sum(0)))


def class_logits(
    x: Tensor, prototypes: Prototypes, similarity: Similarity = negative_squared_distance
) -> Tensor:
    """Return the similarities of embeddings (N, D) to the prototypes as logits (N, C).

    A class without examples has the logit -inf.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> sums, sizes = torch.tensor([[4.0], [0.0]]), torch.tensor([2.0, 0.0])
        >>> qs.core.class_logits(torch.tensor([[1.0]]), qs.core.Prototypes(sums, sizes))
        tensor([[-1., -inf]])
    """
    logits = compare(similarity, x, prototypes.means)
    return logits.masked_fill(prototypes.sizes == 0, -torch.inf)


def keep_known(
    start: Mapping[str, Tensor], known: Mapping[str, Tensor], sizes: Tensor
) -> dict[str, Tensor]:
    """Return `known` parameters (C, ...) of classes with examples, and `start` for the others.

    Examples:
        >>> import torch
        >>> old, new = {"bias": torch.ones(2)}, {"bias": torch.zeros(2)}
        >>> keep_known(new, old, sizes=torch.tensor([0.0, 5.0]))
        {'bias': tensor([0., 1.])}
    """
    rows = {name: (sizes > 0).view(-1, *[1] * (p.ndim - 1)) for name, p in start.items()}
    return {name: torch.where(rows[name], known[name], p) for name, p in start.items()}


def class_means(features: Tensor, examples: Examples) -> Tensor:
    """Return the mean (C, D) of the features (N, D) of each class; 0 without examples.

    Examples:
        >>> pair = Examples(torch.zeros(2, 1), torch.eye(2, 3), torch.ones(2))
        >>> class_means(torch.tensor([[1.0], [2.0]]), pair).squeeze(1)
        tensor([1., 2., 0.])
    """
    return class_sums(features, examples).means
