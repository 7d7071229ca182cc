"""Inside the adaptation: what every inner step does for the query set and to every layer.

Raghu, Raghu, Bengio & Vinyals (2020, arXiv:1909.09157) ask whether MAML adapts by rapid
learning (layers and what they represent change much) or by feature reuse (only the head does).
They compare representations before and after, as here, by CKA (Kornblith, Norouzi, Lee &
Hinton, 2019, arXiv:1905.00414).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Task, TaskDistribution, batches, seeds
from quickstudy.core.torch_private import is_functorch_wrapped_tensor
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.evaluation.protocol import _APART, Metric, Report, default_metrics, evaluate
from quickstudy.execution.batching import inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner


@dataclass(frozen=True)
class AdaptationReport:
    """What adaptation does to the same tasks by 0, 1, ... K inner steps.

    Layers are the modules that have parameters and are called, in the order of their first
    call, named as in the net. Parts of a state that are no layer's, such as a context vector,
    come last if they move, by their names in the state.
    """

    after: tuple[Report, ...]  # of every number of steps: the query loss and other metrics
    moved: Mapping[str, Tensor]  # by layer: |φ - θ| / |θ| (T, K + 1); |φ| where θ is zero
    similarity: Mapping[str, Tensor]  # by layer: of its outputs on the query (T, K + 1)

    def __str__(self) -> str:
        metrics = list(self.after[0].values)
        lines = ["steps   " + "".join(f"{name:>24}" for name in metrics)]
        for k, report in enumerate(self.after):
            said = (f"{report.mean(m):.4f} ± {report.interval(m):.4f}" for m in metrics)
            lines.append(f"{k:<8}" + "".join(f"{number:>24}" for number in said))
        wide = max(8, *(len(name) + 2 for name in self.moved))
        lines.append(f"{'layer':<{wide}}{'moved':>10}{'similarity':>12}")
        for name, moved in self.moved.items():
            row = f"{name:<{wide}}{moved[:, -1].mean():10.4f}"
            if name in self.similarity:
                row += f"{self.similarity[name][:, -1].nanmean():12.4f}"
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
    """Adapts to the same tasks by 0 to `steps` inner steps and looks at what changed.

    For every learner that descends: one whose attribute `steps` says how far. The numbers after
    each step are those that `evaluate` gives with that many steps. The similarity of a layer is
    the linear CKA of its outputs on a task's query set before and after adaptation: 1 where
    they are equal but for rotation, shift and scale, and NaN where they don't vary or cannot be
    seen. Of very few queries it is always high, so have some dozens.

    Args:
        steps: None: as many as the learner does.
        n_tasks: tasks.
        meta_batch_size: tasks at a time; with `seed` it says which.
        metrics: by name, functions of (prediction, query examples). None: the learner's
            criterion, and the accuracy of a classifier.

    Raises:
        ValueError: the learner has no `steps`, or fewer than one are asked for.
    """
    before = getattr(learner, "steps", None)
    if not isinstance(before, int):
        raise ValueError(
            f"{type(learner).__name__} has no `steps` to look inside of: give a learner that "
            "adapts by gradient descent, or call `evaluate`."
        )
    last = before if steps is None else steps
    if last < 1:
        raise ValueError(f"steps={last}: look inside of at least one.")
    if metrics is None:
        name = getattr(learner.criterion, "__name__", "loss")
        metrics = {name: learner.criterion, **default_metrics(learner)}
    reports = []
    try:
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
        with _evaluating(learner):
            changes = list(_changes(learner, tasks, last, n_tasks, meta_batch_size, seed))
    finally:
        learner.steps = before
    moved, similarity = (_stacked(part) for part in zip(*changes, strict=True))
    still = [name for name in moved if name not in similarity and not moved[name].any()]
    for name in still:  # what a state keeps beside what it adapts
        del moved[name]
    return AdaptationReport(tuple(reports), moved, similarity)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """How alike two representations (N, D) and (N, E) of the same N examples are, from 0 to 1
    (Kornblith et al., 2019, eq. 3 with linear kernels); NaN where one does not vary."""
    a, b = (x - x.mean(0) for x in (a.double(), b.double()))
    gram_a, gram_b = a @ a.T, b @ b.T
    return (gram_a * gram_b).sum() / (gram_a.norm() * gram_b.norm())


class _Part(NamedTuple):
    """A layer at work, or a part of a state that is no layer's."""

    values: Tensor  # (P,)  of its parameters
    output: Tensor | None  # (Q, D)  of a layer, on the query set; D = 0 if it can't be seen


def _changes(
    learner: Learner[Any],
    tasks: TaskDistribution,
    last: int,
    count: int,
    size: int,
    seed: int,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """For every task how far each part moved, and how similar each layer's outputs stayed, by 0
    to `last` steps (K + 1,). Sets `learner.steps`."""
    where = device_of(learner)
    stream = batches(tasks, size, steps=-(-count // size), seed=seed, rank=_APART)
    for number, batch in enumerate(stream):
        batch = tree_map(lambda leaf, n=number: leaf[: count - n * size].to(where), batch)
        states = []
        with torch.random.fork_rng(), explained(learner, batch):
            for learner.steps in range(last + 1):
                torch.manual_seed(seeds(seed, _APART, number)[1])  # as `evaluate` does
                with inference(learner) as (execution, chunk):
                    states.append(
                        unstack(over_tasks(learner.adapt, execution, chunk)(batch.support))
                    )
        for task, *path in zip(unstack(batch), *states, strict=True):
            start = _parts(learner, path[0], task)
            rows = [_compared(start, _parts(learner, state, task)) for state in path]
            moved, similarity = zip(*rows, strict=True)
            yield _stacked(moved), _stacked(similarity)


def _parts(learner: Learner[Any], state: Any, task: Task[Examples]) -> dict[str, _Part]:
    """What is at work when `state` is asked about the query set."""
    found: dict[str, _Part] = {}
    held: set[int] = set()  # the tensors that are parameters of a layer
    real = task.query.weight > 0

    def see(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        # what is in the place of the parameters during the call: the adapted ones
        params = list(layer.parameters(recurse=False))
        held.update(map(id, params))
        output = leaves(output)[0].detach()
        rows = output.ndim > 1 and len(output) == len(real)
        if not rows or is_functorch_wrapped_tensor(output):
            output = torch.zeros(len(real), 0).to(real.device)
        output = output[real].flatten(1)
        earlier = found[name].output if name in found else None
        if earlier is not None:  # a layer that is called more than once, such as a cell
            output = torch.cat([earlier, output], 1)
        found[name] = _Part(torch.cat([p.detach().flatten() for p in params]), output)

    hooks = [
        layer.register_forward_hook(partial(see, path.partition(".")[2] or path))
        for path, layer in learner.named_modules()
        if path and next(layer.parameters(recurse=False), None) is not None
    ]
    try:
        learner.predict(state, task.query.x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, leaf in _named("", state):
        if id(leaf) not in held and leaf.is_floating_point():
            found[name or "state"] = _Part(leaf.detach().flatten(), None)
    return found


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
    """The tensors of a state with their names, joined by dots."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    if not isinstance(tree, dict):
        fields = getattr(tree, "_fields", range(len(tree)))
        tree = dict(zip(fields, tree, strict=True))
    for name, part in tree.items():
        yield from _named(f"{path}.{name}" if path else str(name), part)


@contextmanager
def _evaluating(learner: nn.Module) -> Iterator[None]:
    """In evaluation mode, and afterwards every module in the mode it was in."""
    training = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
