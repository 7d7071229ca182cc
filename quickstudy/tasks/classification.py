"""Ordinary supervised classification as a task distribution: one task has all classes.

For learners that first train a classifier of the training classes, and then use its embedding:
the classes of `FewShot` are new in every task, those here are the same in all.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import (
    FixedLabelTasks,
    Normalise,
    fixed_label_examples,
)
from quickstudy.tasks.few_shot import Augment


class Classification(FixedLabelTasks):
    """Supervised classification: support and query set are mini-batches of a data set.

    No example is in both. Column c of the labels is class c of the data set in every task.

    Args:
        dataset: where classes and examples come from.
        examples: examples in the support set, and as many in the query set.
        rotations: "classes": each class turned by 90, 180 and 270 degrees is another class, in
            column c + K, c + 2 K or c + 3 K, of K classes.
        normalise: as in `FewShot`.
        augment: as in `FewShot`.

    Raises:
        ValueError: the data set has too few examples.

    Examples:
        >>> import quickstudy as qs
        >>> tasks = qs.tasks.Classification(qs.datasets.digits(), 32)
        >>> tasks.sample(1, torch.Generator().manual_seed(0)).support.y.shape
        torch.Size([1, 32, 10])
    """

    def __init__(
        self,
        dataset: Labelled,
        examples: int = 128,
        *,
        rotations: Literal["classes"] | None = None,
        normalise: Normalise | None = None,
        augment: Augment | None = None,
    ):
        super().__init__(dataset, rotations, normalise)
        self.examples, self.augment = examples, augment
        most = len(dataset) * self._copies // 2
        if not 1 <= examples <= most:
            raise ValueError(
                f"examples={examples}: {dataset.name} has enough for 1 to {most} in the "
                "support set and as many in the query set."
            )

    def card(self) -> dict[str, Json]:
        """Return the data set, its hash, its split and the size of a batch."""
        facts = {"rotations": self.rotations, "augmented": self.augment is not None}
        return {
            **super().card(),
            "tasks": "classification",
            "examples": self.examples,
            **{key: value for key, value in facts.items() if value},
        }

    def sample(self, n_tasks: int, generator: Generator) -> Task[Examples]:
        """Draw `n_tasks` tasks; labels (T, N, C) have a column for every class."""
        scores = torch.rand(n_tasks, len(self.dataset) * self._copies, generator=generator)
        picks = scores.topk(2 * self.examples).indices  # distinct, in random order
        support, query = picks.chunk(2, 1)  # (T, N) each
        return Task(self._examples(support, generator), self._examples(query, generator))

    def _examples(self, picks: Tensor, generator: Generator) -> Examples:
        rows, turns = picks % len(self.dataset), picks // len(self.dataset)
        x = self._inputs(rows, turns)
        if self.augment is not None:
            x = self.augment(x, generator)
        return fixed_label_examples(self.dataset, x, rows, turns, self.classes)
