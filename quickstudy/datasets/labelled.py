"""The type of all data sets, and functions that split and merge them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 2**24  # bytes read at a time: a memory-mapped data set need not fit in memory


@dataclass(frozen=True, eq=False, repr=False)
class Labelled:
    """Examples with class labels, resident (or memory-mapped) as one tensor.

    `groups` (optional) gives each class its superclass, such as the alphabet of a character.

    Raises:
        ValueError: ranks, lengths or labels do not fit, or `x` has NaN or infinite values.

    Examples:
        >>> import quickstudy as qs
        >>> qs.datasets.Labelled(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), ("cat", "dog"))
        Labelled(arrays, all: 4 examples float32 (2,) of 2 classes)
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
                f"The examples of {self.name} are of shape {tuple(self.x.shape)} and must be "
                f"(N, *features) with N = {len(self.y)}, as there are labels; give a single "
                "feature an axis of its own: x[:, None]."
            )
        if len(self.y) == 0:
            raise ValueError(f"{self.name} has no examples: give at least one.")
        if self.x.dtype != torch.uint8 and not self.x.is_floating_point():
            raise ValueError(
                f"The examples of {self.name} are {self.x.dtype}: convert them to uint8 "
                "(images) or to a floating-point type."
            )
        _check_index(self.y, self.classes, f"labels of {self.name}", "classes")
        if self.groups is not None:
            if self.groups.shape != (len(self.classes),):
                raise ValueError(
                    f"The groups of {self.name} are of shape {tuple(self.groups.shape)}: give "
                    f"one for each of its {len(self.classes)} classes."
                )
            _check_index(self.groups, self.group_names, f"groups of {self.name}", "group_names")
        if self.x.is_floating_point():
            self._check_finite()

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        kind = f"{str(self.x.dtype).removeprefix('torch.')} {tuple(self.x.shape[1:])}"
        text = f"{len(self):,} examples {kind} of {len(self.classes):,} classes"
        if self.groups is not None:
            text += f" in {len(self.group_names)} groups"
        return f"Labelled({self.name}, {self.split}: {text})"

    @cached_property
    def hash(self) -> str:
        """Return the first 16 hexadecimal digits of the sha256 of examples and labels."""
        return dataset_hash((self.x, self.y))

    def select(self, classes: Iterable[int | str], split: str | None = None) -> "Labelled":
        """Return the examples of some classes, by index or name. These become classes 0, 1, …

        Groups without a class are dropped. Adjacent examples are a view; others are copied into
        memory.

        Examples:
            >>> import quickstudy as qs
            >>> qs.datasets.digits().select(["3", "8"])
            Labelled(digits, all: 357 examples uint8 (1, 8, 8) of 2 classes)
        """
        places = {name: place for place, name in enumerate(self.classes)}
        chosen_classes = list(classes)
        unknown = [c for c in chosen_classes if isinstance(c, str) and c not in places]
        if unknown:
            raise ValueError(f"{self.name} has no class {unknown[0]!r}: see its `classes`.")
        index = [places[c] if isinstance(c, str) else int(c) for c in chosen_classes]
        if len(set(index)) < len(index) or not index:
            raise ValueError(f"Choose at least one class of {self.name}, and none twice.")
        chosen = torch.tensor(index)
        _check_index(chosen, self.classes, f"chosen classes of {self.name}", "classes")
        new = torch.full((len(self.classes),), -1)
        new[chosen] = torch.arange(len(chosen))
        y = new[self.y.cpu()]
        rows = (y >= 0).nonzero().flatten()
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            x = self.x[int(rows[0]) : int(rows[-1]) + 1]
        else:
            x = self.x[rows.to(self.x.device)]
        groups, names = self.groups, self.group_names
        if groups is not None:
            left, groups = groups.cpu()[chosen].unique(return_inverse=True)
            groups, names = groups.to(self.y.device), tuple(names[g] for g in left)
        return replace(
            self,
            x=x,
            y=y[rows].to(self.y.device),
            classes=tuple(self.classes[c] for c in index),
            groups=groups,
            group_names=names,
            split=self.split if split is None else split,
        )

    def _check_finite(self) -> None:
        step = _rows(self.x)
        for start in range(0, len(self.x), step):
            finite = self.x[start : start + step].isfinite().flatten(1).all(1)
            if not finite.all():
                raise ValueError(
                    f"Example {start + int(finite.int().argmin())} of {self.name} has NaN or "
                    "infinite values: remove or impute them first."
                )


class Splits(NamedTuple):
    """Disjoint sets of classes, for meta-training, for validation and for test.

    Examples:
        >>> import quickstudy as qs
        >>> splits = qs.datasets.split_classes(qs.datasets.digits(), (0.6, 0.2, 0.2))
        >>> [len(part.classes) for part in splits]
        [6, 2, 2]
    """

    train: Labelled
    validation: Labelled
    test: Labelled


class TrainTest(NamedTuple):
    """Disjoint sets of examples of the same classes, named and numbered alike.

    They test predictions of new examples of learned classes. The parts of `Splits` have no
    class in common; they test learning of new classes.

    Examples:
        >>> import quickstudy as qs
        >>> parts = qs.datasets.split_examples(qs.datasets.digits(), 0.75)
        >>> len(parts.train), len(parts.test)
        (1347, 450)
    """

    train: Labelled
    test: Labelled


