"""Retrieval of past tasks: which of them a new task starts from."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map, unstack
from quickstudy.learner import Learner
from quickstudy.recall.task_memory import TaskMemory
from quickstudy.reports.first_tasks import NOTE, first_batch
from quickstudy.reports.html import Axes, Palette, figure, legend, paragraph, pixels, table
from quickstudy.runs import Benchmark

TASKS = 4  # new tasks that are shown


def draw_retrieval(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Show which past tasks the first tasks of a benchmark start from.

    Returns:
        HTML: a table, with pictures if tasks are of images or functions of one variable. Empty
        if the learner has no memory of tasks, or an empty one.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> draw_retrieval(learner, Benchmark(qs.Sinusoid(5, 15)))
        ''
    """
    if not isinstance(learner, TaskMemory) or learner.limit == 0 or not learner.count:
        return ""
    rows, plots, pictures = list[list[str]](), "", ""
    with first_batch(learner, benchmark, seed=seed) as (learner, batch):
        batch = tree_map(lambda leaf: leaf[:TASKS].to(learner.states.device), batch)
        for number, support in enumerate(unstack(batch.support), 1):
            places, shares = learner.retrieved(support)
            pairs = list(zip(places.tolist(), shares.tolist(), strict=True))
            pairs = [pair for pair in pairs if pair[1] >= 0.005] or pairs[:1]  # no 0 %
            names = [f"{share:.0%} of {place}" for place, share in pairs]
            rows.append(
                [f"task {number}", ", ".join(names), f"{learner.attention(support)[0]:.0%}"]
            )
            if support.x.shape[1:] == support.y.shape[1:] == (1,):
                x = torch.linspace(
                    float(batch.query.x.min()), float(batch.query.x.max()), 200
                ).to(support.x)[:, None]
                parts = (
                    x,
                    learner.recall(places, x),
                    shares,
                    learner.predict(learner.adapt(support), x),
                    support,
                )
                plots += figure(
                    partial(_curves, *tree_map(Tensor.cpu, parts)),
                    f"past tasks that task {number} started from",
                )
            elif support.x.ndim == 4:
                past = [
                    _images(learner.supports[place], name)
                    for (place, _), name in zip(pairs, names, strict=True)
                    if place in learner.supports
                ]
                shown = _images(support, f"task {number}") + "".join(past)
                pictures += f'<div class="taught">{shown}</div>'
    note = (
        f"{NOTE} A past task is named by its place in the memory. Its share is its weight in "
        "the parameters that adaptation starts from."
    )
    if plots:
        plots = f'<div class="figures">{plots}</div>'
        note += " Thin: the past tasks; the darker, the larger the share."
    if pictures:
        note += " Pictures are of support sets, in the order of their labels; a new task first."
    return (
        plots
        + pictures
        + table(["new task", "starts from past tasks", "from the learned start"], rows)
        + paragraph(note)
    )


def _images(support: Examples, caption: str) -> str:
    """The examples of a support set, by class."""
    x, y = (leaf[support.weight > 0].cpu() for leaf in support[:2])
    x = x[y.argmax(-1).argsort(stable=True)]
    images = "".join(pixels(each, x.min(), x.max()) for each in x)
    return f"<figure><div>{images}</div><figcaption>{caption}</figcaption></figure>"


def _curves(
    x: Tensor,
    past: Tensor,
    shares: Tensor,
    after: Tensor,
    support: Examples,
    axes: Axes,
    palette: Palette,
) -> None:
    for curve, share in zip(past, shares.tolist(), strict=True):
        axes.plot(
            x[:, 0], curve[:, 0], color=palette["other"], linewidth=1, alpha=0.2 + 0.8 * share
        )
    axes.plot(x[:, 0], after[:, 0], color=palette["main"], label="after adaptation")
    real = support.weight > 0
    axes.plot(
        support.x[real, 0], support.y[real, 0], "o", color=palette["ink"], label="support"
    )
    axes.plot([], [], color=palette["other"], linewidth=1, label="past tasks")
    axes.set(xlabel="x", ylabel="y")
    legend(axes, palette, fontsize=7)
