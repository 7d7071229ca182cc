"""Sequences in which classes come again and again (Santoro et al., 2016, arXiv:1605.06065).

Is an example of a class recognised that was seen once, twice, ten times? (section 4.1)
"""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.task import Examples, Json, Task, TaskDistribution
from quickstudy.core.tree import tree_map


class Presentations(TaskDistribution):
    """Mix the support and query examples of other tasks at random.

    The support set then has a random number of examples of each class. `MANN` in training and
    `evaluate_presentations` go through the whole sequence: the support set, then the query set.
    The paper's sequences, 10 presentations of 5 classes, are
    `Presentations(FewShot(dataset, ways=5, shots=5, queries=5))`.

    Examples:
        >>> import quickstudy as qs
        >>> few_shot = qs.FewShot(qs.datasets.digits(), ways=2, shots=5, queries=5)
        >>> task = Presentations(few_shot).sample(1, torch.Generator().manual_seed(2))
        >>> task.support.y[0].sum(0)  # support examples of the two classes
        tensor([7., 3.])
    """

    def __init__(self, tasks: TaskDistribution):
        self.tasks = tasks

    def to(self, device: torch.device | str) -> Self:
        """Move the data of the tasks to a device and return `self`."""
        self.tasks.to(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return the card of the tasks with an entry `mixed`."""
        return {**self.tasks.card(), "mixed": True}

    def sample(self, n_tasks: int, generator: Generator) -> Task[Examples]:
        """Draw `n_tasks` tasks of the same sizes S and Q."""
        support, query = self.tasks.sample(n_tasks, generator)
        total, shots = support.weight.shape[1] + query.weight.shape[1], support.weight.shape[1]
        scores = torch.rand(n_tasks, total, generator=generator)
        order = scores.argsort(1).to(support.weight.device)
        task = torch.arange(n_tasks, device=order.device)[:, None]
        mixed = tree_map(lambda a, b: torch.cat([a, b], 1)[task, order], support, query)
        return Task(
            mixed.take((slice(None), slice(shots))),
            mixed.take((slice(None), slice(shots, None))),
        )
