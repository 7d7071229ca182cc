"""Meta-testing: the same protocol for every learner."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from quickstudy.core.criteria import OutputMismatch, accuracy
from quickstudy.core.parameters import device_of
from quickstudy.core.replicas import evaluation_copy, written_back
from quickstudy.core.task import Examples, Task, TaskBatch, TaskDistribution, batches, seeds
from quickstudy.core.threads import FORKED_RANDOM_STATE, seeded
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.report import Report, warn_of_nan
from quickstudy.execution.batching import inference, over_cores, over_tasks
from quickstudy.execution.errors import ExplainedError, explain, explained
from quickstudy.learner import Learner

AnyLearner = TypeVar("AnyLearner", bound=Learner[Any])
Metric = Callable[[Any, Examples], Tensor]

HELD_OUT_RANK = 2**32 - 1  # the rank of no training process, so tasks differ from its tasks


@contextmanager
def evaluating(learner: AnyLearner) -> Iterator[AnyLearner]:
    """Yield a copy of the learner in evaluation mode, which shares its tensors.

    No graph is built meanwhile, and torch's random state is restored at the end.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(4, 3))
        >>> with evaluating(learner) as copy:
        ...     print(copy.training, learner.training, torch.is_grad_enabled())
        False True False
    """
    copied = written_back(learner, evaluation_copy(learner))
    with torch.no_grad(), FORKED_RANDOM_STATE, copied as copy:
        yield copy


def evaluate(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
    metrics: Mapping[str, Metric] | None = None,
    selection: str = "last step",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Adapt to `n_tasks` tasks, each on its own, and measure predictions of the query sets.

    Nothing is learned, no graph is kept, and torch's random state is restored. The report's
    card describes the tasks. Its entry "transductive" is measured on the first task: whether
    the prediction of a query depends on the other queries. Convolutions on a CPU run task by
    task, in the memory layout that is fastest there, unless `learner.chunk` is set.

    Args:
        n_tasks: tasks in all. A larger number starts with the same tasks.
        meta_batch_size: tasks drawn at a time. With `seed` it determines the tasks: to save
            memory with the same tasks, lower `learner.chunk` instead.
        metrics: by name, functions of (prediction, query examples). None: accuracy if the
            learner `classifies`, otherwise its criterion.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of finished tasks.

    Warns:
        UserWarning: a number is NaN, as predictions are: the learner diverged.

    Raises:
        ValueError: `n_tasks` or `meta_batch_size` is below 1, there is no metric, or one fails
            under `vmap`, or is not one number for a task.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> report = qs.evaluate(learner, Blobs(), n_tasks=4, meta_batch_size=4)
        >>> list(report.values), report.card["transductive"]
        (['accuracy'], False)
    """
    metrics = default_metrics(learner) if metrics is None else metrics
    if not metrics:
        raise ValueError("metrics={} measures nothing: give at least one metric, or None.")
    metrics = {name: named_metric(name, metric, learner) for name, metric in metrics.items()}

    def measure(learner: Learner[Any], task: Task[Examples]) -> dict[str, Tensor]:
        prediction = learner.predict(learner.adapt(task.support), task.query.x)
        return {name: metric(prediction, task.query) for name, metric in metrics.items()}

    transductive = random = False
    parts: list[dict[str, Tensor]] = []
    with evaluating(learner) as learner:
        for batch in held_out_batches(
            learner, tasks, n_tasks, meta_batch_size, seed=seed, progress=progress
        ):
            noise = seeds(seed, HELD_OUT_RANK, len(parts))[1]
            with seeded(noise), inference(learner) as (fast, execution, chunk):
                if not parts:
                    transductive = is_transductive(learner, batch)
                if not parts:
                    random = draws_random_numbers(fast, batch)
                run = over_tasks(partial(measure, fast), execution, chunk)
                if not random:
                    run = over_cores(measure, fast, execution, chunk)
                with explained(fast, batch):
                    parts.append(run(batch))
    values = {m: torch.cat([part[m] for part in parts]).cpu().double() for m in metrics}
    warn_of_nan(values)
    card = {
        **tasks.card(),
        "episodes": n_tasks,
        "batch": meta_batch_size,
        "seed": seed,
        "transductive": transductive,
        "selection": selection,
    }
    return Report(values, card)


