"""Examples of tasks from rows of a data set: float inputs, right-angle turns, labels."""

import math
from typing import Any, Literal, Protocol, Self, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.core.task import Examples, Json, TaskDistribution
from quickstudy.datasets.labelled import Labelled

Normalise: TypeAlias = tuple[float | Tensor, float | Tensor]  # mean, standard deviation


class Inputs(Protocol):
    """What tasks read inputs from: a tensor, or rows that are computed when they are drawn.

    Examples:
        >>> inputs: Inputs = torch.zeros(3, 2)
        >>> inputs.index_select(0, torch.tensor([1])).shape
        torch.Size([1, 2])
    """

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        ...

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Return some rows, `dim` being 0."""
        ...

    def to(self, device: Any, /) -> "Inputs":
        """Return the same inputs on a device."""
        ...


def prepare(x: Tensor, normalise: Normalise | None) -> Tensor:
    """Return examples as float inputs of a net: bytes in [0, 1], then normalised.

    Examples:
        >>> prepare(torch.tensor([0, 255], dtype=torch.uint8), None)
        tensor([0., 1.])
        >>> prepare(torch.tensor([0, 255], dtype=torch.uint8), (0.5, 0.5))
        tensor([-1.,  1.])
    """
    if x.dtype == torch.uint8:
        x = x.float().div_(255)
    x = x.to(torch.get_default_dtype())
    return x if normalise is None else (x - normalise[0]) / normalise[1]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn images x (T, N, C, H, W) by `turns` (T, N) right angles, in place.

    Examples:
        >>> image = torch.tensor([[1, 2], [3, 4]])
        >>> rotate(image[None, None, None].clone(), torch.tensor([[1]])).squeeze().tolist()
        [[2, 4], [1, 3]]
    """
    for quarter in (1, 2, 3):
        chosen = turns == quarter
        x[chosen] = torch.rot90(x[chosen], quarter, (-2, -1))
    return x


def rotate_images(x: Tensor, degrees: float) -> Tensor:
    """Rotate images (N, C, H, W) counter-clockwise about their centre, bilinearly, with 0
    outside.

    Examples:
        >>> x = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])  # the upper right corner
        >>> rotate_images(x, 90)[0, 0].round().abs()
        tensor([[1., 0.],
                [0., 0.]])
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    aspect = x.shape[-1] / x.shape[-2]
    matrix[0, 1] /= aspect
    matrix[1, 0] *= aspect
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


class DatasetTasks(TaskDistribution):
    """Tasks whose inputs are examples of a data set, which may be turned by right angles.

    Raises:
        ValueError: `rotations` is not one of `kinds`, or the examples are not square images.

    Examples:
        >>> import quickstudy as qs
        >>> isinstance(qs.FewShot(qs.datasets.digits()), DatasetTasks)
        True
    """

    def __init__(
        self,
        dataset: Labelled,
        rotations: Any,
        kinds: tuple[str, ...],
        normalise: Normalise | None,
    ):
        if rotations not in (None, *kinds):
            raise ValueError(
                f"rotations={rotations!r} is not {', '.join(map(repr, kinds))} or None."
            )
        shape = dataset.x.shape
        if rotations is not None and (len(shape) < 3 or shape[-1] != shape[-2]):
            raise ValueError(
                f"rotations={rotations!r} needs square images, not examples of shape "
                f"{tuple(shape[1:])}. Resize the images or leave rotations out."
            )
        self.dataset, self.normalise, self.rotations = dataset, normalise, rotations
        self._copies = 4 if rotations == "classes" else 1  # of each class
        self._pixels: Inputs = dataset.x  # where inputs are read from; moved by `to`

    def to(self, device: torch.device | str) -> Self:
        """Move the examples to a device, so that batches are made there."""
        self._pixels = self._pixels.to(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return the data set, its hash and its split."""
        data = self.dataset
        return {
            **super().card(),
            "dataset": data.name,
            "hash": data.hash,
            "split": data.split,
        }


