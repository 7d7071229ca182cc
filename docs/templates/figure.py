"""The distribution of the losses over tasks."""

from typing import Any

from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import NOTE, first_batch
from quickstudy.reports.html import Axes, Palette, figure, figures
from quickstudy.runs import Benchmark


def draw_losses(learner: Learner[Any], benchmark: Benchmark) -> str:
    """Draw a histogram of the losses of the first tasks of a benchmark.

    Returns:
        HTML; empty for a benchmark of one task.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.MAML(torch.nn.Linear(1, 1), criterion=qs.squared_error)
        >>> benchmark = Benchmark(qs.Sinusoid(5, 9), meta_batch_size=8)
        >>> draw_losses(learner, benchmark).count("<picture>")
        1
    """
    if benchmark.meta_batch_size < 2:
        return ""
    with first_batch(learner, benchmark) as (copy, batch):
        losses = copy(batch).cpu().numpy()

    def draw(axes: Axes, palette: Palette) -> None:
        axes.hist(losses, color=palette["main"])
        axes.set(xlabel="loss", ylabel="tasks")

    return figures([figure(draw, "histogram of losses")], NOTE)
