"""Pictures of how a learner compares: a map of an episode, nearest neighbours, both errors.

For the report of a run whose learner has an embedding.
"""

from functools import partial
from html import escape
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from quickstudy.capabilities import Embeds
from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Task, batches
from quickstudy.core.tree import tree_map, unstack
from quickstudy.estimators.error_rates import equal_error_rate, roc
from quickstudy.evaluation.pairwise import embed, similarities
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.reports.report import Palette, figure, paragraph, pixels
from quickstudy.runs.recipes import Benchmark

TASKS = 20  # whose pairs make the curve, at most
ASKED, NEAREST = 12, 3  # queries with neighbours, and neighbours of each


@torch.no_grad()
def comparing(learner: Learner[Any], test: Benchmark, *, seed: int = 1) -> str:
    """How the learner compares examples of the first tasks of a test (of `seed`), as HTML;
    nothing where it has no embedding, or tasks have no classes.

    Args:
        learner: stays with the settings of the test.
    """
    for name, value in test.settings.items():
        setattr(learner, name, value)
    batch = next(iter(batches(test.tasks, test.meta_batch_size, steps=1, seed=seed)))
    if not (isinstance(learner, Embeds) and _has_classes(batch.query.y)):
        return ""
    device = device_of(learner)
    tasks = [_real(task, device) for task in unstack(batch)[:TASKS]]
    with evaluating(learner):
        embedded = [embed(learner, part.x).cpu() for part in tasks[0]]
        scores = [similarities(learner, query.x, support.x) for support, query in tasks]
    places, share = plane(*embedded)
    same = [query.y @ support.y.T > 0.5 for support, query in tasks]
    pooled = [np.concatenate([part.flatten().cpu() for part in all]) for all in (scores, same)]
    first = tree_map(lambda leaf: leaf.cpu(), tasks[0])
    drawn = figure(partial(_map, task=first, places=places), "map of an episode", (4.6, 4.0))
    drawn += figure(partial(_curve, scores=pooled[0], same=pooled[1]), "errors of verification")
    note = (
        "The map is of the first task of the test, in the plane of its embeddings' two main "
        f"directions, which have {share:.0%} of their variance: support examples large, "
        "queries small, a colour for each class; before any adaptation. The curve is of "
        "verification: whether a query and a support example are of one class, told by a "
        f"threshold, on all such pairs of {len(tasks)} tasks; the equal error rate is "
        f"{equal_error_rate(*pooled):.1%}."
    )
    html = f'<div class="figures">{drawn}</div>{paragraph(note)}'
    if first.query.x.ndim == 4:
        html += _neighbours(first, scores[0].cpu())
    return html


def plane(*parts: Tensor) -> tuple[list[Tensor], float]:
    """Embeddings (N, D) each, projected together on their two main directions (N, 2), and the
    share of the variance that these have: principal components."""
    whole = torch.cat(parts).double()
    centred = whole - whole.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    flat = torch.nn.functional.pad(centred @ directions[:2].T, (0, max(0, 2 - len(directions))))
    power = singular.square()
    share = power[:2].sum() / power.sum().clamp_min(1e-300)
    return list(flat.split([len(part) for part in parts])), share.item()


def _has_classes(y: Tensor) -> bool:
    return y.shape[-1] > 1 and bool(((y == 0) | (y == 1)).all())


def _real(task: Task[Examples], device: torch.device) -> Task[Examples]:
    """Without padding and examples that have no label."""
    rows = [(part.weight > 0) & part.y.any(-1) for part in task]
    kept = (
        Examples(*(leaf[keep].to(device) for leaf in part))
        for part, keep in zip(task, rows, strict=True)
    )
    return Task(*kept)


def _map(axes: Axes, palette: Palette, task: Task[Examples], places: list[Tensor]) -> None:
    ways = task.support.y.shape[-1]
    colours = colormaps["tab10" if ways <= 10 else "turbo"]
    number = np.arange(ways) if ways <= 10 else np.linspace(0, 1, ways)
    looks = (
        {"s": 110, "marker": "o", "edgecolors": palette["ink"], "linewidths": 1.2},
        {"s": 14, "marker": "o", "linewidths": 0},
    )
    for part, at, look, order in zip(task, places, looks, (1, 2), strict=True):
        colour = colours(number[part.y.argmax(-1).numpy()])
        axes.scatter(at[:, 0], at[:, 1], color=colour, zorder=order, **look)
    axes.set(xticks=[], yticks=[], xlabel="first direction", ylabel="second direction")
    axes.set_aspect("equal", adjustable="datalim")


def _curve(axes: Axes, palette: Palette, scores: np.ndarray, same: np.ndarray) -> None:
    _, accept, reject = roc(scores, same)
    rate = equal_error_rate(scores, same)
    axes.plot([0, 100], [0, 100], ":", color=palette["frame"])
    axes.plot(100 * accept, 100 * (1 - reject), color=palette["main"])
    mark = f"equal error rate {rate:.1%}"
    axes.plot(100 * rate, 100 * (1 - rate), "o", color=palette["other"], label=mark)
    axes.set(
        xlabel="pairs of two classes accepted (%)", ylabel="pairs of one class accepted (%)"
    )
    axes.legend(frameon=False, labelcolor=palette["ink"], loc="lower right")


def _neighbours(task: Task[Examples], scores: Tensor) -> str:
    """Some queries, as many of each class, each beside the support examples most like it."""
    support, query = task
    low, high = support.x.min(), support.x.max()

    image = partial(pixels, low=low, high=high)
    truth, labels = query.y.argmax(-1), support.y.argmax(-1)
    turn = torch.stack([(truth[:q] == truth[q]).sum() for q in range(len(truth))])
    chosen = (turn * query.y.shape[-1] + truth).argsort()[:ASKED].tolist()
    asked = []
    for q in chosen:
        nearest = scores[q].topk(min(NEAREST, len(labels))).indices.tolist()
        right = labels[nearest[0]] == truth[q]
        marks = "".join("✓" if labels[s] == truth[q] else "✗" for s in nearest)
        asked.append(
            f'<figure class="{"right" if right else "wrong"}"><div>{image(query.x[q])}'
            f"{''.join(image(support.x[s], kind='small') for s in nearest)}</div>"
            f"<figcaption>nearest: <i>{escape(marks)}</i></figcaption></figure>"
        )
    note = (
        "Queries beside the support examples that are most like them, the nearest first; a "
        "mark says whether one is of the query's class."
    )
    shown = f'<div class="asked">{"".join(asked)}</div>'
    return f"<h3>Nearest examples</h3>{shown}{paragraph(note)}"
