"""Pictures of what a memory did: where each head was at each step of a task.

For the report of a run whose learner says so by a method `attention_weights`.
"""

from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from quickstudy.capabilities import HasAttentionWeights
from quickstudy.core.parameters import device_of
from quickstudy.core.task import Task, batches
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.reports.report import Palette, figure, paragraph
from quickstudy.runs.recipes import Benchmark


def remembering(learner: Learner[Any], test: Benchmark, *, seed: int = 1) -> str:
    """What the memory did in the first task of a test (of `seed`), as HTML; nothing where the
    learner does not say.

    Args:
        learner: stays with the settings of the test.
    """
    if not isinstance(learner, HasAttentionWeights):
        return ""
    for name, value in test.settings.items():
        setattr(learner, name, value)
    batch = next(iter(batches(test.tasks, test.meta_batch_size, steps=1, seed=seed)))
    device = device_of(learner)
    parts = [tree_map(lambda leaf: leaf[0].to(device), part) for part in batch]
    task = Task(*(part.take(part.weight > 0) for part in parts))
    with evaluating(learner):
        found = {name: each.cpu() for name, each in learner.attention_weights(task).items()}
    if not found:
        return ""
    most = torch.cat(list(found.values())).amax(0)  # (M,)
    slots = (most > most.max() / 2).nonzero().flatten()
    rows = slice(int(slots.min()), int(slots.max()) + 1)
    draw = partial(_map, rows=rows, begins=len(task.support.x))
    drawn = [figure(partial(draw, name=n, weighting=w), f"the {n}") for n, w in found.items()]
    note = (
        "The first task of the test, not picked. A column is a step; the darker a slot, the "
        "more of it the head touched. Left of the line the support set is read, right of it "
        "the queries are answered. Slots beyond those that mattered to a head are left out."
    )
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def _map(
    axes: Axes, palette: Palette, name: str, weighting: Tensor, rows: slice, begins: int
) -> None:
    shades = LinearSegmentedColormap.from_list("", [f"{palette['main']}00", palette["main"]])
    ends = 0.5, len(weighting) + 0.5  # steps count from 1
    extent = (*ends, rows.start - 0.5, rows.stop - 0.5)
    look = {"cmap": shades, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    image = weighting[:, rows].T.numpy()
    axes.imshow(image, origin="lower", aspect="auto", extent=extent, **look)
    axes.axvline(begins + 0.5, color=palette["other"], linewidth=1)
    axes.set(xlabel="step", ylabel=f"slot of the {name}")
