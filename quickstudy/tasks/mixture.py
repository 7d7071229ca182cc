"""Tasks of several kinds."""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.task import Json, TaskBatch, TaskDistribution
from quickstudy.core.tree import leaves, tree_map


class Mixture(TaskDistribution):
    """Every task is of one of several distributions, all equally likely.

    Args:
        distributions: whose tasks have the same shapes; one that is given twice is twice as
            likely.
        together: all tasks that are drawn at once are of the same one, so shapes may differ.

    Raises:
        ValueError: there are none, or (when tasks are drawn) their shapes differ.

    Examples:
        >>> from quickstudy.tasks.functions import Line, Parabola
        >>> Mixture(Line(5), Parabola(5)).sample(25, Generator().manual_seed(0)).support.x.shape
        torch.Size([25, 5, 1])
    """

    def __init__(self, *distributions: TaskDistribution, together: bool = False):
        if not distributions:
            raise ValueError("A mixture of nothing has no tasks: give it a distribution.")
        self.distributions, self.together = distributions, together

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` tasks in random order."""
        count = len(self.distributions)
        if self.together:
            own = self.distributions[int(torch.randint(count, (), generator=generator))]
            return own.sample(n_tasks, generator)
        kind = torch.randint(count, (n_tasks,), generator=generator)
        rows = [(kind == k).nonzero().flatten() for k in range(count)]
        parts = [
            tasks.sample(len(own), generator)
            for tasks, own in zip(self.distributions, rows, strict=True)
            if len(own)
        ]
        shapes = {tuple(leaf.shape[1:] for leaf in leaves(part)) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"The tasks of a mixture have different shapes, {sorted(shapes)}: give all of "
                "them as many shots and queries, and the same features and targets, or give "
                "together=True."
            )
        order = torch.cat(rows).argsort()  # back to where each was asked for
        return tree_map(lambda *own: torch.cat(own)[order.to(own[0].device)], *parts)

    def to(self, device: torch.device | str) -> Self:
        """Moves the data of all to a device."""
        for tasks in self.distributions:
            tasks.to(device)
        return self

    def card(self) -> dict[str, Json]:
        """What all have in common, and under each one's number what is its own."""
        cards = [tasks.card() for tasks in self.distributions]
        shared = {k: v for k, v in cards[0].items() if all(c.get(k) == v for c in cards)}
        shared.pop("tasks", None)
        own = {
            f"{key} {number}": value
            for number, card in enumerate(cards, 1)
            for key, value in card.items()
            if key not in shared
        }
        return {"tasks": f"mixture of {len(cards)}", **shared, **own}
