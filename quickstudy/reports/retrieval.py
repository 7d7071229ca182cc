"""Pictures of which past tasks a new one was started from.

For the report of a run whose learner is a `TaskMemory`.
"""

from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from quickstudy.core.task import Examples, batches
from quickstudy.core.tree import tree_map, unstack
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.recall.task_memory import TaskMemory
from quickstudy.reports.report import Palette, figure, paragraph, pixels, table
from quickstudy.runs.recipes import Benchmark

TASKS = 4  # new ones that are shown


def retrieving(learner: Learner[Any], test: Benchmark, *, seed: int = 1) -> str:
    """Which past tasks the first tasks of a test (of `seed`) start from, as HTML: a table, and
    pictures where tasks are of images, or functions of one variable. Nothing where the learner
    has no memory of tasks, or an empty one.

    Args:
        learner: stays with the settings of the test.
    """
    for name, value in test.settings.items():
        setattr(learner, name, value)
    if not isinstance(learner, TaskMemory) or learner.limit == 0 or not learner.count:
        return ""
    batch = next(iter(batches(test.tasks, test.meta_batch_size, steps=1, seed=seed)))
    few = tree_map(lambda leaf: leaf[:TASKS].to(learner.states.device), batch)
    rows, drawn, pictures = list[list[str]](), "", ""
    with evaluating(learner):
        for number, support in enumerate(unstack(few.support), 1):
            places, shares = learner.retrieved(support)
            each = list(zip(places.tolist(), shares.tolist(), strict=True))
            own = f"{learner.attention(support)[0]:.0%}"
            each = [one for one in each if one[1] >= 0.005] or each[:1]  # no 0 %
            names = [f"{share:.0%} of {place}" for place, share in each]
            rows.append([f"task {number}", ", ".join(names), own])
            if support.x.shape[1:] == support.y.shape[1:] == (1,):
                ends = float(few.query.x.min()), float(few.query.x.max())
                x = torch.linspace(*ends, 200).to(support.x)[:, None]
                after = learner.predict(learner.adapt(support), x)
                parts = x, learner.recall(places, x), shares, after, support
                draw = partial(_curves, *tree_map(Tensor.cpu, parts))
                drawn += figure(draw, f"what task {number} started from")
            elif support.x.ndim == 4:
                known = [
                    _images(learner.supports[place], name)
                    for (place, _), name in zip(each, names, strict=True)
                    if place in learner.supports
                ]
                shown = _images(support, f"task {number}") + "".join(known)
                pictures += f'<div class="taught">{shown}</div>'
    note = (
        "The first tasks of the test, not picked. A past task is named by its place in the "
        "memory; the share is its part of the weights that adaptation starts from."
    )
    if drawn:
        drawn = f'<div class="figures">{drawn}</div>'
        note += " Thin: what was learned of each past task; the more of it is used, the darker."
    if pictures:
        note += " Pictures are of support sets, in the order of their labels; a new task first."
    head = ["new task", "starts from past tasks", "from the learned start"]
    return drawn + pictures + table(head, rows) + paragraph(note)


def _images(support: Examples, says: str) -> str:
    """The examples of a support set, by class."""
    x, y = (leaf[support.weight > 0].cpu() for leaf in support[:2])
    x = x[y.argmax(-1).argsort(stable=True)]
    images = "".join(pixels(each, x.min(), x.max()) for each in x)
    return f"<figure><div>{images}</div><figcaption>{says}</figcaption></figure>"


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
    axes.legend(frameon=False, labelcolor=palette["ink"], fontsize=7)
