"""A finite number of tasks that are given, such as an official test."""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.functional import leaves, tree_map
from quickstudy.core.task import Json, TaskBatch, TaskDistribution
from quickstudy.datasets.labelled import dataset_hash


class Fixed(TaskDistribution):
    """The tasks of a batch, and no others.

    As many as there are: all of them, in their order. Fewer: a random choice, none twice. So
    `evaluate(learner, tasks, n_tasks=len(tasks), meta_batch_size=len(tasks))` counts every task once.

    Args:
        tasks: a batch; as tasks have one shape, pad smaller ones by `weight` 0.
        name: what they are, for the card.

    Raises:
        ValueError: more tasks are asked for at a time than there are.
    """

    def __init__(self, tasks: TaskBatch, name: str = "given"):
        self.tasks, self.name = tasks, name
        self._hash = dataset_hash(leaves(tasks))

    def __len__(self) -> int:
        return len(leaves(self.tasks)[0])

    def to(self, device: torch.device | str) -> Self:
        """Moves the tasks to a device."""
        self.tasks = tree_map(lambda leaf: leaf.to(device), self.tasks)
        return self

    def card(self) -> dict[str, Json]:
        """Their name, their number, and a hash of all that is in them."""
        return {"tasks": self.name, "hash": self._hash, "number": len(self)}

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """All of the tasks, or `n_tasks` of them."""
        if n_tasks > len(self):
            raise ValueError(
                f"{n_tasks} tasks were asked for, but {self.name} are {len(self)}: evaluate with "
                f"n_tasks={len(self)}, meta_batch_size={len(self)}, so that each counts once."
            )
        if n_tasks == len(self):
            return self.tasks
        chosen = torch.randperm(len(self), generator=generator)[:n_tasks]
        return tree_map(lambda leaf: leaf[chosen.to(leaf.device)], self.tasks)
