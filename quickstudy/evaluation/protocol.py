"""Meta-testing: the same protocol for every learner."""

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.core.functional import accuracy, cross_entropy, leaves, tree_map
from quickstudy.core.task import (
    Examples,
    Json,
    Task,
    TaskBatch,
    TaskDistribution,
    batches,
    entropy,
)
from quickstudy.execution.batching import explained, inference, over_tasks
from quickstudy.learner import Learner
from quickstudy.storage.files import replace_file

Metric = Callable[[Any, Examples], Tensor]


class Difference(NamedTuple):
    """One learner against another on the same tasks, for one metric."""

    mean: float  # of (this - other) over tasks
    interval: float  # half the width of the 95 % interval of that mean
    wins: float  # probability that this has the larger value on a task; a tie counts half

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.interval:.4f}, larger on {self.wins:.0%} of tasks"


@dataclass(frozen=True)
class Report:
    """A number per task and metric, and the protocol that they were measured by.

    Methods that take a `metric` raise a ValueError where the report has no such metric.
    """

    values: Mapping[str, Tensor]  # (T,) each, float64
    card: Mapping[str, Json] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Mean over tasks."""
        return self._of(metric).mean().item()

    def interval(self, metric: str) -> float:
        """Half the width of the 95 % interval of the mean over tasks; NaN for one task."""
        return _half_width(self._of(metric))

    def compare(self, other: "Report", metric: str | None = None) -> Difference:
        """This minus `other`, paired by task.

        Args:
            metric: None for the first.

        Raises:
            ValueError: the two were not measured on the same tasks.
        """
        metric = next(iter(self.values)) if metric is None else metric
        mine, others = self._of(metric), other._of(metric)
        facts = sorted({*self.card, *other.card} - _OF_THE_LEARNER)
        keys = [key for key in facts if self.card.get(key) != other.card.get(key)]
        if keys or len(mine) != len(others):
            raise ValueError(
                "These reports are of different tasks "
                f"(they differ in {', '.join(keys) or 'their number'}). "
                "Evaluate both with the same tasks, count, size and seed."
            )
        gap = mine - others
        wins = ((gap > 0).double() + 0.5 * (gap == 0).double()).mean().item()
        return Difference(gap.mean().item(), _half_width(gap), wins)

    def to_json(self) -> Json:
        """A summary for reading, and every value for `from_json`. JSON knows no NaN and no
        infinity: they become null."""
        return {
            "summary": {
                m: {"mean": _finite(self.mean(m)), "interval": _finite(self.interval(m))}
                for m in self.values
            },
            "card": dict(self.card),
            "values": {m: [_finite(x) for x in v.tolist()] for m, v in self.values.items()},
        }

    @classmethod
    def from_json(cls, data: Json) -> "Report":
        """The inverse of `to_json`; null becomes NaN."""
        values = {
            m: torch.tensor([math.nan if x is None else x for x in v], dtype=torch.float64)
            for m, v in data["values"].items()
        }
        return cls(values, data["card"])

    def save(self, path: str | Path) -> None:
        """Writes `to_json` to a file, as a whole or not at all."""
        replace_file(Path(path), (json.dumps(self.to_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Reads what `save` wrote."""
        return cls.from_json(json.loads(Path(path).read_text()))

    def __str__(self) -> str:
        rows = [f"{m} {self.mean(m):.4f} ± {self.interval(m):.4f}" for m in self.values]
        card = ", ".join(f"{key}: {value}" for key, value in self.card.items())
        return ", ".join(rows) + (f"  [{card}]" if card else "")

    def _of(self, metric: str) -> Tensor:
        if metric not in self.values:
            raise ValueError(
                f"This report has no metric {metric!r}; it has: {', '.join(self.values)}."
            )
        return self.values[metric].double()


_APART = 2**32 - 1  # the rank of no training process: tasks made up anew are never its tasks
_OF_THE_LEARNER = {"learner", "selection", "transductive"}  # the rest of a card: of the tasks


def _half_width(values: Tensor) -> float:
    if len(values) < 2:
        return math.nan
    return 1.96 * values.std().item() / len(values) ** 0.5


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def pack(values: Tensor) -> str:
    """Numbers (T,), to four digits, as a short text."""
    digits = " ".join(f"{value:.4g}" for value in values.tolist())
    return base64.b64encode(zlib.compress(digits.encode(), 9)).decode()