def merge(first: Labelled, *others: Labelled) -> Labelled:
    """Return all examples of data sets without a common class, in memory.

    `merge(splits.train, splits.validation)` is everything outside the test set.

    Raises:
        ValueError: a class is in two of them, or only some of them have groups.

    Examples:
        >>> import quickstudy as qs
        >>> splits = qs.datasets.split_classes(qs.datasets.digits(), (0.6, 0.2, 0.2))
        >>> len(merge(splits.train, splits.validation).classes)
        8
    """
    parts = [first, *others]
    classes = tuple(name for part in parts for name in part.classes)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ValueError(f"Class {twice!r} is in two of the data sets: merge disjoint ones.")
    grouped = [part.groups is not None for part in parts]
    if any(grouped) != all(grouped):
        raise ValueError("Only some of the data sets have groups: merge alike ones.")
    names = tuple(sorted({name for part in parts for name in part.group_names}))
    groups = [
        names.index(part.group_names[g])
        for part in parts
        if part.groups is not None
        for g in part.groups.tolist()
    ]
    starts = np.cumsum([0, *(len(part.classes) for part in parts)])
    return replace(
        first,
        x=torch.cat([part.x for part in parts]),
        y=torch.cat([part.y + int(start) for part, start in zip(parts, starts, strict=False)]),
        classes=classes,
        groups=torch.tensor(groups) if groups else None,
        group_names=names,
        split=" + ".join(part.split for part in parts),
    )


def split_classes(
    data: Labelled,
    fractions: Sequence[float] = (0.64, 0.16, 0.2),
    *,
    seed: int = 0,
    by: Literal["class", "group"] = "class",
) -> Splits:
    """Split the classes at random, so that each part has about its fraction of them.

    Args:
        by: "group" keeps all classes of a group in one part, so that test classes differ more
            from training classes. The fractions are then of the groups.

    Raises:
        ValueError: the fractions do not sum to 1, or a part would be empty.

    Examples:
        >>> import quickstudy as qs
        >>> split_classes(qs.datasets.digits(), (0.6, 0.2, 0.2)).test.classes
        ('0', '5')
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions={fractions} must be three positive numbers of sum 1.")
    if by not in ("class", "group"):
        raise ValueError(f"by={by!r}: give 'class' or 'group'.")
    if by == "group" and data.groups is None:
        raise ValueError(f"{data.name} has no groups: split by='class'.")
    units = data.group_names if by == "group" else data.classes
    order = np.random.RandomState(seed).permutation(len(units))
    chosen = np.split(order, np.round(np.cumsum(fractions)[:2] * len(units)).astype(int))
    if not all(len(part) for part in chosen):
        raise ValueError(
            f"{data.name} has {len(units)} {by}(s), too few for the fractions {fractions}: "
            "choose more equal fractions, or add classes."
        )
    owner = np.arange(len(units)) if by == "class" else np.asarray(data.groups)
    parts = [np.flatnonzero(np.isin(owner, part)).tolist() for part in chosen]
    return Splits(
        *(
            data.select(part, f"{by} {fractions} seed {seed} {name}")
            for part, name in zip(parts, Splits._fields, strict=True)
        )
    )


def split_examples(
    data: Labelled,
    fraction: float = 0.8,
    *,
    per_class: int | None = None,
    seed: int = 0,
) -> TrainTest:
    """Split the examples of every class at random, so that both parts have all classes.

    The classes stay those of `data`, in its order, and so do the examples of each part.

    Args:
        fraction: share of the examples of every class to train on, rounded to whole examples.
        per_class: number of examples of every class to train on, instead of `fraction`.

    Raises:
        ValueError: a class would have no example to train on, or none to test on.

    Examples:
        >>> import quickstudy as qs
        >>> len(split_examples(qs.datasets.digits(), per_class=5).train)
        50
    """
    y = data.y.cpu().numpy()
    sizes = np.bincount(y, minlength=len(data.classes))
    wanted = np.round(fraction * sizes) if per_class is None else np.full_like(sizes, per_class)
    short = np.flatnonzero((wanted < 1) | (wanted >= sizes))
    rule = f"fraction={fraction}" if per_class is None else f"per_class={per_class}"
    if len(short):
        raise ValueError(
            f"Class {data.classes[short[0]]!r} of {data.name} has {sizes[short[0]]} examples, "
            f"which {rule} does not split into two parts: choose another, or leave it out."
        )
    order = np.random.RandomState(seed).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]  # class after class, each shuffled
    place = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its class
    chosen = place < wanted[y[order]]
    parts = [torch.from_numpy(np.sort(order[mask])) for mask in (chosen, ~chosen)]
    return TrainTest(
        *(
            replace(
                data,
                x=data.x[rows.to(data.x.device)],
                y=data.y[rows.to(data.y.device)],
                split=f"examples {rule} seed {seed} {part}",
            )
            for rows, part in zip(parts, TrainTest._fields, strict=True)
        )
    )


def dataset_hash(tensors: Iterable[Tensor]) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of shapes, types and values.

    Examples:
        >>> dataset_hash([torch.zeros(2)]) == dataset_hash([torch.zeros(2)])
        True
        >>> len(dataset_hash([torch.zeros(2)]))
        16
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        for rows in tensor.split(_rows(tensor)):
            digest.update(rows.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _rows(x: Tensor) -> int:
    """Return the number of rows of `x` in a chunk."""
    return max(1, CHUNK * len(x) // max(1, x.nbytes))


def _check_index(index: Tensor, names: tuple[str, ...], what: str, whose: str) -> None:
    """Raise ValueError unless every entry of `index` is an index into `names`."""
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= len(names):
        raise ValueError(
            f"The {what} reach from {low} to {high}, but there are {len(names)} {whose}: "
            f"every one must be in 0 … {len(names) - 1}."
        )
