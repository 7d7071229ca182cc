"""The one type that every data set is."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**24  # bytes of a memory-mapped tensor that are touched at a time


@dataclass(frozen=True, eq=False, repr=False)
class Labelled:
    """Examples with class labels, resident (or memory-mapped) as one tensor.

    `groups` (optional) gives each class its superclass, such as the alphabet of a character.

    Raises:
        ValueError: ranks, lengths or labels do not fit, or `x` has NaN or infinite values.
    """

    x: Tensor  # (N, *features)  uint8 or float; images are (N, channels, height, width)
    y: Tensor  # (N,) int64  index into `classes`
    classes: tuple[str, ...]
    groups: Tensor | None = None  # (len(classes),) int64  index into `group_names`
    group_names: tuple[str, ...] = ()
    name: str = "arrays"
    split: str = "all"

    def __post_init__(self):
        if self.y.ndim != 1 or self.y.dtype != torch.int64:
            raise ValueError(
                f"The labels of {self.name} must be int64 of shape (N,), one index into "
                f"`classes` per example, and not {self.y.dtype} of shape {tuple(self.y.shape)}."
            )
        if self.x.ndim < 2 or len(self.x) != len(self.y):
            raise ValueError(
                f"The examples of {self.name} must have shape (N, *features) with the "
                f"{len(self.y)} labels' N, and not {tuple(self.x.shape)}: give a single "
                "feature an axis of its own, x[:, None]."
            )
        if not len(self.y):
            raise ValueError(f"{self.name} has no example: give at least one.")
        check_index(self.y, self.classes, f"labels of {self.name}", "classes")
        if self.groups is not None:
            if self.groups.shape != (len(self.classes),):
                raise ValueError(
                    f"{self.name} has {len(self.classes)} classes, so `groups` must be of shape "
                    f"({len(self.classes)},) and not {tuple(self.groups.shape)}."
                )
            check_index(self.groups, self.group_names, f"groups of {self.name}", "group_names")
        if self.x.is_floating_point():
            step = rows_of(self.x)
            for start, rows in zip(
                range(0, len(self.x), step), self.x.split(step), strict=True
            ):
                if not (finite := rows.isfinite().flatten(1).all(1)).all():
                    row = start + int(finite.int().argmin())
                    raise ValueError(
                        f"Example {row} of {self.name} has NaN or infinite values: remove or "
                        "impute them first."
                    )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        kind = str(self.x.dtype).removeprefix("torch.")
        text = f"{len(self):,} examples {kind} {tuple(self.x.shape[1:])} "
        text += f"of {len(self.classes):,} classes"
        if self.groups is not None:
            text += f" in {len(self.group_names)} groups"
        return f"Labelled({self.name}, {self.split}: {text})"

    @cached_property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of examples and labels."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            for rows in tensor.split(rows_of(tensor)):
                digest.update(rows.contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def select(self, classes: Iterable[int], split: str | None = None) -> "Labelled":
        """The examples of some classes, relabelled in the order given; groups of which no
        class is left are dropped."""
        chosen = torch.tensor([int(c) for c in classes])
        check_index(chosen, self.classes, "chosen classes", "classes")
        new = torch.full((len(self.classes),), -1)
        new[chosen] = torch.arange(len(chosen))
        y = new[self.y.cpu()]
        keep = (y >= 0).to(self.x.device)
        groups, names = self.groups, self.group_names
        if groups is not None:
            left, groups = groups.cpu()[chosen].unique(return_inverse=True)
            names = tuple(names[g] for g in left)
        return replace(
            self,
            x=self.x[keep],
            y=y[y >= 0].to(self.y.device),
            classes=tuple(self.classes[c] for c in chosen),
            groups=groups,
            group_names=names,
            split=self.split if split is None else split,
        )


class Splits(NamedTuple):
    """Disjoint sets of classes: to meta-train on, to choose by, to report on."""

    train: Labelled
    validation: Labelled
    test: Labelled


def rows_of(x: Tensor) -> int:
    """How many rows of `x` make a chunk."""
    return max(1, CHUNK * len(x) // max(1, x.nbytes))


def check_index(index: Tensor, names: tuple[str, ...], what: str, whose: str) -> None:
    """Raises ValueError unless every entry of `index` is an index into `names`."""
    if len(index) and (index.min() < 0 or index.max() >= len(names)):
        raise ValueError(
            f"The {what} reach from {index.min()} to {index.max()}, but there are "
            f"{len(names)} {whose}: every one must be in 0 … {len(names) - 1}."
        )
