"""How soon a class is recognised: accuracy at its first, second, ... presentation (Santoro et
al., 2016, arXiv:1605.06065, table 1)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution
from quickstudy.evaluation.protocol import Metric, Report, evaluate
from quickstudy.learner import Learner

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def evaluate_presentations(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
    at: Sequence[int] = (1, 2, 5, 10),
    metrics: Mapping[str, Metric] | None = None,
    selection: str = "last step",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Tells a learner the examples of a task one by one, each after asking what it is.

    The sequence of a task is its support set and then its query set, such as those of
    `Presentations`. Any learner will do: each example is given to `predict` by itself, with
    what `adapt` has made of those before. Several classes that are equally likely count as
    guessing among them: before the first example, a learner that knows nothing has 1 / C.

    Args:
        n_tasks: tasks in all, `meta_batch_size` at a time, as `evaluate` has them for `seed`.
        at: presentations, counting from 1. Each is a metric: "1st", "2nd", ...
        metrics: by name, functions of the guesses (N, C) and the sequence, instead of those
            that `at` says. `accuracy_at` makes such functions.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of tasks done so far.

    Raises:
        ValueError: in one of the tasks no class is presented that often.
    """
    chosen = {_ordinal(number): accuracy_at(number) for number in at}
    report = evaluate(
        _Presented(learner, meta_batch_size),
        _Sequences(tasks),
        n_tasks=n_tasks,
        meta_batch_size=meta_batch_size,
        seed=seed,
        metrics=chosen if metrics is None else metrics,
        selection=selection,
        progress=progress,
    )
    missing = [metric for metric, values in report.values.items() if values.isnan().any()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no class of some task is presented so often. Ask at "
            "earlier presentations, or draw tasks of more shots or queries."
        )
    return report


def accuracy_at(presentation: int) -> Metric:
    """The share of right guesses where a class is presented for that many'th time."""
    return partial(_accuracy_at, presentation)


def table(reports: Mapping[str, Report]) -> str:
    """Reports of `evaluate_presentations`, by the learner's name, as a table in Markdown:
    per cent, and the 95 % interval."""
    head = ["Learner", *next(iter(reports.values())).values]
    rows = [head, ["---"] * len(head)]
    for name, report in reports.items():
        cells = (f"{report.mean(m):.1%} ± {report.interval(m):.1%}" for m in head[1:])
        rows.append([name, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(axes: "Axes", reports: Mapping[str, Report]) -> None:
    """Draws accuracy against presentation for reports of `evaluate_presentations`, by the
    learner's name; bars are 95 % intervals."""
    for name, report in reports.items():
        at = [int(metric.rstrip("stndrh")) for metric in report.values]
        mean = [report.mean(metric) for metric in report.values]
        bars = [report.interval(metric) for metric in report.values]
        axes.errorbar(at, mean, bars, marker="o", capsize=3, label=name)
    axes.set(xlabel="presentation of a class", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend()


def _accuracy_at(presentation: int, guesses: Tensor, sequence: Examples) -> Tensor:
    told = sequence.y * sequence.weight[:, None]
    time = (told.cumsum(0) * sequence.y).sum(-1)  # (N,)  how often the class came so far
    asked = sequence.weight * (time == presentation)
    score = guesses.masked_fill(guesses.isnan(), -torch.inf)
    best = (score == score.amax(-1, keepdim=True)).to(asked)
    hit = (best * sequence.y).sum(-1) / best.sum(-1)
    return (hit * asked).sum() / asked.sum()


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else last}"


class _Sequences(TaskDistribution):
    """Tasks whose support set, as their query set, is the whole sequence."""

    def __init__(self, tasks: TaskDistribution):
        self.tasks = tasks

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        support, query = self.tasks.sample(n_tasks, generator)
        parts = zip(support, query, strict=True)
        sequence = Examples(*(torch.cat(part, 1) for part in parts))
        return Task(sequence, sequence)

    def card(self) -> dict[str, Json]:
        return {**self.tasks.card(), "asked": "before each example is told"}


class _Presented(Learner[Tensor]):
    """What another learner guesses of each example before it is told (N, C) is what this one
    knows, so that `evaluate` can judge it."""

    def __init__(self, learner: Learner[Any], size: int):
        super().__init__()
        self.learner = learner
        self.execution, self.transductive = learner.execution, learner.transductive
        self.chunk = learner.chunk or size  # images come one by one: many tasks fit a cache

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        guesses: list[Tensor] = []
        known: Any = None
        for i in range(len(support.x)):
            one = Examples(*(leaf[i : i + 1] for leaf in support))
            if known is None:
                nothing = one._replace(weight=torch.zeros_like(one.weight))
                asked = self.learner.adapt(nothing)
            else:
                asked = known
            guesses.append(self.learner.predict(asked, one.x)[0])
            known = self.learner.adapt(one, known)
        return torch.stack(guesses)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return state[: len(x)]
