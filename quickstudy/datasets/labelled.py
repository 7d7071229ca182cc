"""The one type that every data set is."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """Examples with class labels, resident (or memory-mapped) as one tensor.

    `groups` (optional) gives each class its superclass, such as the alphabet of a character.
    """

    x: Tensor  # (N, *features)  uint8 or float; images are (N, channels, height, width)
    y: Tensor  # (N,) int64  index into `classes`
    classes: tuple[str, ...]
    groups: Tensor | None = None  # (len(classes),) int64  index into `group_names`
    group_names: tuple[str, ...] = ()
    name: str = "arrays"
    split: str = "all"

    @cached_property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of examples and labels."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]


class Splits(NamedTuple):
    """Disjoint sets of classes: to meta-train on, to choose by, to report on."""

    train: Labelled
    validation: Labelled
    test: Labelled
