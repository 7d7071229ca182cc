"""N-way K-shot classification tasks, drawn from a labelled data set.

Episodic sampling as in Vinyals et al. (2016, arXiv:1606.04080); variable ways and shots as in
Triantafillou et al. (2020, arXiv:1903.03096); unlabelled support as in Ren et al. (2018,
arXiv:1803.00676).
"""

import copy
from collections.abc import Callable, Iterator
from typing import Literal, Self, TypeAlias, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.core.task import Examples, Json, Task
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import (
    DatasetTasks,
    Inputs,
    Normalise,
    class_members,
    draw_rows,
    gather_rows,
    prepare,
    rotate,
)

Augment: TypeAlias = Callable[[Tensor, Generator], Tensor]
Rotations: TypeAlias = Literal["classes", "random", "task"]


class FewShot(DatasetTasks):
    """Tasks of `ways` classes with `shots` support and `queries` query examples per class. The
    two sets never share an example, and both are in random order.

    A few tensor operations draw a whole batch from the data set, which stays in memory. Images
    in bytes become floats in [0, 1].

    Args:
        dataset: where classes and examples come from.
        ways: classes of a task; (low, high): a number drawn for each task, inclusive. Then
            labels have `high` columns and absent classes' examples weight 0.
        shots: support examples of a class; (low, high): a number drawn for each task.
        queries: query examples of a class.
        unlabelled: further support examples of a class, whose rows of y are all zeros.
        distractors: further classes, of which the support has `unlabelled` examples and nothing
            else.
        imbalanced: draw the number of shots for each class of a task instead.
        rotations: "classes": each class turned by 90, 180 and 270 degrees is another class;
            "random": each class of a task is turned by a random multiple of 90 degrees;
            "task": all classes of a task by the same.
        within_groups: all classes of a task belong to one superclass (an alphabet, say),
            which is drawn uniformly.
        ordered: the classes of a task keep the order of the data set, so that a label means the
            same in all tasks of the same classes. Otherwise their order is random.
        normalise: (mean, standard deviation), subtracted from and divided into the examples;
            numbers, or tensors that broadcast with one example.
        augment: maps a batch of examples (T, N, *features) and the generator to other examples.

    Raises:
        ValueError: the data set has too few classes, or a class too few examples; or `ordered`
            with a number of ways that varies.

    Examples:
        >>> import quickstudy as qs
        >>> tasks = qs.FewShot(qs.datasets.digits(), ways=5, shots=1, queries=3)
        >>> task = tasks.sample(2, torch.Generator().manual_seed(0))
        >>> task.support.x.shape, task.query.y.shape
        (torch.Size([2, 5, 1, 8, 8]), torch.Size([2, 15, 5]))
    """

    def __init__(
        self,
        dataset: Labelled,
        ways: int | tuple[int, int] = 5,
        shots: int | tuple[int, int] = 1,
        queries: int = 15,
        *,
        unlabelled: int = 0,
        distractors: int = 0,
        imbalanced: bool = False,
        rotations: Rotations | None = None,
        within_groups: bool = False,
        ordered: bool = False,
        normalise: Normalise | None = None,
        augment: Augment | None = None,
    ):
        super().__init__(dataset, rotations, get_args(Rotations), normalise)
        self.queries = queries
        self.ways, self.shots = _bounds("ways", ways), _bounds("shots", shots)
        self.unlabelled, self.distractors = unlabelled, distractors
        self.imbalanced = imbalanced
        self.within_groups, self.ordered = within_groups, ordered
        self.augment = augment
        if queries < 1:
            raise ValueError(f"queries={queries}: a task needs at least one query per class.")
        if unlabelled < 0 or distractors < 0 or (distractors and not unlabelled):
            raise ValueError(
                f"unlabelled={unlabelled}, distractors={distractors}: give numbers from 0; "
                "distractors need unlabelled examples."
            )
        if ordered and self.ways[0] < self.ways[1]:
            raise ValueError(f"ways={ways}: give one number of ways for classes in order.")
        self._members, self._sizes = class_members(dataset)  # (K, most), (K,)
        self._check()
        self._has_inputs = False  # whether by `with_inputs`, so prepared and turned

    def inputs(self, size: int = 64) -> Iterator[Tensor]:
        """Yield every example as tasks have it (N, *features), `size` at a time; with
        `rotations`, all of them in each turn.

        Raises:
            ValueError: `augment` makes another example at every draw.
        """
        turns = 1 if self.rotations is None else 4
        for rows in torch.arange(turns * len(self.dataset)).split(size):
            yield self.input_rows(rows)

    def input_rows(self, rows: Tensor) -> Tensor:
        """Return the `inputs` of some rows (N,): (N, *features).

        Raises:
            ValueError: `augment` makes another example at every draw.
        """
        if self.augment is not None:
            raise ValueError(
                "These tasks change their examples at random when they are drawn: leave "
                "`augment` out to have each of them once."
            )
        count, images = len(self.dataset), self.dataset.x
        x = images.index_select(0, (rows % count).to(images.device))
        if self.rotations is not None:
            x = rotate(x[None], (rows // count).to(x.device)[None])[0]
        return prepare(x, self.normalise)

    def with_inputs(self, x: Inputs) -> Self:
        """Return these tasks with others, such as embeddings, in the place of `inputs`.

        Args:
            x: a tensor, or what returns some of its rows by `index_select`.
        """
        same = copy.copy(self)
        same._pixels, same._has_inputs = x, True
        return same

    def card(self) -> dict[str, Json]:
        """Return the data set, its hash, its split and the shape of a task."""
        facts = {
            "rotations": self.rotations,
            "within_groups": self.within_groups,
            "ordered": self.ordered,
            "imbalanced": self.imbalanced,
            "augmented": self.augment is not None,
            "unlabelled": self.unlabelled,
            "distractors": self.distractors,
        }
        return {
            **super().card(),
            "tasks": "few-shot",
            "ways": _as_json(self.ways),
            "shots": _as_json(self.shots),
            "queries": self.queries,
            **{key: value for key, value in facts.items() if value},
        }

    def sample(self, n_tasks: int, generator: Generator) -> Task[Examples]:
        """Draw `n_tasks` tasks. Support sets have (C + distractors) * (shots + unlabelled)
        examples, query sets C * queries, C being `ways`."""
        high, most = self.ways[1], self.shots[1]
        classes, turns = self._classes(n_tasks, generator)  # (T, C + distractors) each
        present = self._draw(self.ways, (n_tasks, 1), generator) > torch.arange(high)  # (T, C)
        shots = self._draw(self.shots, (n_tasks, high if self.imbalanced else 1), generator)

        size = most + self.queries + self.unlabelled
        rows = draw_rows(self._members, self._sizes, classes, size, generator)
        labelled, query, unlabelled = rows.split([most, self.queries, self.unlabelled], 2)

        real = (shots[..., None] > torch.arange(most)) & present[..., None]  # (T, C, shots)
        has_unlabelled = F.pad(present, (0, self.distractors), value=True)[..., None]
        real = torch.cat(
            [
                F.pad(real, (0, 0, 0, self.distractors)),
                has_unlabelled.expand_as(unlabelled),
            ],
            2,
        )
        return Task(
            self._examples(torch.cat([labelled, unlabelled], 2), real, most, turns, generator),
            self._examples(
                query[:, :high],
                present[..., None].expand(-1, -1, self.queries),
                self.queries,
                turns,
                generator,
            ),
        )

    def class_ids(self, n_tasks: int, generator: Generator) -> Tensor:
        """Return which classes of the data set the labels of each task stand for (T, C).

        The tasks are those that `sample` draws from the same state of the generator.

        Examples:
            >>> import quickstudy as qs
            >>> tasks = qs.FewShot(qs.datasets.digits(), 3, 1, 1, ordered=True)
            >>> ids = tasks.class_ids(2, torch.Generator().manual_seed(0))
            >>> ids.shape, bool((ids.diff() > 0).all())
            (torch.Size([2, 3]), True)
        """
        return self._classes(n_tasks, generator)[0][:, : self.ways[1]]

    def _classes(self, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw the classes of every task and the right angles by which each is turned."""
        scores = torch.rand(size, len(self._sizes) * self._copies, generator=generator)
        if self.within_groups:
            groups = self.dataset.groups
            assert groups is not None  # by _check
            large = torch.nonzero(
                torch.bincount(groups) * self._copies >= self._needed
            ).flatten()
            group = large[torch.randint(len(large), (size, 1), generator=generator)]  # (T, 1)
            scores.masked_fill_(groups.repeat(self._copies) != group, -1)
        picks = scores.topk(self._needed).indices
        if self.ordered:  # the distractors stay behind
            labelled, others = picks.split([self.ways[1], self.distractors], 1)
            picks = torch.cat([labelled.sort(1).values, others], 1)
        if self.rotations == "random":
            return picks, torch.randint(4, picks.shape, generator=generator)
        if self.rotations == "task":
            return picks, torch.randint(4, (size, 1), generator=generator).expand_as(picks)
        return picks % len(self._sizes), picks // len(self._sizes)

    def _examples(
        self, rows: Tensor, real: Tensor, labelled: int, turns: Tensor, generator: Generator
    ) -> Examples:
        """Return the examples in `rows` (T, C, S), shuffled within each task: (T, C * S). The
        first `labelled` of S have labels."""
        tasks, ways, per_class = rows.shape
        order = torch.rand(tasks, ways * per_class, generator=generator).argsort(1)
        label = order // per_class  # (T, N)
        rows, weight = rows.flatten(1).gather(1, order), real.flatten(1).gather(1, order)
        if self._has_inputs and self.rotations is not None:
            rows = rows + len(self.dataset) * turns.gather(1, label)
        x = gather_rows(self._pixels, rows)  # (T, N, *features)
        if not self._has_inputs:
            if self.rotations is not None:
                x = rotate(x, turns.gather(1, label).to(x.device))
            x = prepare(x, self.normalise)
        if self.augment is not None:
            x = self.augment(x, generator)
        weight = weight.to(x)
        has_label = weight * (order % per_class < labelled).to(x)
        y = F.one_hot(label, ways)[..., : self.ways[1]].to(x)
        return Examples(x, y * has_label[..., None], weight)

    @property
    def _needed(self) -> int:
        """Return the classes per task, distractors included."""
        return self.ways[1] + self.distractors

    @staticmethod
    def _draw(bounds: tuple[int, int], shape: tuple[int, ...], generator: Generator) -> Tensor:
        return torch.randint(bounds[0], bounds[1] + 1, shape, generator=generator)

    def _check(self) -> None:
        data = self.dataset
        need = self.shots[1] + self.queries + self.unlabelled
        small = torch.nonzero(self._sizes < need).flatten().tolist()
        if small:
            raise ValueError(
                f"{len(small)} of {len(self._sizes)} classes have fewer than "
                f"{self.shots[1]} shots + {self.queries} queries"
                f"{f' + {self.unlabelled} unlabelled' if self.unlabelled else ''} = {need} "
                "examples, "
                f"such as {data.classes[small[0]]!r} with {int(self._sizes[small[0]])}. "
                "Lower these numbers, or leave these classes out."
            )
        most = len(self._sizes)
        if self.within_groups:
            if data.groups is None:
                raise ValueError(
                    f"within_groups needs superclasses, which {data.name!r} has not."
                )
            most = int(torch.bincount(data.groups).max())
        if most * self._copies < self._needed:
            where = "its largest superclass" if self.within_groups else "the data set"
            raise ValueError(
                f"{self.ways[1]} ways"
                f"{f' + {self.distractors} distractors' if self.distractors else ''} "
                f"were asked for, but {where} has {most * self._copies} classes. "
                "Lower ways or add classes."
            )


def _bounds(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    low, high = (value, value) if isinstance(value, int) else value
    least = 2 if name == "ways" else 1
    if not least <= low <= high:
        raise ValueError(
            f"{name}={value!r}: give a number from {least}, or (low, high) in order."
        )
    return low, high


def _as_json(bounds: tuple[int, int]) -> Json:
    return bounds[0] if bounds[0] == bounds[1] else list(bounds)
