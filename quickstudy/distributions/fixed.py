"""A finite number of tasks that are given, such as an official test."""

from typing import Self

import torch
from torch import Generator

from quickstudy.datasets.labelled import fingerprint
from quickstudy.functional import leaves, tree_map
from quickstudy.task import Json, TaskBatch, TaskDistribution


class Fixed(TaskDistribution):
    """The tasks of a batch, and no others.

    As many as there are: all of them, in their order. Fewer: a random choice, none twice. So
    `evaluate(learner, tasks, count=len(tasks), size=len(tasks))` counts every task once.

    Args:
        tasks: a batch; as tasks have one shape, pad smaller ones by `weight` 0.
        name: what they are, for the card.

    Raises:
        ValueError: more tasks are asked for at a time than there are.
    """

    def __init__(self, tasks: TaskBatch, name: str = "given"):
        self.tasks, self.name = tasks, name
        self._hash = fingerprint(leaves(tasks))

    def __len__(self) -> int:
        return len(leaves(self.tasks)[0])

    def to(self, device: torch.device | str) -> Self:
        """Moves the tasks to a device."""
        self.tasks = tree_map(lambda leaf: leaf.to(device), self.tasks)
        return self

    def card(self) -> dict[str, Json]:
        """Their name, their number, and a hash of all that is in them."""
        return {"tasks": self.name, "hash": self._hash, "number": len(self)}

    def sample(self, size: int, generator: Generator) -> TaskBatch:
        """All of the tasks, or `size` of them."""
        if size > len(self):
            raise ValueError(
                f"{size} tasks were asked for, but {self.name} are {len(self)}: evaluate with "
                f"count={len(self)}, size={len(self)}, so that each counts once."
            )
        if size == len(self):
            return self.tasks
        chosen = torch.randperm(len(self), generator=generator)[:size]
        return tree_map(lambda leaf: leaf[chosen.to(leaf.device)], self.tasks)
