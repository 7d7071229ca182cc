"""Tasks of several kinds."""

from typing import Self

import torch
from torch import Generator

from quickstudy.core.task import Json, TaskBatch, TaskDistribution
from quickstudy.core.tree import leaves, tree_map


class Mixture(TaskDistribution):
    """Every task comes from one of several distributions, all equally likely.

    Args:
        distributions: distributions of tasks of one shape; one that is listed twice is twice as
            likely.
        together: draw all tasks of a batch from the same one, so that shapes may differ.

    Raises:
        ValueError: there is no distribution, or (on sampling) their shapes differ.

    Examples:
        >>> from quickstudy.tasks.functions import Line, Parabola
        >>> Mixture(Line(5), Parabola(5)).sample(25, Generator().manual_seed(0)).support.x.shape
        torch.Size([25, 5, 1])
    """

    def __init__(self, *distributions: TaskDistribution, together: bool = False):
        if not distributions:
            raise ValueError("A mixture needs at least one distribution.")
        self.distributions, self.together = distributions, together

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` tasks in random order."""
        count = len(self.distributions)
        if self.together:
            tasks = self.distributions[int(torch.randint(count, (), generator=generator))]
            return tasks.sample(n_tasks, generator)
        kind = torch.randint(count, (n_tasks,), generator=generator)
        rows = [(kind == k).nonzero().flatten() for k in range(count)]
        parts = [
            tasks.sample(len(places), generator)
            for tasks, places in zip(self.distributions, rows, strict=True)
            if len(places)
        ]
        shapes = {tuple(leaf.shape[1:] for leaf in leaves(part)) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"The tasks of a mixture have different shapes, {sorted(shapes)}: give all of "
                "them as many shots and queries, and the same features and targets, or give "
                "together=True."
            )
        order = torch.cat(rows).argsort()  # the order of `kind`
        return tree_map(lambda *part: torch.cat(part)[order.to(part[0].device)], *parts)

    def to(self, device: torch.device | str) -> Self:
        """Move the data of all distributions to a device."""
        for tasks in self.distributions:
            tasks.to(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return the entries that all cards share, and the others numbered by distribution."""
        cards = [tasks.card() for tasks in self.distributions]
        shared = {
            key: value
            for key, value in cards[0].items()
            if key != "tasks" and all(card.get(key) == value for card in cards)
        }
        different = {
            f"{key} {number}": value
            for number, card in enumerate(cards, 1)
            for key, value in card.items()
            if key not in shared
        }
        return {"tasks": f"mixture of {len(cards)}", **shared, **different}