class FixedLabelTasks(DatasetTasks):
    """Tasks whose labels have a column for every class of a data set, or for every class in
    each of four rotations.

    Examples:
        >>> import quickstudy as qs
        >>> data = Labelled(torch.zeros(2, 1, 4, 4), torch.arange(2), ("a", "b"))
        >>> qs.tasks.Classification(data, 1, rotations="classes").classes
        8
    """

    def __init__(
        self,
        dataset: Labelled,
        rotations: Literal["classes"] | None,
        normalise: Normalise | None,
    ):
        super().__init__(dataset, rotations, ("classes",), normalise)
        self.classes = len(dataset.classes) * self._copies  # columns of a label

    def _inputs(self, rows: Tensor, turns: Tensor) -> Tensor:
        x = gather_rows(self._pixels, rows)
        if self.rotations is not None:
            x = rotate(x, turns.to(x.device))
        return prepare(x, self.normalise)


def class_members(dataset: Labelled) -> tuple[Tensor, Tensor]:
    """Return the rows of every class and their numbers.

    Returns:
        rows: (K, most), where rows of other classes follow in the place of missing ones.
        sizes: (K,).

    Examples:
        >>> data = Labelled(torch.zeros(3, 1), torch.tensor([0, 1, 0]), ("a", "b"))
        >>> rows, sizes = class_members(data)
        >>> rows[0].tolist(), sizes.tolist()
        ([0, 2], [2, 1])
    """
    sizes = torch.bincount(dataset.y, minlength=len(dataset.classes))  # (K,)
    order = dataset.y.argsort(stable=True)
    start = sizes.cumsum(0) - sizes
    column = torch.arange(int(sizes.max()))
    return order[(start[:, None] + column).clamp_max(len(order) - 1)], sizes


def draw_rows(
    members: Tensor, sizes: Tensor, classes: Tensor, n: int, generator: Generator
) -> Tensor:
    """Draw `n` distinct rows (T, C, n) of each of `classes` (T, C), in random order.

    Args:
        members, sizes: as `class_members` returns them.

    Examples:
        >>> data = Labelled(torch.zeros(3, 1), torch.tensor([0, 1, 0]), ("a", "b"))
        >>> rows = draw_rows(*class_members(data), torch.tensor([[0]]), 2, torch.Generator())
        >>> rows.sort().values
        tensor([[[0, 2]]])
    """
    scores = torch.rand(*classes.shape, members.shape[1], generator=generator)
    scores.masked_fill_(torch.arange(members.shape[1]) >= sizes[classes][..., None], -1)
    return members[classes].gather(2, scores.topk(n).indices)


def gather_rows(x: Inputs, rows: Tensor) -> Tensor:
    """Return x[rows] (T, N, *features) on the device of x, quickly.

    Examples:
        >>> gather_rows(torch.arange(8).view(4, 2), torch.tensor([[3, 0]])).tolist()
        [[[6, 7], [0, 1]]]
    """
    flat = rows.flatten().to(x.device)  # index_select copies whole rows: fast
    return x.index_select(0, flat).unflatten(0, rows.shape)


def fixed_label_examples(
    dataset: Labelled, x: Tensor, rows: Tensor, turns: Tensor, classes: int
) -> Examples:
    """Return examples whose column c is class c of the data set, in all tasks.

    Args:
        x: inputs of `rows`, already turned and prepared (T, N, *features).
        rows: rows of the data set (T, N).
        turns: right angles by which each is turned (T, N); a turned class is another class.
        classes: columns of a label.

    Examples:
        >>> data = Labelled(torch.zeros(2, 1), torch.tensor([1, 0]), ("a", "b"))
        >>> rows = torch.tensor([[0, 1]])
        >>> fixed_label_examples(data, data.x[rows], rows, 0 * rows, 2).y.tolist()
        [[[0.0, 1.0], [1.0, 0.0]]]
    """
    label = dataset.y[rows.to(dataset.y.device)].to(x.device)
    y = F.one_hot(label + turns.to(x.device) * len(dataset.classes), classes).to(x)
    return Examples(x, y, torch.ones_like(y[..., 0]))
