"""Learning a stream, and what is left of its beginning at the end.

`run_stream` is the whole idea: `adapt` folded over experiences, with a test of all of them after
each. `evaluate_stream` makes numbers of it, those of Lopez-Paz & Ranzato (2017,
arXiv:1706.08840) and Chaudhry et al. (2018, arXiv:1801.10112).
"""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quickstudy.core.functional import leaves, tree_map
from quickstudy.core.task import Examples, Json, Task, TaskBatch
from quickstudy.evaluation.protocol import (
    Metric,
    default_metrics,
    evaluating,
    is_transductive,
)
from quickstudy.evaluation.report import Report, finite_or_none
from quickstudy.execution.batching import Execution, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner
from quickstudy.storage import renamed
from quickstudy.storage.files import CheckpointError, replace_file
from quickstudy.tasks.streams import Stream, Streams

if TYPE_CHECKING:  # matplotlib is slow to import, and only reports draw
    from matplotlib.axes import Axes

CHUNK = 2000  # examples that are judged at a time


_Row: TypeAlias = dict[str, Json]  # of a history: number, scores, seconds, examples, bytes


class StreamStep(NamedTuple):
    """Where a stream stands after some of its experiences."""

    number: int  # of experiences learned; 0 before the first
    state: Any  # what is known
    scores: Tensor  # (K,)  on the test of every experience that is known of by now
    seconds: float  # that the last experience took to learn
    examples: int  # in the last experience


