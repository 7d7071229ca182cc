"""What flows through the library: examples, tasks, and where tasks come from.

Shapes are written with these letters, everywhere:
    T tasks   S support examples   Q query examples   N examples of either kind
    C classes (or target dimensions)   D embedding width   P parameters
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from torch import Generator, Tensor, device

Data = TypeVar("Data")
Json: TypeAlias = Any  # None, bool, int, float, str, and lists and dictionaries of these


class Examples(NamedTuple):
    """Labelled examples of one task.

    `y` has the shape that a prediction has: one-hot rows for classes, values for
    regression. So the number of classes is a shape, and never an argument.
    """

    x: Tensor  # (N, *features)
    y: Tensor  # (N, C)
    weight: Tensor  # (N,)  1 for an example, 0 for padding


class Task(NamedTuple, Generic[Data]):
    """What to learn from, and what to be judged on.

    A batch of tasks is a `Task` whose tensors have one more axis, T, in front.
    """

    support: Data
    query: Data


TaskBatch: TypeAlias = Task


class TaskDistribution(ABC):
    """Where tasks come from."""

    @abstractmethod
    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draws `n_tasks` tasks; the same state of the (CPU) generator draws the same tasks."""

    def to(self, device: device | str) -> Self:
        """Moves the data that tasks are made of to a device, where there is any; `self`."""
        return self

    def card(self) -> dict[str, Json]:
        """What a reader must know of these tasks to compare numbers measured on them."""
        return {"tasks": type(self).__name__}


def entropy(seed: int, rank: int, step: int) -> int:
    """The 63-bit seed of everything random in one step of one process."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0] >> 1)


def batches(
    tasks: TaskDistribution,
    meta_batch_size: int,
    *,
    steps: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
) -> Iterator[TaskBatch]:
    """Yields the batch of every step from `start` to `steps`.

    A batch is a function of (seed, rank, step) alone: a resumed run sees the batches it
    would have seen, and two learners given one seed see the same tasks.

    Raises:
        ValueError: no tasks in a step.
    """
    if meta_batch_size < 1:
        raise ValueError(f"meta_batch_size={meta_batch_size}: a step needs at least one task.")
    for step in range(start, steps):
        yield tasks.sample(meta_batch_size, Generator().manual_seed(entropy(seed, rank, step)))
