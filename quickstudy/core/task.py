"""The data of the library: examples, tasks, and distributions of tasks.

Shapes use the same letters everywhere:
    T tasks   S support examples   Q query examples   N examples of either kind
    C classes (or target dimensions)   D embedding width   P parameters
    K memory slots   L sequence length
Reinforcement learning adds:
    E episodes   H steps of an episode (the horizon)   O observation size   A action size
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Literal, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, device

Data = TypeVar("Data")
Json: TypeAlias = Any  # None, bool, int, float, str, and lists and dictionaries of these
Checkpoint: TypeAlias = Literal["sqrt", "steps", "mixed"]  # of inner steps; see `descend`


class Examples(NamedTuple):
    """Labelled examples of one task.

    `y` has the shape that a prediction has: one-hot rows for classes, values for
    regression. So the number of classes is a shape, and never an argument. Learners with the
    capability `TakesDenseTargets` also take further axes: (N, ..., C), classes last.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> pair = qs.Examples(torch.zeros(2, 8), torch.eye(2), torch.ones(2))
        >>> pair.x.shape, pair.y.argmax(-1).tolist()
        (torch.Size([2, 8]), [0, 1])
        >>> qs.Examples.cat(pair, pair.take(slice(1))).weight
        tensor([1., 1., 1.])
    """

    x: Tensor  # (N, *features)
    y: Tensor  # (N, C)
    weight: Tensor  # (N,)  1 for an example, 0 for padding

    @staticmethod
    def cat(*parts: "Examples", dim: int = 0) -> "Examples":
        """Concatenate examples along an axis; `dim=1` for batches of tasks."""
        return Examples(*(torch.cat(leaves, dim) for leaves in zip(*parts, strict=True)))

    def take(self, rows: Any) -> "Examples":
        """Index every tensor by `rows`: a slice, a mask, row numbers, or a tuple of these."""
        return Examples(*(leaf[rows] for leaf in self))


class Task(NamedTuple, Generic[Data]):
    """Data to learn from (`support`) and data to evaluate on (`query`).

    A batch of tasks is a `Task` whose tensors have one more axis, T, in front.

    Examples:
        >>> import torch
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(2, torch.Generator().manual_seed(0))
        >>> batch.support.y.shape[0], batch.query.y.shape[0]
        (2, 2)
    """

    support: Data
    query: Data


TaskBatch: TypeAlias = Task


class TaskDistribution(ABC):
    """A distribution that tasks are drawn from.

    Examples:
        >>> class Signs(TaskDistribution):
        ...     def sample(self, n_tasks, generator):
        ...         x = torch.randn(n_tasks, 5, 1, generator=generator)
        ...         examples = Examples(x, x.sign(), torch.ones(n_tasks, 5))
        ...         return Task(examples, examples)
        >>> Signs().card(), Signs().sample(2, torch.Generator()).query.y.shape
        ({'tasks': 'Signs'}, torch.Size([2, 5, 1]))
    """

    @abstractmethod
    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` tasks; the same state of the (CPU) generator draws the same tasks."""

    def to(self, device: device | str) -> Self:
        """Move the data of the tasks, if any, to a device; return `self`."""
        return self

    def card(self) -> dict[str, Json]:
        """Return what a reader must know of the tasks to compare results."""
        return {"tasks": type(self).__name__}


def check_seed(seed: int) -> int:
    """Return a seed, if it is one.

    Raises:
        ValueError: it is not from 0 to 2**32 - 1. A larger one would be the same as another
            seed and process.

    Examples:
        >>> check_seed(3)
        3
        >>> check_seed(2**64)
        Traceback (most recent call last):
        ValueError: seed=18446744073709551616: give a whole number from 0 to 4294967295.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}.")
    return seed


def seeds(seed: int, rank: int, step: int) -> tuple[int, int]:
    """Return the two seeds of one step of one process.

    Returns:
        A 63-bit seed for drawing tasks, and another for torch's global generator, which
        learners draw their noise from. They differ, so that noise does not repeat the numbers
        that drew the tasks.

    Examples:
        >>> tasks, noise = seeds(seed=0, rank=0, step=0)
        >>> noise - tasks
        1
    """
    state = np.random.SeedSequence([check_seed(seed), rank, step]).generate_state(1, np.uint64)
    tasks = int(state[0] >> 1)
    return tasks, tasks + 1


def batches(
    tasks: TaskDistribution,
    meta_batch_size: int,
    *,
    steps: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
) -> Iterator[TaskBatch]:
    """Yield the batch of every step from `start` to `steps`.

    A batch is a function of (seed, rank, step) alone: a resumed run sees the
    same batches as one without a break, and two learners with one seed see the same tasks.

    Raises:
        ValueError: `meta_batch_size` is below 1.

    Examples:
        >>> from quickstudy.testing.learners import Blobs
        >>> resumed = list(batches(Blobs(), 4, steps=3, start=2))
        >>> whole = list(batches(Blobs(), 4, steps=3))
        >>> len(resumed), resumed[0].support.x.equal(whole[2].support.x)
        (1, True)
    """
    if meta_batch_size < 1:
        raise ValueError(f"meta_batch_size={meta_batch_size}: a step needs at least one task.")
    for step in range(start, steps):
        yield tasks.sample(meta_batch_size, Generator().manual_seed(seeds(seed, rank, step)[0]))