@dataclass(frozen=True)
class StreamReport:
    """What became of the tests of every experience as more were learned.

    `matrix[r, i, j]` is the score of stream r on the test of experience j + 1 after i
    experiences: the diagonal below the first row is what was just learned, above it is what was
    not yet. NaN was not measured. Larger is better.
    """

    matrix: Tensor  # (R, E + 1, E), float64
    seconds: Tensor  # (R, E)  of learning each experience
    examples: Tensor  # (R, E)
    bytes: Tensor  # (R, E)  of the state after each experience
    card: Mapping[str, Json] = field(default_factory=dict)
    metric: str = "accuracy"

    @property
    def report(self) -> Report:
        """A number per stream and measure:

        - `accuracy` (or another metric): mean over all tests at the end. Also known as
          retained accuracy.
        - `forgetting`: of every experience but the last, how much its score has fallen from
          its best; the mean.
        - `backward transfer`: how much it has risen since it had just been learned; the mean.
          Also known as backward transfer and interference.
        - `forward transfer`: how much the score of an experience had risen just before it came,
          from what it was at the start; the mean of all but the first.
        - `area`: the mean of `accuracy` of the experiences so far, over all of the stream: the
          area under the learning curve.
        - `milliseconds per example`, and `kilobytes` of the state at the end.
        """
        end, later = self.matrix[:, -1], self.matrix[:, 1:]  # (R, E), (R, E, E)
        tests = later.shape[-1]
        row, column = torch.meshgrid(torch.arange(tests), torch.arange(tests), indexing="ij")
        new = later.diagonal(dim1=1, dim2=2)  # (R, E)
        best = later.masked_fill((row < column) | later.isnan(), -torch.inf).amax(1)
        so_far = later.masked_fill(row < column, torch.nan).nanmean(-1)  # (R, E)
        before = self.matrix[:, :-1].diagonal(dim1=1, dim2=2)
        took = self.seconds.sum(1) * 1000 / self.examples.sum(1)
        return Report(
            {
                self.metric: end.nanmean(-1),
                "forgetting": (best - end)[:, :-1].nanmean(-1),
                "backward transfer": (end - new)[:, :-1].nanmean(-1),
                "forward transfer": (before - self.matrix[:, 0])[:, 1:].nanmean(-1),
                "area": so_far.nanmean(-1),
                "milliseconds per example": took,
                "kilobytes": self.bytes[:, -1] / 1000,
            },
            self.card,
        )

    def plot(self, axes: "Axes", stream: int = 0) -> None:
        """Draws the matrix of one stream: rows are what has been learned, columns what is
        asked."""
        shown = self.matrix[stream].numpy()
        image = axes.imshow(shown, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(xlabel="test of experience", ylabel="experiences learned")
        axes.figure.colorbar(image, ax=axes, label=self.metric)

    def plot_forgetting(self, axes: "Axes", stream: int = 0) -> None:
        """Draws the score of the first experience, and the mean of all so far, against the
        experiences learned."""
        later = self.matrix[stream, 1:]
        at = torch.arange(1, len(later) + 1)
        seen = at[:, None] > torch.arange(later.shape[1])
        mean = later.masked_fill(~seen, torch.nan).nanmean(1)
        for values, label in ((later[:, 0], "the first"), (mean, "all so far")):
            there = ~values.isnan()
            axes.plot(at[there].numpy(), values[there].numpy(), marker=".", label=label)
        axes.set(xlabel="experiences learned", ylabel=self.metric, ylim=(0, 1.02))
        axes.legend()

    def to_json(self) -> Json:
        """Every number, for `from_json`."""

        def numbers(tensor: Tensor) -> Json:
            if tensor.ndim:
                return [numbers(part) for part in tensor]
            return finite_or_none(round(float(tensor), 6))

        tensors = ("matrix", "seconds", "examples", "bytes")
        facts = {"card": dict(self.card), "metric": self.metric}
        return {name: numbers(getattr(self, name)) for name in tensors} | facts

    @classmethod
    def from_json(cls, data: Json) -> "StreamReport":
        """The inverse of `to_json`."""

        def tensor(value: Json) -> Tensor:
            if isinstance(value, list):
                return torch.stack([tensor(part) for part in value])
            return torch.tensor(torch.nan if value is None else value, dtype=torch.float64)

        tensors = {k: tensor(data[k]) for k in ("matrix", "seconds", "examples", "bytes")}
        return cls(**tensors, card=data["card"], metric=data["metric"])


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
    """Learns one experience after another; after each, asks for all that is known of.

    Args:
        stream: tasks, whose support sets are experiences and whose query sets their tests; it
            may be endless, and each is taken when it is needed.
        metric: of which larger is better. None: accuracy, or minus the learner's criterion.
        known_task: tells which classes a test has, so that no other is answered: the
            task-incremental scenario.
        every: scores are measured after each `every`-th experience and the last of which
            there is a test; they are NaN after others.
        tests: of experiences from the first on, where they are known before these come.
        state: what is known already, after the first `done` experiences. They must be missing
            in `stream`, and have their tests in `tests`.

    Yields:
        Before the first experience, if there are `tests`; and after each.
    """

    def batch(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf[None], tree)

    metric = _metric(learner) if metric is None else metric
    for now in _follow(
        learner,
        map(batch, stream),
        metric=metric,
        task_incremental=task_incremental,
        every=every,
        tests=[batch(test) for test in tests],
        state=None if state is None else batch(state),
        done=done,
    ):
        alone = tree_map(lambda leaf: leaf[0], now.state)
        yield now._replace(state=alone, scores=now.scores[0])


def _follow(
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
    known, apart = list(tests), None
    for number, batch in enumerate(streams, done + 1):
        if len(known) < number:
            known.append(batch.query)
        execution = learner.execution if len(batch.support.x) > 1 else "loop"
        with evaluating(learner), explained(learner, batch):
            if apart is None:
                few = batch.support.take((slice(None), slice(10)))
                apart = is_transductive(learner, Task(few, batch.query))
            ask = partial(
                _scores,
                learner,
                execution,
                metric=metric,
                task_incremental=task_incremental,
                apart=apart,
            )
            if number == 1 and tests:
                nothing = batch.support._replace(weight=batch.support.weight * 0)
                start = over_tasks(learner.adapt, execution)(nothing)
                yield StreamStep(0, start, ask(start, known), 0.0, 0)
            since = time.perf_counter()
            before = () if state is None else (state,)
            state = over_tasks(learner.adapt, execution)(batch.support, *before)
            seconds = time.perf_counter() - since
            if number % every == 0 or number == len(tests):
                scores = ask(state, known)
            else:
                scores = torch.full(
                    (len(batch.support.x), len(known)), torch.nan, dtype=torch.float64
                )
        yield StreamStep(number, state, scores, seconds, int(batch.support.weight.sum()))


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
    """Follows streams from the start to the end, and scores all experiences after each.

    Args:
        streams: by their seeds, of which `n_tasks` are taken; or the streams themselves.
        meta_batch_size: how many are followed at once, where they have experiences of equal sizes and
            `learner.execution` is "vmap".
        seed: of the first of `n_tasks` streams; the next has the next.
        metrics: one, by its name, of which larger is better; None: as in `run_stream`.
        known_task: as in `run_stream`.
        every: as in `run_stream`.
        selection: how the checkpoint was chosen, for the card.
        folder: where what is known is kept after every experience, so that the same call, made
            again after an interruption, goes on from there.
        progress: called after every experience with what is known by then, and with what
            `folder` had.

    Raises:
        ValueError: there is no stream, or more than one metric.
        CheckpointError: `folder` is of other streams, or damaged.
    """
    if metrics is not None and len(metrics) != 1:
        raise ValueError("Streams are judged by one metric at a time: give one.")
    name = next(iter(default_metrics(learner) if metrics is None else metrics))
    card: dict[str, Json] = {"tasks": "streams"}
    if isinstance(streams, Streams):
        card = {**streams.card(), "seed": seed}
        streams = [streams.stream(seed + number) for number in range(n_tasks)]
    card |= {"known task": task_incremental, "selection": selection}
    histories: list[list[_Row]] = []
    for group in _groups(streams, meta_batch_size if learner.execution == "vmap" else 1):
        first, last = len(histories) + 1, len(histories) + len(group)
        label = f"stream-{first}" if first == last else f"streams-{first}-{last}"
        place = None if folder is None else Path(folder) / label
        found, state = _resumed(place, card, learner, group)
        histories += found
        done = found[0][-1]["number"] if found[0] else 0
        if done and progress is not None:
            progress(_report(histories, card, name))
        known = all(isinstance(stream, Sequence) for stream in group)
        for now in _follow(
            learner,
            itertools.islice(_side_by_side(group), done, None),
            metric=_metric(learner) if metrics is None else metrics[name],
            task_incremental=task_incremental,
            every=every,
            tests=[
                batch.query
                for batch in itertools.islice(_side_by_side(group), None if known else done)
            ],
            state=state,
            done=done,
        ):
            size_of_state = sum(leaf.nbytes for leaf in leaves(now.state))
            for history, scores in zip(found, now.scores.tolist(), strict=True):
                history.append(
                    {
                        "number": now.number,
                        "scores": [finite_or_none(score) for score in scores],
                        "seconds": now.seconds / len(group),
                        "examples": now.examples // len(group),
                        "bytes": size_of_state // len(group),
                    }
                )
            if place is not None and now.number:
                _keep(place, card, found, now.state)
            if progress is not None:
                progress(_report(histories, card, name))
    if not histories:
        raise ValueError("There is no stream to follow: ask for a `count` of at least 1.")
    return _report(histories, card, name)


def _groups(
    streams: Iterable[Iterable[Task[Examples]]], size: int
) -> Iterator[list[Iterable[Task[Examples]]]]:
    """Up to `size` streams together that have experiences and tests of equal sizes."""
    for _, alike in itertools.groupby(streams, _sizes):
        yield from (list(part) for part in _batched(alike, size))


def _sizes(stream: Iterable[Task[Examples]]) -> Any:
    """Of experiences and tests; only of what is known to have them, alike in nothing else."""
    if isinstance(stream, Stream):
        return [(len(given), len(asked)) for given, asked in stream.rows]
    return object()


def _batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    rest = iter(items)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())


def _side_by_side(streams: Sequence[Iterable[Task[Examples]]]) -> Iterator[TaskBatch]:
    """The first experiences of all streams as a batch, the second ones, ..."""
    for tasks in zip(*streams, strict=True):
        yield tree_map(lambda *leaves: torch.stack(leaves), *tasks)


def stream_report(
    learner: Learner[Any],
    tasks: Streams,
    *,
    progress: Callable[[int], None] | None = None,
    on_experience: Callable[[StreamReport], None] | None = None,
    **others: Any,
) -> Report:
    """`evaluate_stream(...).report`, as the `judge` of a recipe's `Benchmark`.

    Args:
        progress: told how many streams are done.
        watch: the `progress` of `evaluate_stream`.
    """

    def tell(found: StreamReport) -> None:
        if progress is not None:
            progress(int((~found.seconds[:, -1].isnan()).sum()))
        if on_experience is not None:
            on_experience(found)

    return evaluate_stream(learner, tasks, progress=tell, **others).report


def _metric(learner: Learner[Any]) -> Metric:
    """The default metric, as a number to be large."""
    name, metric = next(iter(default_metrics(learner).items()))
    return metric if name == "accuracy" else lambda said, examples: -metric(said, examples)


def _scores(
    learner: Learner[Any],
    execution: Execution,
    state: Any,
    tests: Sequence[Examples],
    *,
    metric: Metric,
    task_incremental: bool,
    apart: bool,
) -> Tensor:
    """The score of every test (T, K), float64. Several are given to `predict` at once, unless
    they would be judged together."""
    found, waiting = list[Tensor](), list[Examples]()
    for number, test in enumerate(tests, 1):
        waiting.append(test)
        if apart or number == len(tests) or sum(t.x.shape[1] for t in waiting) >= CHUNK:
            sizes = [each.x.shape[1] for each in waiting]
            x = torch.cat([each.x for each in waiting], 1)
            said = over_tasks(learner.predict, execution)(state, x)
            parts = zip(*(leaf.split(sizes, 1) for leaf in leaves(said)), strict=True)
            for each, part in zip(waiting, parts, strict=True):
                rest = iter(part)
                own = tree_map(lambda _: next(rest), said)  # noqa: B023
                if task_incremental:
                    own = own.masked_fill(~(each.y > 0).any(1, keepdim=True), -torch.inf)
                found.append(over_tasks(metric, execution)(own, each))
            waiting = []
    return torch.stack(found, 1).double().cpu()


def _report(
    histories: Sequence[Sequence[_Row]], card: Mapping[str, Json], metric: str
) -> StreamReport:
    """Streams, of which the last may not be at its end, as one matrix."""
    tests = max((len(row["scores"]) for history in histories for row in history), default=0)
    matrix = torch.full((len(histories), tests + 1, tests), torch.nan, dtype=torch.float64)
    facts = torch.full((3, len(histories), tests), torch.nan, dtype=torch.float64)
    for run, history in enumerate(histories):
        for row in history:
            number, scores = row["number"], row["scores"]
            found = [torch.nan if score is None else score for score in scores]
            matrix[run, number, : len(found)] = torch.tensor(found, dtype=torch.float64)
            if number:
                seen = [row["seconds"], row["examples"], row["bytes"]]
                facts[:, run, number - 1] = torch.tensor(seen, dtype=torch.float64)
    return StreamReport(matrix, *facts, card={**card, "streams": len(histories)}, metric=metric)


def _keep(place: Path, card: Json, found: list[list[_Row]], state: Any) -> None:
    """Stores what is known, as a whole or not at all."""
    tensors = {f"{n:05d}": leaf.contiguous() for n, leaf in enumerate(leaves(state))}
    facts = {"card": json.dumps(card, sort_keys=True), "histories": json.dumps(found)}
    replace_file(place.with_suffix(".safetensors"), save(tensors, facts))


def _resumed(
    place: Path | None,
    card: Json,
    learner: Learner[Any],
    streams: Sequence[Iterable[Task[Examples]]],
) -> tuple[list[list[_Row]], Any]:
    """What was stored, or a beginning."""
    if place is None or not place.with_suffix(".safetensors").exists():
        return [[] for _ in streams], None
    path = place.with_suffix(".safetensors")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = [file.get_tensor(name) for name in sorted(file.keys())]
        found = json.loads(facts["histories"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it, and this stream starts anew."
        ) from error
    if renamed.card(json.loads(facts["card"])) != json.loads(json.dumps(card)):
        raise CheckpointError(
            f"{path} is of other streams, or of another learner: choose another folder."
        )
    first = next(iter(streams[0])).support
    with evaluating(learner):  # only for the names and the order of what a state has
        like = learner.adapt(tree_map(lambda leaf: leaf[:1], first))
    if len(leaves(like)) != len(tensors):
        raise CheckpointError(f"{path} is of another learner: choose another folder.")
    where, rest = first.x.device, iter(tensors)
    return found, tree_map(lambda _: next(rest).to(where), like)
