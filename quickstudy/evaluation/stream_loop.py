"""The loop through a stream: `adapt` folded over experiences, with a test of all after each."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.core.task import Examples, Task, TaskBatch, seeds
from quickstudy.core.threads import seeded
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.protocol import (
    HELD_OUT_RANK,
    Metric,
    default_metrics,
    evaluating,
    is_transductive,
    named_metric,
)
from quickstudy.execution.batching import over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner

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

    default = stream_metrics(learner)
    given = default if metric is None else {getattr(metric, "__name__", "metric"): metric}
    ((name, metric),) = given.items()

    def batch(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf[None], tree)

    for step in run_streams(
        learner,
        map(batch, stream),
        metric=named_metric(name, metric, learner),
        task_incremental=task_incremental,
        every=every,
        tests=[batch(test) for test in tests],
        state=None if state is None else batch(state),
        done=done,
    ):
        yield step._replace(
            state=tree_map(lambda leaf: leaf[0], step.state), scores=step.scores[0]
        )


def run_streams(
    learner: Learner[Any],
    streams: Iterable[TaskBatch],
    *,
    metric: Metric,
    task_incremental: bool,
    every: int,
    tests: Sequence[Examples],
    state: Any,
    done: int,
    seed: int = 0,
) -> Iterator[StreamStep]:
    """Run several streams at once: `run_stream` with an axis T in front of tasks, state and
    scores.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> experiences = [Blobs().sample(2, torch.Generator().manual_seed(0))] * 3
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> settings = dict(metric=qs.core.accuracy, task_incremental=False, every=1)
        >>> steps = run_streams(learner, experiences, tests=(), state=None, done=0, **settings)
        >>> [tuple(step.scores.shape) for step in steps]
        [(2, 1), (2, 2), (2, 3)]
    """
    if every < 1:
        raise ValueError(
            f"every={every}: give 1 to measure scores after every experience, or more."
        )
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
                with seeded(seeds(seed, HELD_OUT_RANK, 0)[1]):
                    nothing = batch.support._replace(weight=batch.support.weight * 0)
                    initial = over_tasks(copy.adapt, execution)(nothing)
                    measured = scores(initial)
                yield StreamStep(0, initial, measured, 0.0, 0)
            # after all that a resumed evaluation does once more
            with seeded(seeds(seed, HELD_OUT_RANK, number)[1]):
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
                present = (test.y > 0).flatten(1, -2).any(1)  # (T, C)
                absent = ~present.view(len(present), *[1] * (part.ndim - 2), -1)
                part = part.masked_fill(absent, -torch.inf)
            scores.append(metric(part, test))
        waiting = []
    return torch.stack(scores, 1).double().cpu()


def stream_metrics(learner: Learner[Any]) -> dict[str, Metric]:
    """Return the default metric by its name, with the sign by which larger is better.

    Examples:
        >>> import quickstudy as qs
        >>> list(stream_metrics(qs.MAML(qs.nets.MLP(4, 3), criterion=qs.squared_error)))
        ['squared_error']
    """
    if learner.classifies:
        return default_metrics(learner)
    return {name: partial(_negative, m) for name, m in default_metrics(learner).items()}


def _negative(metric: Metric, prediction: Any, examples: Examples) -> Tensor:
    return -metric(prediction, examples)
