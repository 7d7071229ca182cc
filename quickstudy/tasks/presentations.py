"""Sequences in which classes come again and again (Santoro et al., 2016, arXiv:1605.06065,
section 4.1), for accuracy after one, two, ten examples of a class."""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.functional import tree_map
from quickstudy.core.task import Examples, Json, Task, TaskDistribution


class Presentations(TaskDistribution):
    """Tasks of another distribution, with support and query examples mixed at random.

    The support set then has different numbers of the classes. `MANN` in training and
    `evaluate_presentations` read the whole sequence, the support set and then the query set.
    The paper's sequences, of 10 presentations of 5 classes, are
    `Presentations(FewShot(dataset, ways=5, shots=5, queries=5))`.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> tasks = Presentations(Blobs(ways=2, shots=2, queries=1))
        >>> batch = tasks.sample(1, torch.Generator().manual_seed(1))
        >>> batch.support.y[0].sum(0).tolist()
        [3.0, 1.0]
    """

    def __init__(self, tasks: TaskDistribution):
        self.tasks = tasks

    def to(self, device: torch.device | str) -> Self:
        """Move the data of the tasks to a device; return `self`."""
        self.tasks.to(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return the facts of the tasks, and that they are mixed."""
        return {**self.tasks.card(), "mixed": True}

    def sample(self, n_tasks: int, generator: Generator) -> Task[Examples]:
        """Draw tasks of the same sizes S and Q."""
        support, query = self.tasks.sample(n_tasks, generator)
        total, shots = support.weight.shape[1] + query.weight.shape[1], support.weight.shape[1]
        order = torch.rand(n_tasks, total, generator=generator).argsort(1)
        order = order.to(support.weight.device)
        task = torch.arange(n_tasks, device=order.device)[:, None]
        mixed = tree_map(lambda a, b: torch.cat([a, b], 1)[task, order], support, query)
        return Task(
            mixed.take((slice(None), slice(shots))),
            mixed.take((slice(None), slice(shots, None))),
        )
