"""Short streams to meta-train lifelong learners on (Javed & White, 2019, arXiv:1905.12588)."""

from typing import Literal

import torch
from torch import Generator

from quickstudy.core.task import Examples, Json, Task
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import (
    FixedLabelTasks,
    Normalise,
    class_members,
    draw_rows,
    fixed_label_examples,
)


class OnlineTrajectoryTasks(FixedLabelTasks):
    """Tasks of a few classes to learn one after the other, without forgetting the rest.

    The support set has `shots` examples of each of `ways` classes, class after class. The query
    set has these again, then `replay_examples` random examples of the whole data set. Column c
    of the labels is always class c of the data set.

    Args:
        dataset: where classes and examples come from.
        ways: classes to learn.
        shots: different examples of each.
        replay_examples: additional query examples, drawn with replacement.
        rotations: "classes": each class rotated by 90, 180 and 270 degrees is another class, in
            column c + K, c + 2 K or c + 3 K, of K classes.
        normalise: as in `FewShot`.

    Raises:
        ValueError: the data set has too few classes, or a class too few examples.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> tasks = qs.tasks.OnlineTrajectoryTasks(
        ...     qs.datasets.digits(), ways=2, shots=3, replay_examples=4
        ... )
        >>> batch = tasks.sample(5, torch.Generator().manual_seed(0))
        >>> batch.support.x.shape, batch.query.y.shape
        (torch.Size([5, 6, 1, 8, 8]), torch.Size([5, 10, 10]))
    """

    def __init__(
        self,
        dataset: Labelled,
        ways: int = 1,
        shots: int = 20,
        replay_examples: int = 64,
        *,
        rotations: Literal["classes"] | None = None,
        normalise: Normalise | None = None,
    ):
        super().__init__(dataset, rotations, normalise)
        self.ways, self.shots, self.replay_examples = ways, shots, replay_examples
        self._members, self._sizes = class_members(dataset)  # (K, most), (K,)
        fewest = int(self._sizes.min())
        if not (1 <= ways <= self.classes and 1 <= shots <= fewest and replay_examples >= 0):
            raise ValueError(
                f"ways={ways}, shots={shots}, replay_examples={replay_examples}: "
                f"{dataset.name} has enough for 1 to {self.classes} ways of 1 to {fewest} "
                "shots, and any number of `replay_examples`."
            )

    def card(self) -> dict[str, Json]:
        """Return the data set, its hash, its split, and the shape of a trajectory."""
        return {
            **super().card(),
            "tasks": "trajectories",
            "ways": self.ways,
            "shots": self.shots,
            "remember": self.replay_examples,
            **({"rotations": self.rotations} if self.rotations else {}),
        }

    def sample(self, n_tasks: int, generator: Generator) -> Task[Examples]:
        """Draw `n_tasks` tasks of C * shots support and C * shots + replay_examples query
        examples, with C = `ways`. Labels have a column for every class of the data set."""
        n_classes = len(self._sizes)
        scores = torch.rand(n_tasks, self.classes, generator=generator)
        picks = scores.topk(self.ways).indices  # (T, C)
        classes, turns = picks % n_classes, picks // n_classes
        rows = draw_rows(self._members, self._sizes, classes, self.shots, generator)
        rows = rows.flatten(1)  # (T, C * shots)
        turns = turns.repeat_interleave(self.shots, 1)
        shape = (n_tasks, self.replay_examples)
        replay_rows = torch.randint(len(self.dataset), shape, generator=generator)
        replay_turns = torch.randint(self._copies, shape, generator=generator)
        rows_and_replay = torch.cat([rows, replay_rows], 1)
        all_turns = torch.cat([turns, replay_turns], 1)
        query = fixed_label_examples(
            self.dataset,
            self._inputs(rows_and_replay, all_turns),
            rows_and_replay,
            all_turns,
            self.classes,
        )
        return Task(Examples(*(leaf[:, : rows.shape[1]].clone() for leaf in query)), query)
