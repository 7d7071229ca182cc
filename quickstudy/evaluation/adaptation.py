"""The adaptation trace: what every inner step changes in predictions and in layers.

Raghu, Raghu, Bengio & Vinyals (2020, arXiv:1909.09157) ask whether MAML adapts by rapid
learning (layers and their outputs change much) or by feature reuse (only the head changes).
They compare representations before and after, as here, by CKA (Kornblith, Norouzi, Lee &
Hinton, 2019, arXiv:1905.00414).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import DescendsInSteps
from quickstudy.core.task import Examples, Task, TaskDistribution, seeds
from quickstudy.core.threads import seeded
from quickstudy.core.torch_private import is_functorch_wrapped_tensor
from quickstudy.core.tree import leaves, unstack
from quickstudy.evaluation.protocol import (
    HELD_OUT_RANK,
    Metric,
    default_metrics,
    evaluate,
    evaluating,
    held_out_batches,
)
from quickstudy.evaluation.report import Report
from quickstudy.execution.batching import inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner


@dataclass(frozen=True)
class AdaptationReport:
    """What 0, 1, ... K inner steps change, on the same tasks.

    Layers are the modules that have parameters and are called, in the order of their first
    call, named as in the net. Parts of a state that belong to no layer, such as a context
    vector, come last if they move, by their names in the state.

    Examples:
        >>> from quickstudy.evaluation.report import Report
        >>> reports = [Report({"loss": torch.tensor([value, value])}) for value in (2.0, 1.0)]
        >>> moved = {"head": torch.tensor([[0.0, 0.5]])}
        >>> print(AdaptationReport(tuple(reports), moved, {}))
        steps                       loss
        0                2.0000 ± 0.0000
        1                1.0000 ± 0.0000
        layer        moved  similarity
        head        0.5000
    """

    after: tuple[Report, ...]  # by number of steps: the query loss and other metrics
    moved: Mapping[str, Tensor]  # by layer: |φ - θ| / |θ| (T, K + 1); |φ| where θ is zero
    similarity: Mapping[str, Tensor]  # by layer: of its outputs on the query (T, K + 1)

    def __str__(self) -> str:
        metrics = list(self.after[0].values)
        lines = ["steps   " + "".join(f"{name:>24}" for name in metrics)]
        for k, report in enumerate(self.after):
            cells = (f"{report.mean(m):.4f} ± {report.interval(m):.4f}" for m in metrics)
            lines.append(f"{k:<8}" + "".join(f"{cell:>24}" for cell in cells))
        wide = max(8, *(len(name) + 2 for name in self.moved))
        lines.append(f"{'layer':<{wide}}{'moved':>10}{'similarity':>12}")
        for name, moved in self.moved.items():
            distance = moved[:, -1].mean()
            row = f"{name:<{wide}}{distance:10.4f}"
            if name in self.similarity:
                similarity = self.similarity[name][:, -1].nanmean()
                row += f"{torch.where(distance.isnan(), torch.nan, similarity):12.4f}"
            lines.append(row)
        return "\n".join(lines)


@torch.no_grad()
def adaptation_trace(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    steps: int | None = None,
    n_tasks: int = 100,
    meta_batch_size: int = 50,
    seed: int = 1,
    metrics: Mapping[str, Metric] | None = None,
) -> AdaptationReport:
    """Adapt to the same tasks by 0 to `steps` inner steps, and compare the layers.

    The numbers after each step are those that `evaluate` gives with that many steps. The
    similarity of a layer is the linear CKA of its outputs on a task's query set before and
    after adaptation: 1 if they are equal up to rotation, shift and scale, and NaN if they do
    not vary or cannot be observed. With very few queries it is always high, so use some dozens.

    Args:
        learner: has the capability `DescendsInSteps`.
        steps: None: as many as the learner takes.
        n_tasks: tasks.
        meta_batch_size: tasks at a time; with `seed` it determines the tasks.
        metrics: by name, functions of (prediction, query examples). None: the learner's
            criterion, and the accuracy of a classifier.

    Raises:
        ValueError: the learner takes no inner steps, or `steps` is below 1.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> maml = qs.MAML(qs.nets.MLP(8, 3, hidden=(16,)), lr=0.1, steps=2)
        >>> trace = adaptation_trace(maml, Blobs(), n_tasks=2, meta_batch_size=2)
        >>> len(trace.after), list(trace.moved)
        (3, ['body.0', 'head'])
    """
    if not isinstance(learner, DescendsInSteps):
        raise ValueError(
            f"{type(learner).__name__} has no `steps` of inner gradient descent: give a "
            "learner with the capability `DescendsInSteps`, such as MAML, or call `evaluate`."
        )
    before = learner.steps
    last = before if steps is None else steps
    if last < 1:
        raise ValueError(f"steps={last}: trace at least one.")
    if metrics is None:
        name = getattr(learner.criterion, "__name__", "loss")
        metrics = {name: learner.criterion, **default_metrics(learner)}
    reports = []
    with evaluating(learner) as learner:
        for learner.steps in range(last + 1):
            reports.append(
                evaluate(
                    learner,
                    tasks,
                    n_tasks=n_tasks,
                    meta_batch_size=meta_batch_size,
                    seed=seed,
                    metrics=metrics,
                )
            )
        changes = list(_changes(learner, tasks, last, n_tasks, meta_batch_size, seed))
        learner.steps = before
    moved, similarity = (_stacked(part) for part in zip(*changes, strict=True))
    moved = {name: m for name, m in moved.items() if name in similarity or m.any()}
    return AdaptationReport(tuple(reports), moved, similarity)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Return how similar representations (N, D) and (N, E) of N examples are, from 0 to 1.

    Kornblith et al., 2019, eq. 3 with linear kernels. NaN if one of them does not vary.

    Examples:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 4.0]])
        >>> round(linear_cka(x, 5 * x + 1).item(), 6)
        1.0
    """
    a, b = (x - x.mean(0) for x in (a.double(), b.double()))
    gram_a, gram_b = a @ a.T, b @ b.T
    return (gram_a * gram_b).sum() / (gram_a.norm() * gram_b.norm())


