"""Streams: data that arrives one experience after another, each with a test of its own.

The scenarios are those of van de Ven & Tolias (2019, arXiv:1904.07734). New classes with each
experience: `class_incremental` (and the task-incremental scenario, if `evaluate_stream` tells
which experience's classes are asked). The same labels in changing surroundings, the
domain-incremental one: `split_domains`, `permuted`, `rotated`. `recurring` has no clear tasks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution
from quickstudy.core.tree import tree_map
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.few_shot import Normalise, _prepared


class Stream(Sequence[Task[Examples]]):
    """Experiences in order, made when they are asked for: of each the support set is what
    arrives, and the query set is its test. Every label has as many columns as the stream has
    classes, those to come included.

    A stream is any iterable of such tasks; this one is drawn from two data sets by a seed. Make
    it by one of the functions of this module.
    """

    def __init__(
        self,
        train: Labelled,
        test: Labelled,
        rows: Sequence[tuple[Tensor, Tensor]],
        card: dict[str, Json],
        *,
        columns: Tensor | None = None,
        change: Callable[[int, Tensor], Tensor] | None = None,
        normalise: Normalise | None = None,
    ):
        self.train, self.test, self.rows, self._card = train, test, rows, card
        self.columns = torch.arange(len(train.classes)) if columns is None else columns
        self._width = int(self.columns.max()) + 1
        self._change, self._normalise = change, normalise
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Task[Examples]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given, asked = self.rows[number]
        place = number % len(self)
        return Task(self._of(self.train, given, place), self._of(self.test, asked, place))

    def to(self, device: torch.device | str) -> Self:
        """The device where experiences are put; `self`."""
        self._device = torch.device(device)
        return self

    def card(self) -> dict[str, Json]:
        """What a reader must know of this stream to compare numbers measured on it."""
        return self._card

    def _of(self, data: Labelled, rows: Tensor, number: int) -> Examples:
        x = _prepared(data.x[rows], self._normalise)
        if self._change is not None:
            x = self._change(number, x)
        x = x.to(self._device)
        y = F.one_hot(self.columns[data.y[rows]], self._width).to(x)
        return Examples(x, y, torch.ones_like(y[:, 0]))


def class_incremental(
    train: Labelled,
    test: Labelled,
    *,
    per_task: int = 2,
    tasks: int | None = None,
    examples: int | None = None,
    blur: float = 0.0,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """New classes with each experience, in random order, as columns 0, 1, ... in the order in
    which they come.

    Args:
        train: what arrives; each example once.
        test: other examples of the same classes, all of which are asked.
        per_task: classes of an experience; with 1, examples come class after class.
        tasks: experiences; None: as many as there are classes for.
        examples: of a class, drawn at random; None: all.
        blur: how far examples stray into neighbouring experiences: the standard deviation of
            an example's time of arrival, where an experience takes 1. Tests stay as they are.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: there are too few classes, or examples of a class.
    """
    generator = _generator(seed)
    _check_same(train, test)
    count = len(train.classes) // per_task if tasks is None else tasks
    if not 1 <= count * per_task <= len(train.classes) or per_task < 1:
        raise ValueError(
            f"{count} tasks of {per_task} classes were asked for, but {train.name} has "
            f"{len(train.classes)}. Lower `tasks` or `per_task`."
        )
    order = torch.randperm(len(train.classes), generator=generator)[: count * per_task]
    given = [
        _shuffled(torch.cat([_some(train, c, examples, generator) for c in part]), generator)
        for part in order.split(per_task)
    ]
    asked = [torch.isin(test.y, part).nonzero().flatten() for part in order.split(per_task)]
    if blur:
        sizes = [len(rows) for rows in given]
        time = torch.cat([
            number + torch.rand(size, generator=generator) for number, size in enumerate(sizes)
        ])  # fmt: skip
        time = time + blur * torch.randn(len(time), generator=generator)
        given = list(torch.cat(given)[time.argsort()].split(sizes))
    columns = torch.full((len(train.classes),), 0)
    columns[order] = torch.arange(len(order))
    card = _card("class-incremental", train, test, count, seed) | {"classes of each": per_task}
    card |= {"examples of a class": examples} if examples else {}
    card |= {"blur": blur} if blur else {}
    return Stream(
        train,
        test,
        list(zip(given, asked, strict=True)),
        card,
        columns=columns,
        normalise=normalise,
    )


def split_domains(
    train: Labelled,
    test: Labelled,
    *,
    per_task: int = 2,
    tasks: int | None = None,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """Other classes with each experience under the same labels: is it the first or the second
    of its kind? Otherwise as `class_incremental`.

    Raises:
        ValueError: there are too few classes.
    """
    whole = class_incremental(train, test, per_task=per_task, tasks=tasks, seed=seed)
    return Stream(
        train,
        test,
        whole.rows,
        whole.card() | {"tasks": "domain-incremental, split"},
        columns=whole.columns % per_task,
        normalise=normalise,
    )


def permuted(
    train: Labelled,
    test: Labelled,
    *,
    tasks: int = 20,
    examples: int | None = None,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """All classes in each experience, with the features in another random order (Goodfellow et
    al., 2013, arXiv:1312.6211). Arguments as of `rotated`."""
    generator = _generator(seed)
    size = train.x[0].numel()
    orders = [torch.randperm(size, generator=generator) for _ in range(tasks)]

    def change(number: int, x: Tensor) -> Tensor:
        return x.flatten(1)[:, orders[number]].reshape(x.shape)

    card = _card("domain-incremental, permuted", train, test, tasks, seed)
    return _domains(card, train, test, tasks, examples, change, normalise)


def rotated(
    train: Labelled,
    test: Labelled,
    *,
    tasks: int = 20,
    examples: int | None = None,
    most: float = 180.0,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """All classes in each experience, the images turned by another angle (Lopez-Paz & Ranzato,
    2017, arXiv:1706.08840): one drawn from each of `tasks` equal parts of 0 to `most` degrees,
    in rising order.

    Args:
        train: square images that arrive.
        test: other images of the same classes, all of which are asked at each experience.
        examples: that arrive with an experience, drawn anew for each; None: all of `train`.
        most: in degrees.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: too few examples, or they are no images.
    """
    if train.x.ndim != 4:
        raise ValueError(
            f"{train.name} has examples of shape {tuple(train.x.shape[1:])}: only images "
            "(channels, height, width) can be turned."
        )
    parts = torch.rand(tasks, generator=_generator(seed))
    angles = (torch.arange(tasks) + parts) * (most / tasks)

    def change(number: int, x: Tensor) -> Tensor:
        return turned(x, float(angles[number]))

    card = _card("domain-incremental, rotated", train, test, tasks, seed) | {"degrees": most}
    return _domains(card, train, test, tasks, examples, change, normalise)


def recurring(
    train: Labelled,
    test: Labelled,
    *,
    tasks: int = 20,
    examples: int = 100,
    stay: float = 0.9,
    tail: float = 1.0,
    drift: float = 0.0,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """As data come in the world: in bouts of one class, which comes again, the frequent ones
    often and the rare ones seldom, new ones to the end, under surroundings that drift. Where an
    experience ends says nothing. Its test are the test examples of all classes in it, as they
    look then.

    Args:
        tasks: experiences.
        examples: of each experience.
        stay: the probability that the next example is of the same class.
        tail: the exponent of Zipf's law, by which the next bout's class is drawn among those
            known and one that is new.
        drift: degrees by which images have turned from one experience to the next.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: `stay` is no probability, or images are to be turned that are none.
    """
    if not 0 <= stay < 1:
        raise ValueError(f"stay={stay} is a probability: give a number from 0 to below 1.")
    if drift and train.x.ndim != 4:
        raise ValueError("Only images (channels, height, width) can drift: leave drift=0.")
    _check_same(train, test)
    generator = _generator(seed)
    classes = len(train.classes)
    order = torch.randperm(classes, generator=generator)
    law = torch.arange(1, classes + 1).double() ** -tail
    total = tasks * examples
    moves = (torch.rand(total, generator=generator) >= stay).tolist()
    draws = torch.rand(total, generator=generator, dtype=torch.float64)
    found, known, now = [], 1, 0
    for number in range(total):
        if moves[number]:
            shares = law[: min(known + 1, classes)].cumsum(0)
            now = int(torch.searchsorted(shares, draws[number] * shares[-1]))
            known = max(known, now + 1)
        found.append(now)
    label = order[torch.tensor(found)]  # (total,)
    rows = torch.empty(total, dtype=torch.int64)
    for c in label.unique().tolist():  # each example before any comes twice
        own, places = (train.y == c).nonzero().flatten(), (label == c).nonzero().flatten()
        times = math.ceil(len(places) / len(own))
        again = [_shuffled(own, generator) for _ in range(times)]
        rows[places] = torch.cat(again)[: len(places)]
    given = list(rows.split(examples))
    asked = [
        torch.isin(test.y, part.unique()).nonzero().flatten() for part in label.split(examples)
    ]
    columns = torch.empty(classes, dtype=torch.int64)
    columns[order] = torch.arange(classes)
    card = _card("recurring classes", train, test, tasks, seed)
    card |= {"examples of each": examples, "stay": stay, "tail": tail, "drift": drift}
    return Stream(
        train,
        test,
        list(zip(given, asked, strict=True)),
        card,
        columns=columns,
        change=(lambda number, x: turned(x, number * drift)) if drift else None,
        normalise=normalise,
    )


def turned(x: Tensor, degrees: float) -> Tensor:
    """Images (N, C, H, W) turned counter-clockwise about their centre, bilinearly; what comes
    in from outside is 0."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    wide = x.shape[-1] / x.shape[-2]
    matrix[0, 1] /= wide
    matrix[1, 0] *= wide
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