def held_out_batches(
    learner: Learner[Any],
    tasks: TaskDistribution,
    n_tasks: int,
    meta_batch_size: int,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Yield the batches of an evaluation on the learner's device, `n_tasks` tasks in all.

    After each batch, `progress` receives the number of finished tasks.

    Raises:
        ValueError: `n_tasks` or `meta_batch_size` is below 1.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> [len(batch.query.x) for batch in held_out_batches(learner, Blobs(), 5, 3, seed=1)]
        [3, 2]
    """
    if n_tasks < 1 or meta_batch_size < 1:
        raise ValueError(
            f"n_tasks={n_tasks}, meta_batch_size={meta_batch_size}: evaluate at least one task "
            "at a time."
        )
    device, done, steps = device_of(learner), 0, -(-n_tasks // meta_batch_size)
    for batch in batches(tasks, meta_batch_size, steps=steps, seed=seed, rank=HELD_OUT_RANK):
        yield tree_map(lambda leaf, n=n_tasks - done: leaf[:n].to(device), batch)
        done = min(done + meta_batch_size, n_tasks)
        if progress is not None:
            progress(done)


def default_metrics(learner: Learner[Any]) -> dict[str, Metric]:
    """Return accuracy if the learner classifies, otherwise its criterion, by name.

    Examples:
        >>> import quickstudy as qs
        >>> list(default_metrics(qs.MAML(qs.nets.MLP(4, 3))))
        ['accuracy']
        >>> list(default_metrics(qs.MAML(qs.nets.MLP(4, 3), criterion=qs.squared_error)))
        ['squared_error']
    """
    criterion = accuracy if learner.classifies else learner.criterion
    return {getattr(criterion, "__name__", "loss"): criterion}


def named_metric(
    name: str, metric: Callable[..., Tensor], learner: Learner[Any]
) -> Callable[..., Tensor]:
    """Return the metric of one task with errors that name it, not the learner.

    Raises:
        ValueError: when called, if the metric fails in a transform of PyTorch, or is not one
            number. Other errors get a note with the name.

    Examples:
        >>> import quickstudy as qs
        >>> pair = Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> rows = named_metric("rows", lambda x, _: x.sum(1), qs.MAML(qs.nets.MLP(2, 2)))
        >>> try:
        ...     rows(torch.eye(2), pair)
        ... except ValueError as error:
        ...     print(str(error).partition(":")[0])
        The metric 'rows' has shape (2,) on a task
    """

    def measured(*inputs: Any) -> Tensor:
        try:
            number = metric(*inputs)
        except OutputMismatch:
            raise
        except Exception as error:
            sentence = explain(error, learner, culprit=f"The metric {name!r}")
            if sentence is None:
                error.add_note(f"The metric {name!r} failed.")
                raise
            raise ExplainedError(sentence) from error
        if number.ndim != 0:
            raise ExplainedError(
                f"The metric {name!r} has shape {tuple(number.shape)} on a task: make it "
                "one number, a mean over the queries by their weight."
            )
        return number

    return measured


def draws_random_numbers(learner: Learner[Any], batch: TaskBatch) -> bool:
    """Return whether torch's random state changes when a learner adapts and predicts.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(1, torch.Generator().manual_seed(0))
        >>> draws_random_numbers(qs.PrototypicalNetwork(torch.nn.Identity()), batch)
        False
    """
    support, query = tree_map(lambda leaf: leaf[0], tuple(batch))
    with torch.random.fork_rng([]):
        before = torch.get_rng_state()
        try:
            learner.predict(learner.adapt(support), query.x)
        except Exception:  # evaluation explains it
            return True
        return not torch.equal(before, torch.get_rng_state())


def is_transductive(learner: Learner[Any], batch: TaskBatch) -> bool:
    """Return whether a query's prediction changes when other queries are removed.

    A learner that declares `transductive` is not measured.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(1, torch.Generator().manual_seed(0))
        >>> is_transductive(qs.PrototypicalNetwork(torch.nn.Identity()), batch)
        False
    """
    if learner.transductive:
        return True

    first = tree_map(lambda leaf: leaf[:1], batch)
    with inference(learner) as (fast, execution, chunk), explained(fast, first):

        def predictions(task: Task[Examples]) -> Any:
            state, x = fast.adapt(task.support), task.query.x
            half = (len(leaves(x)[0]) + 1) // 2
            return fast.predict(state, x), fast.predict(
                state, tree_map(lambda leaf: leaf[:half], x)
            )

        all_queries, half = over_tasks(predictions, execution, chunk)(first)
    return any(
        not torch.allclose(
            part, whole[:, : part.shape[1]], rtol=1e-2, atol=1e-3, equal_nan=True
        )
        for whole, part in zip(leaves(all_queries), leaves(half), strict=True)
    )
