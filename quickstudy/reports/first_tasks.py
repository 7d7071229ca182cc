"""The first tasks of a benchmark, on which figures show what a learner does."""

from collections.abc import Iterator
from contextlib import contextmanager

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Task, TaskBatch, batches
from quickstudy.core.tree import tree_map, unstack
from quickstudy.evaluation.protocol import AnyLearner, evaluating
from quickstudy.runs import Benchmark, settings_applied

NOTE = "The first tasks of the test, not picked."


@contextmanager
def first_batch(
    learner: AnyLearner, benchmark: Benchmark, *, seed: int = 1
) -> Iterator[tuple[AnyLearner, TaskBatch]]:
    """Draw the first batch that `evaluate` draws with `seed`. No graph is built meanwhile.

    Yields:
        A copy of the learner in evaluation mode with the settings of the benchmark, and the
        batch, on the learner's device.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.MAML(torch.nn.Linear(1, 1), steps=1, criterion=qs.squared_error)
        >>> benchmark = Benchmark(qs.Sinusoid(5, 15), {"steps": 10}, meta_batch_size=4)
        >>> with first_batch(learner, benchmark) as (copy, batch):
        ...     print(tuple(batch.support.x.shape), copy.steps, copy.training)
        (4, 5, 1) 10 False
    """
    with evaluating(learner) as copy, settings_applied(copy, benchmark.settings):
        batch = next(
            iter(batches(benchmark.tasks, benchmark.meta_batch_size, steps=1, seed=seed))
        )
        yield copy, tree_map(lambda leaf: leaf.to(device_of(learner)), batch)


def unpadded(batch: TaskBatch, n_tasks: int) -> list[Task[Examples]]:
    """Return the first tasks of a batch without their padding.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> y = torch.ones(2, 3, 1)
        >>> padded = qs.Examples(y, y, torch.tensor([[1.0, 1, 0], [1, 1, 1]]))
        >>> [len(task.support.x) for task in unpadded(qs.Task(padded, padded), 2)]
        [2, 3]
    """
    return [
        Task(*(part.take(part.weight > 0) for part in task))
        for task in unstack(batch)[:n_tasks]
    ]
