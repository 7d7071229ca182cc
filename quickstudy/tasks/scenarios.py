"""Scenarios of lifelong learning, those of van de Ven & Tolias (2019, arXiv:1904.07734).

Class-incremental: new classes with each experience, by `class_incremental` (task-incremental,
if `evaluate_stream` gets `task_incremental=True`). Domain-incremental: the same labels for
changing inputs, by `split_domains`, `permuted` or `rotated`.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Json
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import Normalise, rotate_images
from quickstudy.tasks.streams import Stream, shuffled, stream_by_class, stream_card


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
    count = len(train.classes) // max(1, per_task) if tasks is None else tasks
    if not 1 <= per_task <= count * per_task <= len(train.classes):
        raise ValueError(
            f"{count} tasks of {per_task} classes were requested, but {train.name} has "
            f"{len(train.classes)}. Lower `tasks` or `per_task`."
        )
    card = stream_card("class-incremental", train, test, count, seed)
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(train.classes), generator=generator)[: count * per_task]
    parts = order.split(per_task)
    support = [
        shuffled(torch.cat([_rows_of(train, c, examples, generator) for c in part]), generator)
        for part in parts
    ]
    if blur:
        sizes = [len(rows) for rows in support]
        time = torch.cat([
            number + torch.rand(size, generator=generator) for number, size in enumerate(sizes)
        ])  # fmt: skip
        time = time + blur * torch.randn(len(time), generator=generator)
        support = list(torch.cat(support)[time.argsort()].split(sizes))
    card |= {
        "classes of each": per_task,
        **({} if examples is None else {"examples of a class": examples}),
        **({"blur": blur} if blur else {}),
    }
    return stream_by_class(train, test, support, parts, order, card, normalise=normalise)


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
    card = stream_card("domain-incremental, permuted", train, test, tasks, seed)
    generator = Generator().manual_seed(seed)
    orders = [torch.randperm(train.x[0].numel(), generator=generator) for _ in range(tasks)]

    def permute(number: int, x: Tensor) -> Tensor:
        return x.flatten(1)[:, orders[number]].reshape(x.shape)

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
    card = stream_card("domain-incremental, rotated", train, test, tasks, seed)
    parts = torch.rand(tasks, generator=Generator().manual_seed(seed))
    angles = (torch.arange(tasks) + parts) * (most / tasks)

    def rotate(number: int, x: Tensor) -> Tensor:
        return rotate_images(x, float(angles[number]))

    card = stream_card("domain-incremental, rotated", train, test, tasks, seed) | {
        "degrees": most
    }
    return _domains(card, train, test, examples, rotate, normalise)


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
    if examples is not None and not 1 <= examples <= len(train):
        raise ValueError(
            f"examples={examples}: {train.name} has {len(train)} to draw an experience from."
        )
    query = torch.arange(len(test))
    rows = [
        (torch.randperm(len(train), generator=generator)[:examples], query)
        for _ in range(card["experiences"])
    ]
    card |= {} if examples is None else {"examples of each": examples}
    return Stream(train, test, rows, card, change=change, normalise=normalise)


def _rows_of(data: Labelled, c: Tensor, examples: int | None, generator: Generator) -> Tensor:
    """Return the rows of a class, in random order."""
    rows, least = (data.y == c).nonzero().flatten(), 1 if examples is None else examples
    if not 1 <= least <= len(rows):
        raise ValueError(
            f"Class {data.classes[int(c)]!r} of {data.name} has {len(rows)} examples, and "
            f"{least} are needed: lower `examples`, to 1 at least, or leave it out."
        )
    return shuffled(rows, generator)[:examples]
