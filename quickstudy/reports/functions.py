"""Functions of one variable, as a learner predicts them before and after adaptation."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import NOTE, first_batch
from quickstudy.reports.html import Axes, Palette, figure, figures, legend
from quickstudy.runs import Benchmark

FUNCTIONS = 4  # drawn


def draw_functions(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Plot the first tasks of a benchmark with predictions before and after adaptation.

    Returns:
        HTML; empty if tasks are not functions of one variable.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1, hidden=(8,)), criterion=qs.squared_error)
        >>> benchmark = Benchmark(qs.Sinusoid(5, 15), meta_batch_size=1)
        >>> 'alt="function 1"' in draw_functions(learner, benchmark)
        True
    """
    with first_batch(learner, benchmark, seed=seed) as (learner, batch):
        if not batch.support.x.shape[2:] == batch.query.y.shape[2:] == (1,):
            return ""
        shown: TaskBatch = tree_map(lambda leaf: leaf[:FUNCTIONS], batch)
        inputs = torch.cat([shown.support.x, shown.query.x], 1)
        line = torch.linspace(float(inputs.min()), float(inputs.max()), 300)
        x = line.to(inputs)[:, None].expand(len(inputs), -1, 1)
        empty = shown.support._replace(weight=torch.zeros_like(shown.support.weight))
        after, before = (predictions(learner, s, x) for s in (shown.support, empty))
    tasks = tree_map(lambda leaf: leaf.cpu(), shown)
    plots = []
    for i in range(len(x)):
        task, *answers = tree_map(lambda leaf: leaf[i], (tasks, before, after))  # noqa: B023
        plots.append(
            figure(
                partial(_draw, task=task, line=line, before=answers[0], after=answers[1]),
                f"function {i + 1}",
            )
        )
    band = "" if isinstance(after, Tensor) else " The band is ± 2 standard deviations."
    return figures(plots, NOTE + band)


def predictions(learner: Learner[Any], support: Examples, x: Tensor) -> Any:
    """Return the predictions for x (T, N, *features) after adaptation, on the CPU.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> task = qs.Sinusoid(5, 15).sample(2, torch.Generator())
        >>> predictions(learner, task.support, task.query.x).shape
        torch.Size([2, 15, 1])
    """

    def predict(support: Examples, x: Tensor) -> Any:
        return learner.predict(learner.adapt(support), x)

    return tree_map(
        lambda leaf: leaf.cpu(),
        over_tasks(predict, learner.execution, learner.chunk)(support, x),
    )


def _draw(
    axes: Axes, palette: Palette, task: Task[Examples], line: Tensor, before: Any, after: Any
) -> None:
    support, query = (part.take(part.weight > 0) for part in task)
    order = query[0][:, 0].argsort()
    look = "-" if len(order) >= 100 else "."  # so many look like the function itself
    axes.plot(
        query[0][order, 0],
        query[1][order, 0],
        look,
        color=palette["frame"],
        linewidth=3,
        label="truth",
    )
    for prediction, look, colour, when in (
        (before, ":", palette["other"], "before"),
        (after, "-", palette["main"], "after"),
    ):
        curve = prediction if isinstance(prediction, Tensor) else prediction.mean
        if curve.isfinite().all():
            axes.plot(line, curve[:, 0], look, color=colour, label=f"{when} adaptation")
    scale = getattr(after, "scale", None)
    if isinstance(scale, Tensor) and after.mean.isfinite().all():
        low, high = (after.mean[:, 0] + side * scale[:, 0] for side in (-2, 2))
        axes.fill_between(line, low, high, color=palette["main"], alpha=0.2, linewidth=0)
    axes.plot(
        support[0][:, 0],
        support[1][:, 0],
        "o",
        color=palette["ink"],
        markersize=5,
        label="support",
    )
    axes.set(xlabel="x", ylabel="y")
    legend(axes, palette, ncols=4, fontsize=7)