class _Part(NamedTuple):
    """A layer during a call, or a part of a state that belongs to no layer."""

    values: Tensor  # (P,)  of its parameters
    output: Tensor | None  # (Q, D)  of a layer, on the query set; D = 0 if unobserved


def _changes(
    learner: Learner[Any],
    tasks: TaskDistribution,
    last: int,
    n_tasks: int,
    meta_batch_size: int,
    seed: int,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield for each task how far each part moved, and the similarity of each layer's outputs,
    after 0 to `last` steps (K + 1,). Sets `learner.steps`."""
    assert isinstance(learner, DescendsInSteps)
    stream = held_out_batches(learner, tasks, n_tasks, meta_batch_size, seed=seed)
    for number, batch in enumerate(stream):
        states, noise = [], seeds(seed, HELD_OUT_RANK, number)[1]  # as `evaluate` has
        for learner.steps in range(last + 1):
            with seeded(noise), inference(learner) as (fast, execution, chunk):
                with explained(fast, batch):
                    adapted = over_tasks(fast.adapt, execution, chunk)(batch.support)
                states.append(unstack(adapted))
        for task, *path in zip(unstack(batch), *states, strict=True):
            start = _parts(learner, path[0], task)
            rows = [_compared(start, _parts(learner, state, task)) for state in path]
            moved, similarity = zip(*rows, strict=True)
            yield _stacked(moved), _stacked(similarity)


def _parts(learner: Learner[Any], state: Any, task: Task[Examples]) -> dict[str, _Part]:
    """Return the layers that `predict` calls, and the other parts of `state`."""
    parts: dict[str, _Part] = {}
    in_layers: set[int] = set()  # ids of the tensors that are parameters of a layer
    real = task.query.weight > 0

    def record(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        # during the call, the adapted parameters are in their place
        params = list(layer.parameters(recurse=False))
        in_layers.update(map(id, params))
        output = leaves(output)[0].detach()
        rows = output.ndim > 1 and len(output) == len(real)
        if not rows or is_functorch_wrapped_tensor(output):
            output = torch.zeros(len(real), 0).to(real.device)
        output = output[real].flatten(1)
        earlier = parts[name].output if name in parts else None
        if earlier is not None:  # a layer that is called more than once, such as a cell
            output = torch.cat([earlier, output], 1)
        parts[name] = _Part(torch.cat([p.detach().flatten() for p in params]), output)

    hooks = [
        layer.register_forward_hook(partial(record, path.partition(".")[2] or path))
        for path, layer in learner.named_modules()
        if path and next(layer.parameters(recurse=False), None) is not None
    ]
    try:
        learner.predict(state, task.query.x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, leaf in _named("", state):
        if id(leaf) not in in_layers and leaf.is_floating_point():
            parts[name or "state"] = _Part(leaf.detach().flatten(), None)
    return parts


def _compared(
    start: dict[str, _Part], end: dict[str, _Part]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    moved, similarity = {}, {}
    for name, before in start.items():
        after = end[name]
        theta, phi = before.values.double(), after.values.double()
        length = theta.norm()
        moved[name] = (phi - theta).norm() / torch.where(length > 0, length, 1)
        if before.output is not None and after.output is not None:
            similarity[name] = linear_cka(before.output, after.output)
    return moved, similarity


def _stacked(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}


def _named(path: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state with their names, joined by dots."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    if not isinstance(tree, dict):
        tree = dict(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    for name, part in tree.items():
        yield from _named(f"{path}.{name}" if path else str(name), part)
