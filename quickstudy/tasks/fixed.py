"""A finite number of tasks, such as an official test."""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.task import Json, TaskBatch, TaskDistribution
from quickstudy.core.tree import leaves, tree_map
from quickstudy.datasets.labelled import dataset_hash


class Fixed(TaskDistribution):
    """The tasks of a batch, and no others.

    `sample` returns all of them in their order, or a random choice of fewer, none twice. So
    `evaluate(learner, tasks, n_tasks=len(tasks), meta_batch_size=len(tasks))` counts every task
    once.

    Args:
        tasks: a batch; pad smaller tasks by `weight` 0.
        name: name of the tasks on the card.

    Raises:
        ValueError: (on sampling) `n_tasks` is larger than the number of tasks.

    Examples:
        >>> import quickstudy as qs
        >>> drawn = qs.Sinusoid().sample(3, torch.Generator().manual_seed(0))
        >>> tasks = qs.tasks.Fixed(drawn, "three waves")
        >>> len(tasks), tasks.card()["tasks"]
        (3, 'three waves')
    """

    def __init__(self, tasks: TaskBatch, name: str = "given"):
        self.tasks, self.name = tasks, name
        self._hash = dataset_hash(leaves(tasks))

    def __len__(self) -> int:
        return len(leaves(self.tasks)[0])

    def to(self, device: torch.device | str) -> Self:
        """Move the tasks to a device."""
        self.tasks = tree_map(lambda leaf: leaf.to(device), self.tasks)
        return self

    def card(self) -> dict[str, Json]:
        """Return the name, the number of tasks and the hash of their tensors."""
        return {"tasks": self.name, "hash": self._hash, "number": len(self)}

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Return all of the tasks, or draw `n_tasks` of them."""
        if n_tasks > len(self):
            raise ValueError(
                f"n_tasks={n_tasks}, but {self.name} are {len(self)}: evaluate with n_tasks="
                f"{len(self)}, meta_batch_size={len(self)}, so that each counts once."
            )
        if n_tasks == len(self):
            return self.tasks
        chosen = torch.randperm(len(self), generator=generator)[:n_tasks]
        return tree_map(lambda leaf: leaf[chosen.to(leaf.device)], self.tasks)
