"""Scenarios of lifelong learning, those of van de Ven & Tolias (2019, arXiv:1904.07734).

Class-incremental: new classes with each experience, by `class_incremental` (task-incremental,
if `evaluate_stream` gets `task_incremental=True`). Domain-incremental: the same labels for
changing inputs, by `split_domains`, `permuted` or `rotated`. `recurring` has no clear tasks.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.core.task import Json
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.few_shot import Normalise
from quickstudy.tasks.streams import Stream


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
    """New classes with each experience, in random order. Their columns are 0, 1, ... in the
    order in which they come.

    Args:
        train: what arrives; each example once.
        test: other examples of the same classes, all of which are queries.
        per_task: classes of an experience; with 1, examples come class after class.
        tasks: experiences; None: as many as there are classes for.
        examples: of a class, drawn at random; None: all.
        blur: the standard deviation of an example's time of arrival, where an experience takes
            1: examples come in neighbouring experiences. Tests are not blurred.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: there are too few classes, or examples of a class.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.class_incremental(train, test, per_task=2, examples=10)
        >>> [sorted(set(task.support.y.argmax(1).tolist())) for task in stream]
        [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    """
    generator = Generator().manual_seed(seed)
    _check_same_classes(train, test)
    count = len(train.classes) // per_task if tasks is None else tasks
    if not 1 <= count * per_task <= len(train.classes) or per_task < 1:
        raise ValueError(
            f"{count} tasks of {per_task} classes were requested, but {train.name} has "
            f"{len(train.classes)}. Lower `tasks` or `per_task`."
        )
    order = torch.randperm(len(train.classes), generator=generator)[: count * per_task]
    parts = order.split(per_task)
    support = [
        _shuffle(torch.cat([_rows_of(train, c, examples, generator) for c in part]), generator)
        for part in parts
    ]
    if blur:
        sizes = [len(rows) for rows in support]
        time = torch.cat([
            number + torch.rand(size, generator=generator) for number, size in enumerate(sizes)
        ])  # fmt: skip
        time = time + blur * torch.randn(len(time), generator=generator)
        support = list(torch.cat(support)[time.argsort()].split(sizes))
    card = {
        **_card("class-incremental", train, test, count, seed),
        "classes of each": per_task,
        **({"examples of a class": examples} if examples else {}),
        **({"blur": blur} if blur else {}),
    }
    return _stream(train, test, support, parts, order, card, normalise=normalise)


def split_domains(
    train: Labelled,
    test: Labelled,
    *,
    per_task: int = 2,
    tasks: int | None = None,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """Other classes with each experience under the same labels 0 to `per_task` - 1. Otherwise
    as `class_incremental`.

    Raises:
        ValueError: there are too few classes.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.split_domains(train, test)
        >>> [task.query.y.shape[1] for task in stream]
        [2, 2, 2, 2, 2]
    """
    classes = class_incremental(train, test, per_task=per_task, tasks=tasks, seed=seed)
    return Stream(
        train,
        test,
        classes.rows,
        classes.card() | {"tasks": "domain-incremental, split"},
        columns=classes.columns % per_task,
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
    al., 2013, arXiv:1312.6211). Arguments as of `rotated`.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.permuted(train, test, tasks=3, examples=100)
        >>> first, second = stream[0].query, stream[1].query
        >>> torch.equal(first.y, second.y), torch.equal(first.x, second.x)
        (True, False)
    """
    generator = Generator().manual_seed(seed)
    orders = [torch.randperm(train.x[0].numel(), generator=generator) for _ in range(tasks)]

    def permute(number: int, x: Tensor) -> Tensor:
        return x.flatten(1)[:, orders[number]].reshape(x.shape)

    card = _card("domain-incremental, permuted", train, test, tasks, seed)
    return _domains(card, train, test, examples, permute, normalise)


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
    """All classes in each experience, the images rotated by another angle (Lopez-Paz & Ranzato,
    2017, arXiv:1706.08840): one drawn from each of `tasks` equal parts of 0 to `most` degrees,
    in rising order.

    Args:
        train: square images that arrive.
        test: other images of the same classes, all of which are queries of each experience.
        tasks: experiences.
        examples: that arrive with an experience, a new draw for each; None: all of `train`.
        most: in degrees.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: there are too few examples, or they are no images.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.rotated(train, test, tasks=4, examples=50, most=90)
        >>> len(stream), stream[0].support.x.shape, stream.card()["degrees"]
        (4, torch.Size([50, 1, 8, 8]), 90)
    """
    if train.x.ndim != 4:
        raise ValueError(
            f"{train.name} has examples of shape {tuple(train.x.shape[1:])}: only images "
            "(channels, height, width) can be rotated."
        )
    parts = torch.rand(tasks, generator=Generator().manual_seed(seed))
    angles = (torch.arange(tasks) + parts) * (most / tasks)

    def rotate(number: int, x: Tensor) -> Tensor:
        return rotate_images(x, float(angles[number]))

    card = _card("domain-incremental, rotated", train, test, tasks, seed) | {"degrees": most}
    return _domains(card, train, test, examples, rotate, normalise)


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
    """Runs of one class. Frequent classes return often and rare ones seldom, new classes appear
    until the end, and inputs drift. Boundaries of experiences carry no information. The test of
    an experience has the test examples of all its classes, with the drift at that time.

    Args:
        train: what arrives.
        test: other examples of the same classes.
        tasks: experiences.
        examples: of each experience.
        stay: the probability that the next example is of the same class.
        tail: the exponent of Zipf's law, by which the class of the next run is drawn from the
            classes seen so far and one that is new.
        drift: degrees by which images are rotated further with each experience.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: `stay` is no probability, or `drift` is given for data that are no images.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.recurring(train, test, tasks=5, examples=20, stay=0.5)
        >>> counts = sum(task.support.y.sum(0) for task in stream)
        >>> int(counts.sum()), bool(counts[0] > counts[5])
        (100, True)
    """
    if not 0 <= stay < 1:
        raise ValueError(f"stay={stay} is a probability: give a number from 0 to below 1.")
    if drift and train.x.ndim != 4:
        raise ValueError("Only images (channels, height, width) can drift: leave drift=0.")
    _check_same_classes(train, test)
    generator = Generator().manual_seed(seed)
    classes = len(train.classes)
    order = torch.randperm(classes, generator=generator)
    zipf = torch.arange(1, classes + 1).double() ** -tail
    total = tasks * examples
    moves = (torch.rand(total, generator=generator) >= stay).tolist()
    draws = torch.rand(total, generator=generator, dtype=torch.float64)
    ranks, seen, rank = [], 1, 0  # the class of each example, by its place in `order`
    for number in range(total):
        if moves[number]:
            cumulative = zipf[: min(seen + 1, classes)].cumsum(0)
            rank = int(torch.searchsorted(cumulative, draws[number] * cumulative[-1]))
            seen = max(seen, rank + 1)
        ranks.append(rank)
    label = order[torch.tensor(ranks)]  # (total,)
    rows = torch.empty(total, dtype=torch.int64)
    for c in label.unique().tolist():  # each example comes before any comes twice
        members, places = (train.y == c).nonzero().flatten(), (label == c).nonzero().flatten()
        drawn = torch.cat(
            [_shuffle(members, generator) for _ in range(math.ceil(len(places) / len(members)))]
        )
        rows[places] = drawn[: len(places)]
    card = _card("recurring classes", train, test, tasks, seed) | {
        "examples of each": examples,
        "stay": stay,
        "tail": tail,
        "drift": drift,
    }
    return _stream(
        train,
        test,
        rows.split(examples),
        label.split(examples),
        order,
        card,
        change=(lambda number, x: rotate_images(x, number * drift)) if drift else None,
        normalise=normalise,
    )


def rotate_images(x: Tensor, degrees: float) -> Tensor:
    """Rotate images (N, C, H, W) counter-clockwise about their centre, bilinearly, with 0
    outside.

    Examples:
        >>> x = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])  # the upper right corner
        >>> rotate_images(x, 90)[0, 0].round().abs()
        tensor([[1., 0.],
                [0., 0.]])
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    aspect = x.shape[-1] / x.shape[-2]
    matrix[0, 1] /= aspect
    matrix[1, 0] *= aspect
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _stream(
    train: Labelled,
    test: Labelled,
    support: Sequence[Tensor],
    classes: Sequence[Tensor],
    order: Tensor,
    card: dict[str, Json],
    *,
    change: Callable[[int, Tensor], Tensor] | None = None,
    normalise: Normalise | None = None,
) -> Stream:
    """A stream whose tests have all test examples of the classes of each experience. Columns
    are places in `order`."""
    query = [torch.isin(test.y, part).nonzero().flatten() for part in classes]
    columns = torch.zeros(len(train.classes), dtype=torch.int64)
    columns[order] = torch.arange(len(order))
    return Stream(
        train,
        test,
        list(zip(support, query, strict=True)),
        card,
        columns=columns,
        change=change,
        normalise=normalise,
    )


def _domains(
    card: dict[str, Json],
    train: Labelled,
    test: Labelled,
    examples: int | None,
    change: Callable[[int, Tensor], Tensor],
    normalise: Normalise | None,
) -> Stream:
    """Experiences of all classes, whose inputs `change` with the number of the experience."""
    generator = Generator().manual_seed(card["seed"] + 1)  # + 1: independent of the changes
    _check_same_classes(train, test)
    if examples is not None and not 1 <= examples <= len(train):
        raise ValueError(
            f"examples={examples}: {train.name} has {len(train)} to draw an experience from."
        )
    query = torch.arange(len(test))
    rows = [
        (torch.randperm(len(train), generator=generator)[:examples], query)
        for _ in range(card["experiences"])
    ]
    card |= {"examples of each": examples} if examples else {}
    return Stream(train, test, rows, card, change=change, normalise=normalise)


def _rows_of(data: Labelled, c: Tensor, examples: int | None, generator: Generator) -> Tensor:
    """Return the rows of a class, in random order."""
    rows = (data.y == c).nonzero().flatten()
    if len(rows) < (examples or 1):
        raise ValueError(
            f"Class {data.classes[int(c)]!r} of {data.name} has {len(rows)} examples, and "
            f"{examples or 1} are needed: lower `examples`, or leave it out."
        )
    return _shuffle(rows, generator)[:examples]


def _shuffle(rows: Tensor, generator: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def _check_same_classes(train: Labelled, test: Labelled) -> None:
    if train.classes != test.classes:
        raise ValueError(
            f"The training data ({train.name}) and the test data ({test.name}) must have the "
            "same classes in the same order: `split_examples` makes such halves."
        )


def _card(kind: str, train: Labelled, test: Labelled, tasks: int, seed: int) -> dict[str, Json]:
    return {
        "tasks": kind,
        "dataset": train.name,
        "hash": f"{train.hash} {test.hash}",
        "experiences": tasks,
        "seed": seed,
    }
