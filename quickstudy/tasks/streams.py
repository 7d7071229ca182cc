"""Streams: data that arrives one experience after another, each with its test."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution, check_seed
from quickstudy.core.tree import tree_map
from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import Normalise, prepare


class Stream(Sequence[Task[Examples]]):
    """Experiences in order, made when they are needed. The support set of each is what arrives,
    the query set is its test. Every label has a column for each class of the whole stream.

    A stream is any iterable of such tasks; this one is drawn from two data sets by a seed. The
    functions of `quickstudy.tasks.scenarios` and `recurring_classes` make them.

    Args:
        train: what arrives.
        test: other examples of the same classes.
        rows: of each experience, the rows of `train` and of `test`.
        card: what a reader must know to compare results.
        columns: of each class, its column in the labels; None: its index.
        change: maps the number of an experience and inputs to the inputs as they look then.
        normalise: as in `FewShot`.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> rows = [(torch.arange(5), torch.arange(3)), (torch.arange(5, 9), torch.arange(3))]
        >>> stream = qs.tasks.Stream(train, test, rows, {})
        >>> len(stream), stream[1].support.x.shape, stream[1].query.y.shape
        (2, torch.Size([4, 1, 8, 8]), torch.Size([3, 10]))
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
        support, query = self.rows[number]
        position = number % len(self)
        return Task(
            self._examples(self.train, support, position),
            self._examples(self.test, query, position),
        )

    def to(self, device: torch.device | str) -> Self:
        """Put experiences on a device from now on; return `self`."""
        self._device = torch.device(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return what a reader must know of this stream to compare numbers measured on it."""
        return self._card

    def _examples(self, data: Labelled, rows: Tensor, number: int) -> Examples:
        x = prepare(data.x[rows], self._normalise)
        if self._change is not None:
            x = self._change(number, x)
        x = x.to(self._device)
        y = F.one_hot(self.columns[data.y[rows]], self._width).to(x)
        return Examples(x, y, torch.ones_like(y[:, 0]))


class Streams(TaskDistribution):
    """Streams, each by its seed, such as `Streams(partial(permuted, train, test))`.

    `sample` draws their first experiences as tasks; `evaluate_stream` follows them to the end.

    Examples:
        >>> from functools import partial
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> make = partial(qs.tasks.class_incremental, train, test, examples=4)
        >>> streams = qs.tasks.Streams(make)
        >>> len(streams.stream(seed=3))
        5
        >>> streams.sample(2, torch.Generator().manual_seed(0)).support.x.shape
        torch.Size([2, 8, 1, 8, 8])
    """

    def __init__(self, make: Callable[..., Stream]):
        self.make = make
        self._device = torch.device("cpu")

    def stream(self, seed: int) -> Stream:
        """Return the stream of a seed."""
        return self.make(seed=seed).to(self._device)

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Return the first experiences of `n_tasks` streams.

        Raises:
            ValueError: they are not all of one size.
        """
        first = [
            self.stream(seed)[0]
            for seed in torch.randint(2**31, (n_tasks,), generator=generator).tolist()
        ]
        if len({task.support.x.shape + task.query.x.shape for task in first}) > 1:
            raise ValueError(
                "The first experiences of these streams are of different sizes: give "
                "`examples`, or take one stream at a time."
            )
        return tree_map(lambda *leaves: torch.stack(leaves), *first)

    def to(self, device: torch.device | str) -> Self:
        """Put experiences on a device from now on."""
        self._device = torch.device(device)
        return self

    def card(self) -> dict[str, Json]:
        """Return the card of every stream, without its seed."""
        return {key: value for key, value in self.make(seed=0).card().items() if key != "seed"}


def stream_by_class(
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
    """Return a stream whose tests have all test examples of the classes of each experience.

    Args:
        support: rows of `train`, for each experience.
        classes: of each experience, any number of times each.
        order: of the classes; a label's column is the place of its class in it.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> classes = [torch.tensor([3]), torch.tensor([7])]
        >>> rows = [(train.y == int(c)).nonzero().flatten() for c in classes]
        >>> stream = stream_by_class(train, test, rows, classes, torch.tensor([7, 3]), {})
        >>> [task.query.y.argmax(1).unique().tolist() for task in stream]
        [[1], [0]]
    """
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


def shuffled(rows: Tensor, generator: Generator) -> Tensor:
    """Return rows in random order.

    Examples:
        >>> shuffled(torch.arange(3), torch.Generator().manual_seed(0)).sort().values
        tensor([0, 1, 2])
    """
    return rows[torch.randperm(len(rows), generator=generator)]


def stream_card(
    kind: str, train: Labelled, test: Labelled, tasks: int, seed: int
) -> dict[str, Json]:
    """Return what the cards of all streams have.

    Raises:
        ValueError: the two data sets have other classes, or in another order; there are no
            experiences; or the seed is none.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream_card("rotated", train, test, tasks=20, seed=0)["experiences"]
        20
    """
    if tasks < 1:
        raise ValueError(f"tasks={tasks}: a stream has at least one experience.")
    if train.classes != test.classes:
        raise ValueError(
            f"The training data ({train.name}) and the test data ({test.name}) must have the "
            "same classes in the same order: `split_examples` makes such halves."
        )
    return {
        "tasks": kind,
        "dataset": train.name,
        "hash": f"{train.hash} {test.hash}",
        "experiences": tasks,
        "seed": check_seed(seed),
    }
