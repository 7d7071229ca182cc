"""Running a learner through streams of experiences.

`run_stream` is the whole idea: `adapt` folded over experiences, with a test of all of them
after each. `evaluate_stream` collects the scores of several streams in a `StreamReport`.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import (
    Metric,
    default_metrics,
    evaluating,
    is_transductive,
)
from quickstudy.evaluation.report import Report, finite_or_none
from quickstudy.evaluation.stream_measures import Row, StreamReport
from quickstudy.evaluation.stream_resume import load_histories, save_histories
from quickstudy.execution.batching import over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner
from quickstudy.tasks.streams import Stream, Streams

CHUNK = 2000  # examples that are predicted at a time


class StreamStep(NamedTuple):
    """The state and scores of a learner after some experiences of a stream.

    Examples:
        >>> step = StreamStep(1, state=(), scores=torch.tensor([0.9]), seconds=0.2, examples=50)
        >>> step.number, step.scores
        (1, tensor([0.9000]))
    """

    number: int  # of experiences learned; 0 before the first
    state: Any
    scores: Tensor  # (K,)  on the test of every experience known by now
    seconds: float  # of learning the last experience
    examples: int  # in the last experience


def run_stream(
    learner: Learner[Any],
    stream: Iterable[Task[Examples]],
    *,
    metric: Metric | None = None,
    task_incremental: bool = False,
    every: int = 1,
    tests: Sequence[Examples] = (),
    state: Any = None,
    done: int = 0,
) -> Iterator[StreamStep]:
    """Learn one experience after another; after each, evaluate all tests known by then.

    Args:
        stream: tasks, whose support sets are experiences and whose query sets their tests; it
            may be endless. Each is taken when it is needed.
        metric: larger is better. None: accuracy, or minus the learner's criterion.
        task_incremental: predict among the classes of each test only: the task-incremental
            scenario.
        every: measure scores after each `every`-th experience and after the last one that has a
            test; they are NaN after others.
        tests: of experiences from the first on, if they are known before these come.
        state: the state after the first `done` experiences. These must be missing in `stream`,
            and have their tests in `tests`.

    Yields:
        A step before the first experience, if there are `tests`; and one after each.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.class_incremental(train, test, examples=5)
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> [len(step.scores) for step in run_stream(learner, stream)]
        [1, 2, 3, 4, 5]
    """

    def batch(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf[None], tree)

    for step in _run(
        learner,
        map(batch, stream),
        metric=_default_metric(learner) if metric is None else metric,
        task_incremental=task_incremental,
        every=every,
        tests=[batch(test) for test in tests],
        state=None if state is None else batch(state),
        done=done,
    ):
        yield step._replace(
            state=tree_map(lambda leaf: leaf[0], step.state), scores=step.scores[0]
        )


def _run(
    learner: Learner[Any],
    streams: Iterable[TaskBatch],
    *,
    metric: Metric,
    task_incremental: bool,
    every: int,
    tests: Sequence[Examples],
    state: Any,
    done: int,
) -> Iterator[StreamStep]:
    """`run_stream` of several streams at once: with an axis T in front of tasks, state and
    scores."""
    known_tests, transductive = list(tests), None
    for number, batch in enumerate(streams, done + 1):
        if len(known_tests) < number:
            known_tests.append(batch.query)
        execution = learner.execution if len(batch.support.x) > 1 else "loop"
        with evaluating(learner) as copy, explained(copy, batch):
            if transductive is None:
                few = batch.support.take((slice(None), slice(10)))
                transductive = is_transductive(copy, Task(few, batch.query))
            scores = partial(
                _scores,
                over_tasks(copy.predict, execution),
                over_tasks(metric, execution),
                tests=known_tests,
                task_incremental=task_incremental,
                transductive=transductive,
            )
            if number == 1 and tests:
                nothing = batch.support._replace(weight=batch.support.weight * 0)
                initial = over_tasks(copy.adapt, execution)(nothing)
                yield StreamStep(0, initial, scores(initial), 0.0, 0)
            start = time.perf_counter()
            previous = () if state is None else (state,)
            state = over_tasks(copy.adapt, execution)(batch.support, *previous)
            seconds = time.perf_counter() - start
            if number % every == 0 or number == len(tests):
                measured = scores(state)
            else:
                shape = len(batch.support.x), len(known_tests)
                measured = torch.full(shape, torch.nan, dtype=torch.float64)
        yield StreamStep(number, state, measured, seconds, int(batch.support.weight.sum()))


def _scores(
    predict: Callable[..., Any],
    metric: Callable[..., Tensor],
    state: Any,
    *,
    tests: Sequence[Examples],
    task_incremental: bool,
    transductive: bool,
) -> Tensor:
    """Return the score of every test (T, K), float64. Several tests share a call of `predict`,
    unless its queries depend on each other."""
    scores, waiting = list[Tensor](), list[Examples]()
    for number, test in enumerate(tests, 1):
        waiting.append(test)
        size = sum(test.x.shape[1] for test in waiting)
        if not (transductive or number == len(tests) or size >= CHUNK):
            continue
        start, predictions = 0, predict(state, torch.cat([test.x for test in waiting], 1))
        for test in waiting:
            rows = slice(start, start := start + test.x.shape[1])
            part = tree_map(lambda leaf, rows=rows: leaf[:, rows], predictions)
            if task_incremental:
                part = part.masked_fill(~(test.y > 0).any(1, keepdim=True), -torch.inf)
            scores.append(metric(part, test))
        waiting = []
    return torch.stack(scores, 1).double().cpu()


class StreamGroup:
    """Streams with experiences and tests of equal sizes, which are run side by side.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> streams = [qs.tasks.permuted(train, test, tasks=3, seed=seed) for seed in (1, 2)]
        >>> group = StreamGroup(streams)
        >>> len(group.tests(done=0)), [len(batch.support.x) for batch in group.after(done=1)]
        (3, [2, 2])
    """

    def __init__(self, streams: Sequence[Iterable[Task[Examples]]]):
        self.streams = streams

    def after(self, done: int, stop: int | None = None) -> Iterator[TaskBatch]:
        """Yield experience `done` + 1 of all streams as a batch, then the next, ..."""
        for tasks in itertools.islice(zip(*self.streams, strict=True), done, stop):
            yield tree_map(lambda *leaves: torch.stack(leaves), *tasks)

    def tests(self, done: int) -> list[Examples]:
        """Return the tests that are known after `done` experiences: all, if streams are
        sequences."""
        whole = all(isinstance(stream, Sequence) for stream in self.streams)
        return [batch.query for batch in self.after(0, None if whole else done)]

    def resume(
        self, path: Path | None, card: Mapping[str, Json], learner: Learner[Any]
    ) -> tuple[list[list[Row]], Any]:
        """Return the stored rows of every stream and the state of all, or no rows and None."""
        if path is None or not path.exists():
            return [[] for _ in self.streams], None
        return load_histories(path, card, learner, next(iter(self.streams[0])).support)


def evaluate_stream(
    learner: Learner[Any],
    streams: Streams | Iterable[Iterable[Task[Examples]]],
    *,
    n_tasks: int = 5,
    meta_batch_size: int = 10,
    seed: int = 1,
    metrics: Mapping[str, Metric] | None = None,
    task_incremental: bool = False,
    every: int = 1,
    selection: str = "last step",
    folder: str | Path | None = None,
    progress: Callable[[StreamReport], None] | None = None,
) -> StreamReport:
    """Run a learner through streams from start to end, and score all experiences after each.

    Args:
        streams: a family, of which `n_tasks` streams are taken by their seeds; or the streams
            themselves.
        meta_batch_size: how many are run at once, if they have experiences of equal sizes and
            `learner.execution` is "vmap".
        seed: of the first of `n_tasks` streams; the next has the next.
        metrics: one, by its name; larger is better. None: as in `run_stream`.
        task_incremental: as in `run_stream`.
        every: as in `run_stream`.
        selection: how the checkpoint was chosen, for the card.
        folder: where results are kept after every experience, so that the same call, made again
            after an interruption, continues from there.
        progress: called with the report so far: after every experience, and after a stored
            stream was read from `folder`.

    Raises:
        ValueError: there is no stream, or more than one metric.
        CheckpointError: `folder` is of other streams, or damaged.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> streams = qs.tasks.Streams(partial(qs.tasks.class_incremental, train, test))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> report = qs.evaluation.evaluate_stream(learner, streams, n_tasks=1)
        >>> report.matrix.shape, report.report.mean("accuracy") > 0.8
        (torch.Size([1, 6, 5]), True)
    """
    if metrics is not None and len(metrics) != 1:
        raise ValueError("Streams are evaluated with one metric at a time: give one.")
    name = next(iter(default_metrics(learner) if metrics is None else metrics))
    metric = _default_metric(learner) if metrics is None else metrics[name]
    card: dict[str, Json] = {"tasks": "streams"}
    if isinstance(streams, Streams):
        card = {**streams.card(), "seed": seed}
        streams = [streams.stream(seed + number) for number in range(n_tasks)]
    card |= {"known task": task_incremental, "selection": selection}
    histories: list[list[Row]] = []

    def show() -> None:
        if progress is not None:
            progress(StreamReport.from_histories(histories, card, name))

    for group in _groups(streams, meta_batch_size if learner.execution == "vmap" else 1):
        first, size = len(histories) + 1, len(group.streams)
        label = f"stream-{first}" if size == 1 else f"streams-{first}-{first + size - 1}"
        path = None if folder is None else Path(folder) / f"{label}.safetensors"
        group_histories, state = group.resume(path, card, learner)
        histories += group_histories
        done = group_histories[0][-1]["number"] if group_histories[0] else 0
        if done:
            show()
        for step in _run(
            learner,
            group.after(done),
            metric=metric,
            task_incremental=task_incremental,
            every=every,
            tests=group.tests(done),
            state=state,
            done=done,
        ):
            for history, row in zip(group_histories, _rows(step), strict=True):
                history.append(row)
            if path is not None and step.number:
                save_histories(path, card, group_histories, step.state)
            show()
    if not histories:
        raise ValueError("There is no stream to run: give an `n_tasks` of at least 1.")
    return StreamReport.from_histories(histories, card, name)


def _rows(step: StreamStep) -> list[Row]:
    """A row of the history of each stream. Time, examples and bytes are shared equally."""
    size = len(step.scores)
    facts = {
        "seconds": step.seconds / size,
        "examples": step.examples // size,
        "bytes": sum(leaf.nbytes for leaf in leaves(step.state)) // size,
    }
    return [
        {"number": step.number, "scores": [finite_or_none(score) for score in scores], **facts}
        for scores in step.scores.tolist()
    ]


def _groups(streams: Iterable[Iterable[Task[Examples]]], size: int) -> Iterator[StreamGroup]:
    """Up to `size` streams together that have experiences and tests of equal sizes."""
    for _, alike in itertools.groupby(streams, _sizes):
        while part := list(itertools.islice(alike, size)):
            yield StreamGroup(part)


def _sizes(stream: Iterable[Task[Examples]]) -> Any:
    """Sizes of the experiences and tests; other streams have a unique key, and are never
    grouped."""
    return (
        [(len(support), len(query)) for support, query in stream.rows]
        if isinstance(stream, Stream)
        else object()  # equal to no other
    )


def stream_report(
    learner: Learner[Any],
    tasks: Streams,
    *,
    progress: Callable[[int], None] | None = None,
    on_experience: Callable[[StreamReport], None] | None = None,
    **others: Any,
) -> Report:
    """Return `evaluate_stream(...).report`: the `evaluate_fn` of a recipe's `Benchmark`.

    Args:
        progress: called with the number of finished streams.
        on_experience: the `progress` of `evaluate_stream`.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> streams = qs.tasks.Streams(partial(qs.tasks.class_incremental, train, test))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> report = qs.evaluation.stream_report(learner, streams, n_tasks=2)
        >>> len(report.values["forgetting"])
        2
    """

    def report_progress(report: StreamReport) -> None:
        if progress is not None:
            progress(int((~report.seconds[:, -1].isnan()).sum()))
        if on_experience is not None:
            on_experience(report)

    return evaluate_stream(learner, tasks, progress=report_progress, **others).report


def _default_metric(learner: Learner[Any]) -> Metric:
    """Return the default metric, with the sign by which larger is better."""
    name, metric = next(iter(default_metrics(learner).items()))
    if name == "accuracy":
        return metric
    return lambda prediction, examples: -metric(prediction, examples)
