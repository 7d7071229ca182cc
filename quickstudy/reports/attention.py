"""Attention of a memory: which slots each head reads and writes at each step of a task."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from quickstudy.capabilities import HasAttentionWeights
from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import first_batch, unpadded
from quickstudy.reports.html import Axes, Palette, figure, figures
from quickstudy.runs import Benchmark


def draw_attention(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Map the attention weights of each head in the first task of a benchmark.

    Returns:
        HTML; empty if the learner has no heads.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.SequenceLearner(qs.nets.NTM(5, 4, hidden=8, slots=7, width=4))
        >>> benchmark = Benchmark(qs.tasks.Copy(4, length=(2, 5)), meta_batch_size=1)
        >>> draw_attention(learner, benchmark).count("<picture>")
        2
    """
    if not isinstance(learner, HasAttentionWeights):
        return ""
    with first_batch(learner, benchmark, seed=seed) as (learner, batch):
        (task,) = unpadded(batch, 1)
        heads = {name: w.cpu() for name, w in learner.attention_weights(task).items()}
    if not heads:
        return ""
    largest = torch.cat(list(heads.values())).amax(0)  # (M,)
    slots = (largest > largest.max() / 2).nonzero().flatten()
    rows = slice(int(slots.min()), int(slots.max()) + 1)
    draw = partial(_draw, rows=rows, n_support=len(task.support.x))
    plots = [figure(partial(draw, name=n, weights=w), f"the {n}") for n, w in heads.items()]
    note = (
        "The first task of the test, not picked. A column is a step. The darker a slot, the "
        "larger its weight. Left of the line the support set is read, right of it the queries "
        "are predicted. Slots beyond those with large weights are left out."
    )
    return figures(plots, note)


def _draw(
    axes: Axes, palette: Palette, name: str, weights: Tensor, rows: slice, n_support: int
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("", [f"{palette['main']}00", palette["main"]])
    ends = 0.5, len(weights) + 0.5  # steps count from 1
    extent = (*ends, rows.start - 0.5, rows.stop - 0.5)
    look = {"cmap": shades, "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes.imshow(
        weights[:, rows].T.numpy(), origin="lower", aspect="auto", extent=extent, **look
    )
    axes.axvline(n_support + 0.5, color=palette["other"], linewidth=1)
    axes.set(xlabel="step", ylabel=f"slot of the {name}")