class Streams(TaskDistribution):
    """Streams, each by its seed, such as `Streams(partial(permuted, train, test))`.

    As tasks to `sample` they are first experiences; `evaluate_stream` follows them to the end.
    """

    def __init__(self, make: Callable[..., Stream]):
        self.make = make
        self._device = torch.device("cpu")

    def stream(self, seed: int) -> Stream:
        """The stream of a seed."""
        return self.make(seed=seed).to(self._device)

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """The first experiences of `n_tasks` streams.

        Raises:
            ValueError: they are not all of one size.
        """
        seeds = torch.randint(2**31, (n_tasks,), generator=generator).tolist()
        first = [self.stream(seed)[0] for seed in seeds]
        if len({task.support.x.shape + task.query.x.shape for task in first}) > 1:
            raise ValueError(
                "The first experiences of these streams are of different sizes: give "
                "`examples`, or take one stream at a time."
            )
        return tree_map(lambda *leaves: torch.stack(leaves), *first)

    def to(self, device: torch.device | str) -> Self:
        """Has experiences put on a device."""
        self._device = torch.device(device)
        return self

    def card(self) -> dict[str, Json]:
        """That of every stream, without its seed."""
        return {key: value for key, value in self.make(seed=0).card().items() if key != "seed"}


def _domains(
    card: dict[str, Json],
    train: Labelled,
    test: Labelled,
    tasks: int,
    examples: int | None,
    change: Callable[[int, Tensor], Tensor],
    normalise: Normalise | None,
) -> Stream:
    """Experiences of all classes, each changed in its own way."""
    generator = _generator(card["seed"] + 1)  # + 1: not the draws of the changes
    _check_same(train, test)
    if examples is not None and not 1 <= examples <= len(train):
        raise ValueError(
            f"examples={examples}: {train.name} has {len(train)} to draw an experience from."
        )
    everything = torch.arange(len(test))
    rows = [
        (torch.randperm(len(train), generator=generator)[:examples], everything)
        for _ in range(tasks)
    ]
    card |= {"examples of each": examples} if examples else {}
    return Stream(train, test, rows, card, change=change, normalise=normalise)


def _some(data: Labelled, c: Tensor, examples: int | None, generator: Generator) -> Tensor:
    rows = (data.y == c).nonzero().flatten()
    if len(rows) < (examples or 1):
        raise ValueError(
            f"Class {data.classes[int(c)]!r} of {data.name} has {len(rows)} examples, and "
            f"{examples or 1} are needed: lower `examples`, or leave it out."
        )
    return _shuffled(rows, generator)[:examples]


def _shuffled(rows: Tensor, generator: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _check_same(train: Labelled, test: Labelled) -> None:
    if train.classes != test.classes:
        raise ValueError(
            f"What arrives ({train.name}) and what is asked ({test.name}) must have the same "
            "classes in the same order: `split_examples` makes such halves."
        )


def _card(kind: str, train: Labelled, test: Labelled, tasks: int, seed: int) -> dict[str, Json]:
    return {
        "tasks": kind,
        "dataset": train.name,
        "hash": f"{train.hash} {test.hash}",
        "experiences": tasks,
        "seed": seed,
    }
