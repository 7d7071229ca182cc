"""The evaluation of a learner on several streams of experiences, as a `StreamReport`."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from quickstudy.core.task import Examples, Json, Task, TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import Metric, named_metric
from quickstudy.evaluation.report import Report, json_numbers, warn_of_nan
from quickstudy.evaluation.stream_loop import StreamStep, run_streams, stream_metrics
from quickstudy.evaluation.stream_measures import Row, StreamReport
from quickstudy.evaluation.stream_resume import can_continue, load_histories, save_histories
from quickstudy.learner import Learner
from quickstudy.storage.files import versions
from quickstudy.storage.fingerprint import fingerprint
from quickstudy.storage.state_file import tensors_sha256
from quickstudy.tasks.streams import Stream, Streams


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
        self.is_whole = all(isinstance(stream, Sequence) for stream in streams)

    def after(self, done: int, stop: int | None = None) -> Iterator[TaskBatch]:
        """Yield experience `done` + 1 of all streams as a batch, then the next, ..."""
        for tasks in itertools.islice(zip(*self.streams, strict=True), done, stop):
            yield tree_map(lambda *leaves: torch.stack(leaves), *tasks)

    def tests(self, done: int) -> list[Examples]:
        """Return the tests that are known after `done` experiences: all, if streams are
        sequences."""
        return [batch.query for batch in self.after(0, None if self.is_whole else done)]

    def sha256(self) -> str:
        """Return the sha256 of all experiences and tests.

        Raises:
            ValueError: a stream is an iterator, which can be read once only.
        """
        if any(iter(stream) is stream for stream in self.streams):
            raise ValueError(
                "A stream is an iterator, which an interrupted evaluation cannot read again: "
                "give a list of tasks or a `Stream`, or no `folder`."
            )
        batches = (enumerate(leaves(batch)) for batch in self.after(0))
        digests = [tensors_sha256({str(n): leaf for n, leaf in batch}) for batch in batches]
        return hashlib.sha256("".join(digests).encode()).hexdigest()


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
        seed: of the first of `n_tasks` streams; the next has the next. Also of torch's random
            state, which is restored.
        metrics: one, by its name; larger is better. None: as in `run_stream`.
        task_incremental: as in `run_stream`.
        every: as in `run_stream`. Above 1, streams must be sequences, as their last experience
            must be known.
        selection: how the checkpoint was chosen, for the card.
        folder: where results are kept after every experience, so that the same call, made again
            after an interruption, continues from there. The same are the learner, its settings
            and weights, the streams, the metric, all other arguments, and the version of
            quickstudy. Streams must not be iterators.
        progress: called with the report so far: after every experience, and after a stored
            stream was read from `folder`.

    Warns:
        UserWarning: a score is NaN, as predictions are: the learner diverged.

    Raises:
        ValueError: there is no stream, or more than one metric, `every` is below 1, or a stream
            is an iterator where it must not be.
        CheckpointError: `folder` has results of another call, or they are damaged; or the
            learner or the metric cannot be recognised, as it holds an open file or the like.

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
    metrics = stream_metrics(learner) if metrics is None else metrics
    if len(metrics) != 1:
        raise ValueError("Streams are evaluated with one metric at a time: give one.")
    ((name, metric),) = metrics.items()
    card: dict[str, Json] = {"tasks": "streams"}
    if isinstance(streams, Streams):
        card = {**streams.card(), "seed": seed}
        streams = [streams.stream(seed + number) for number in range(n_tasks)]
    card |= {"known task": task_incremental, "selection": selection}
    card |= {"every": every} if every > 1 else {}
    histories: list[list[Row]] = []
    key: dict[str, Json] = {"card": card, "every": every, "seed": seed, "version": versions()}
    if folder is not None:
        key |= {"learner": fingerprint(learner), "metric": fingerprint((name, metric))}

    def report() -> StreamReport:
        return StreamReport.from_histories(histories, card, name, every)

    def show() -> None:
        if progress is not None:
            progress(report())

    for group in _groups(streams, meta_batch_size if learner.execution == "vmap" else 1):
        first, size = len(histories) + 1, len(group.streams)
        label = f"stream-{first}" if size == 1 else f"streams-{first}-{first + size - 1}"
        path = None if folder is None else Path(folder) / f"{label}.safetensors"
        if every > 1 and not group.is_whole:
            raise ValueError(
                f"every={every}: which experience of an iterator is the last is not known, so "
                "its scores would be missing: give a list of tasks or a `Stream`."
            )
        group_histories: list[list[Row]] = [[] for _ in group.streams]
        state = None
        key["streams"] = group.sha256() if path is not None else ""
        if path is not None and can_continue(path):
            group_histories, state = load_histories(path, key, learner)
        histories += group_histories
        done = group_histories[0][-1]["number"] if group_histories[0] else 0
        if done:
            show()
        for step in run_streams(
            learner,
            group.after(done),
            metric=named_metric(name, metric, learner),
            task_incremental=task_incremental,
            every=every,
            tests=group.tests(done),
            state=state,
            done=done,
            seed=seed,
        ):
            for history, row in zip(group_histories, _rows(step), strict=True):
                history.append(row)
            if path is not None and step.number:
                save_histories(path, key, learner, group_histories, step.state)
            show()
    if not histories:
        raise ValueError("There is no stream to run: give an `n_tasks` of at least 1.")
    measures = report().report.values
    warn_of_nan({measure: measures[measure] for measure in (name, "area")})
    return report()


def _rows(step: StreamStep) -> list[Row]:
    """A row of the history of each stream. Time, examples and bytes are shared equally."""
    size = len(step.scores)
    facts = {
        "seconds": step.seconds / size,
        "examples": step.examples // size,
        "bytes": sum(leaf.nbytes for leaf in leaves(step.state)) // size,
    }
    return [
        {"number": step.number, "scores": scores, **facts}
        for scores in json_numbers(step.scores)
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