def unpack(text: str) -> Tensor:
    """The inverse of `pack`: (T,), float64."""
    digits = zlib.decompress(base64.b64decode(text)).decode().split()
    return torch.tensor([float(value) for value in digits], dtype=torch.float64)


@contextmanager
def evaluating(learner: Learner[Any]) -> Iterator[None]:
    """Evaluation mode, and no graph; then modes and torch's random state are as before."""
    training = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            yield
    finally:
        for module, mode in training.items():  # each its own: some may be kept in eval mode
            module.training = mode


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
    """Adapts to `n_tasks` tasks, each on its own, and judges the query sets.

    Nothing is learned, no graph is kept, and torch's random state is left as it was. The
    report's card says where the tasks came from and, measured on the first of them, whether
    the prediction of a query depends on the other queries ("transductive"). Convolutions on a
    CPU are done task by task, in the memory layout that is fastest there, unless
    `learner.chunk` is set.

    Args:
        n_tasks: tasks in all; of a larger count, the first ones are the same.
        meta_batch_size: tasks drawn at a time. With `seed` it says which tasks: to save memory and
            have the same tasks, lower `learner.chunk` instead.
        metrics: by name, functions of (prediction, query examples). None: accuracy, or
            the learner's criterion where that is not the cross-entropy.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of tasks done so far.

    Raises:
        ValueError: `n_tasks` or `meta_batch_size` is below 1, or a metric is not one number for a task.
    """
    if n_tasks < 1 or meta_batch_size < 1:
        raise ValueError(
            f"n_tasks={n_tasks}, meta_batch_size={meta_batch_size}: evaluate at least one task at a time."
        )
    chosen = default_metrics(learner) if metrics is None else metrics

    def judge(task: Task[Examples]) -> dict[str, Tensor]:
        prediction = learner.predict(learner.adapt(task.support), task.query.x)
        numbers = {name: metric(prediction, task.query) for name, metric in chosen.items()}
        for name, number in numbers.items():
            if number.ndim != 0:
                raise ValueError(
                    f"The metric {name!r} has shape {tuple(number.shape)} on a task: make it "
                    "one number, a mean over the queries by their weight."
                )
        return numbers

    where = next((p.device for p in learner.parameters()), torch.device("cpu"))
    transductive = False
    done = 0
    parts: list[dict[str, Tensor]] = []
    with evaluating(learner):
        for batch in batches(
            tasks, meta_batch_size, steps=-(-n_tasks // meta_batch_size), seed=seed, rank=_APART
        ):
            noise = entropy(seed, _APART, len(parts)) + 1  # + 1: not the tasks' numbers
            torch.manual_seed(noise)
            batch = tree_map(lambda leaf: leaf[: n_tasks - done].to(where), batch)  # noqa: B023
            if not parts:
                transductive = is_transductive(learner, batch)
            with explained(learner, batch), inference(learner) as (execution, chunk):
                parts.append(over_tasks(judge, execution, chunk)(batch))
            done = min(done + meta_batch_size, n_tasks)
            if progress is not None:
                progress(done)
    values = {m: torch.cat([part[m] for part in parts]).cpu().double() for m in chosen}
    card = {
        **tasks.card(),
        "episodes": n_tasks,
        "batch": meta_batch_size,
        "seed": seed,
        "transductive": transductive,
        "selection": selection,
    }
    return Report(values, card)


def default_metrics(learner: Learner[Any]) -> dict[str, Metric]:
    """Accuracy for a classifier; otherwise what the learner itself minimises."""
    if learner.criterion is cross_entropy:
        return {"accuracy": accuracy}
    return {getattr(learner.criterion, "__name__", "loss"): learner.criterion}


def is_transductive(learner: Learner[Any], batch: TaskBatch) -> bool:
    """Whether a query is predicted otherwise alone than among the other queries: by design, or
    as measured."""
    if learner.transductive:
        return True

    def predictions(task: Task[Examples]) -> Any:
        state = learner.adapt(task.support)
        x = task.query.x
        return learner.predict(state, x), learner.predict(state, x[: (len(x) + 1) // 2])

    first = tree_map(lambda leaf: leaf[:1], batch)
    with explained(learner, first), inference(learner) as (execution, chunk):
        together, apart = over_tasks(predictions, execution, chunk)(first)
    return any(
        not torch.allclose(
            part, whole[:, : part.shape[1]], rtol=1e-2, atol=1e-3, equal_nan=True
        )
        for whole, part in zip(leaves(together), leaves(apart), strict=True)
    )
