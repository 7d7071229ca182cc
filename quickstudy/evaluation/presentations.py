"""Accuracy by presentation: at the first, second and later examples of a class.

Santoro et al. (2016, arXiv:1605.06065, table 1) call them instances.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution
from quickstudy.evaluation.protocol import Metric, evaluate
from quickstudy.evaluation.report import Report
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
    """Predict each example of a task before its label is shown, one after the other.

    The sequence of a task is its support set and then its query set, such as those of
    `Presentations`. Any learner can be evaluated: `predict` gets each example by itself, with
    the state that `adapt` has after the examples before. If several classes share the largest
    logit, one of them is guessed: a learner without examples has accuracy 1 / C.

    Args:
        n_tasks: tasks in all, `meta_batch_size` at a time, the same as in `evaluate`.
        at: presentations, counted from 1. Each is a metric: "1st", "2nd", ...
        metrics: by name, functions of the predictions (N, C) and the sequence, in the place of
            those of `at`. `accuracy_at` makes such functions.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of finished tasks.

    Raises:
        ValueError: in one of the tasks no class is presented that often.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> report = evaluate_presentations(
        ...     learner, Blobs(), n_tasks=2, meta_batch_size=2, at=(1, 2)
        ... )
        >>> list(report.values)
        ['1st', '2nd']
    """
    if metrics is None:
        metrics = {_ordinal(number): accuracy_at(number) for number in at}
    report = evaluate(
        _OneByOne(learner, meta_batch_size),
        _Sequences(tasks),
        n_tasks=n_tasks,
        meta_batch_size=meta_batch_size,
        seed=seed,
        metrics={name: partial(_unless_missing, metric) for name, metric in metrics.items()},
        selection=selection,
        progress=progress,
    )
    missing = [metric for metric, values in report.values.items() if values.isneginf().any()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no class of some task is presented so often. Choose "
            "earlier presentations, or draw tasks of more shots or queries."
        )
    return report


def accuracy_at(presentation: int) -> Metric:
    """Return the metric of accuracy at one presentation of each class, counted from 1.

    Examples:
        >>> sequence = Examples(torch.zeros(3, 1), torch.eye(2)[[0, 1, 0]], torch.ones(3))
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
        >>> accuracy_at(1)(logits, sequence).item(), accuracy_at(2)(logits, sequence).item()
        (0.5, 1.0)
    """
    return partial(_accuracy_at, presentation)


def table(reports: Mapping[str, Report]) -> str:
    """Return a table in Markdown of reports by the learner's name, with 95 % intervals.

    Examples:
        >>> print(table({"MANN": Report({"1st": torch.tensor([0.25, 0.25])})}))
        | Learner | 1st |
        | --- | --- |
        | MANN | 25.0% ± 0.0% |
    """
    head = ["Learner", *next(iter(reports.values())).values]
    rows = [head, ["---"] * len(head)]
    for name, report in reports.items():
        rows.append(
            [name, *(f"{report.mean(m):.1%} ± {report.interval(m):.1%}" for m in head[1:])]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(axes: "Axes", reports: Mapping[str, Report]) -> None:
    """Draw accuracy against presentation for reports by the learner's name.

    Bars are 95 % intervals.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> plot(axes, {"MANN": Report({"1st": torch.tensor([0.2, 0.3])})})
        >>> axes.get_xlabel()
        'presentation of a class'
    """
    for name, report in reports.items():
        at = [int(metric.rstrip("stndrh")) for metric in report.values]
        mean = [report.mean(metric) for metric in report.values]
        bars = [report.interval(metric) for metric in report.values]
        axes.errorbar(at, mean, bars, marker="o", capsize=3, label=name)
    axes.set(xlabel="presentation of a class", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend()


def _accuracy_at(presentation: int, logits: Tensor, sequence: Examples) -> Tensor:
    shown = (sequence.y * sequence.weight[:, None]).cumsum(0)
    times = (shown * sequence.y).sum(-1)  # (N,)  presentations of the class so far
    weight = sequence.weight * (times == presentation)
    guessed = logits.isnan() & ~_undefined(logits, sequence)
    score = logits.masked_fill(guessed, -torch.inf)
    best = (score == score.amax(-1, keepdim=True)).to(weight)
    hit = (best * sequence.y).sum(-1) / best.sum(-1)  # NaN if a logit is
    return torch.where(weight.sum() > 0, weighted_mean(hit, weight), torch.nan)


def _undefined(logits: Tensor, sequence: Examples) -> Tensor:
    """Whether logits (N, C) are NaN though an example came before: the learner diverged."""
    later = sequence.weight.cumsum(0) > sequence.weight
    return logits.isnan() & later[:, None]


def _unless_missing(metric: Metric, logits: Tensor, sequence: Examples) -> Tensor:
    """Return the metric, or -inf if it is NaN although the logits are defined."""
    number = metric(logits, sequence)
    missing = number.isnan() & ~_undefined(logits, sequence).any()
    return torch.where(missing, -torch.inf, number)


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else last}"


class _Sequences(TaskDistribution):
    """Tasks whose support and query sets are both the whole sequence."""

    def __init__(self, tasks: TaskDistribution):
        self.tasks = tasks

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        support, query = self.tasks.sample(n_tasks, generator)
        sequence = Examples.cat(support, query, dim=1)
        return Task(sequence, sequence)

    def card(self) -> dict[str, Json]:
        return {**self.tasks.card(), "asked": "before each example is told"}


class _OneByOne(Learner[Tensor]):
    """A learner whose state is the predictions (N, C) of another, made one by one."""

    def __init__(self, learner: Learner[Any], meta_batch_size: int):
        super().__init__()
        self.learner = learner
        self.execution, self.transductive = learner.execution, learner.transductive
        # images come one by one: many tasks fit a cache
        self.chunk = learner.chunk or meta_batch_size

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        predictions: list[Tensor] = []
        inner: Any = None
        for i in range(len(support.x)):
            example = support.take(slice(i, i + 1))
            padding = example._replace(weight=torch.zeros_like(example.weight))
            before = self.learner.adapt(padding) if inner is None else inner
            predictions.append(self.learner.predict(before, example.x)[0])
            inner = self.learner.adapt(example, inner)
        return torch.stack(predictions)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return state[: len(x)]
