"""The embedding of a learner: a map of an episode, verification errors, nearest neighbours."""

from functools import partial
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.pairwise import embed, similarities
from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import first_batch, unpadded
from quickstudy.reports.html import Axes, Palette, figure, figures, legend, paragraph, pixels
from quickstudy.runs import Benchmark

TASKS = 20  # whose pairs make the curve, at most
QUERIES, NEAREST = 12, 3  # queries with neighbours, and neighbours of each


def draw_embedding(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Show how a learner compares the examples of the first tasks of a benchmark.

    Returns:
        HTML; empty if the learner has no embedding, or tasks have no classes.

    Examples:
        >>> import quickstudy as qs
        >>> benchmark = Benchmark(qs.FewShot(qs.datasets.digits(), 3, 1, 2), meta_batch_size=2)
        >>> html = draw_embedding(qs.PrototypicalNetwork(torch.nn.Flatten()), benchmark)
        >>> "map of an episode" in html, "Nearest examples" in html
        (True, True)
    """
    from quickstudy.estimators.error_rates import equal_error_rate, roc  # loads scikit-learn

    with first_batch(learner, benchmark, seed=seed) as (learner, batch):
        y = batch.query.y
        classes = y.shape[-1] > 1 and bool(((y == 0) | (y == 1)).all())
        if not (classes and isinstance(learner, Embeds)):
            return ""
        tasks = [
            Task(*(part.take(part.y.any(-1)) for part in task))
            for task in unpadded(batch, TASKS)
        ]
        embedded = [embed(learner, part.x).cpu() for part in tasks[0]]
        scores = [similarities(learner, query.x, support.x) for support, query in tasks]
    places, share = plane(*embedded)
    same = [query.y @ support.y.T > 0.5 for support, query in tasks]
    pooled = [np.concatenate([part.flatten().cpu() for part in all]) for all in (scores, same)]
    rate = equal_error_rate(*pooled)
    first = tree_map(lambda leaf: leaf.cpu(), tasks[0])
    plots = [
        figure(partial(_map, task=first, places=places), "map of an episode", (4.6, 4.0)),
        figure(partial(_curve, roc=roc(*pooled), rate=rate), "errors of verification"),
    ]
    note = (
        "The map is of the first task of the test, before any adaptation, in the plane of the "
        f"two main directions of its embeddings, which have {share:.0%} of their variance: "
        "support examples large, queries small, a colour for each class. The curve is of "
        "verification: whether a query and a support example are of one class, decided by a "
        f"threshold, on all such pairs of {len(tasks)} tasks; the equal error rate is "
        f"{rate:.1%}."
    )
    return figures(plots, note) + (
        _neighbours(first, scores[0].cpu()) if first.query.x.ndim == 4 else ""
    )


def plane(*parts: Tensor) -> tuple[list[Tensor], float]:
    """Project embeddings (N, D) together on their two principal components.

    Returns:
        The projections (N, 2), and the share of the variance that the components have.

    Examples:
        >>> (points,), share = plane(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
        >>> share
        1.0
    """
    whole = torch.cat(parts).double()
    centred = whole - whole.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    flat = torch.nn.functional.pad(centred @ directions[:2].T, (0, max(0, 2 - len(directions))))
    power = singular.square()
    share = power[:2].sum() / power.sum().clamp_min(1e-300)
    return list(flat.split([len(part) for part in parts])), share.item()


def _map(axes: Axes, palette: Palette, task: Task[Examples], places: list[Tensor]) -> None:
    from matplotlib import colormaps

    ways = task.support.y.shape[-1]
    colours = colormaps["tab10" if ways <= 10 else "turbo"]
    number = np.arange(ways) if ways <= 10 else np.linspace(0, 1, ways)
    looks = (
        {"s": 110, "marker": "o", "edgecolors": palette["ink"], "linewidths": 1.2},
        {"s": 14, "marker": "o", "linewidths": 0},
    )
    for part, at, look, order in zip(task, places, looks, (1, 2), strict=True):
        axes.scatter(
            at[:, 0],
            at[:, 1],
            color=colours(number[part.y.argmax(-1).numpy()]),
            zorder=order,
            **look,
        )
    axes.set(xticks=[], yticks=[], xlabel="first direction", ylabel="second direction")
    axes.set_aspect("equal", adjustable="datalim")


def _curve(axes: Axes, palette: Palette, roc: Any, rate: float) -> None:
    _, accept, reject = roc
    axes.plot([0, 100], [0, 100], ":", color=palette["frame"])
    axes.plot(100 * accept, 100 * (1 - reject), color=palette["main"])
    axes.plot(
        100 * rate,
        100 * (1 - rate),
        "o",
        color=palette["other"],
        label=f"equal error rate {rate:.1%}",
    )
    axes.set(
        xlabel="pairs of two classes accepted (%)", ylabel="pairs of one class accepted (%)"
    )
    legend(axes, palette, loc="lower right")


def _neighbours(task: Task[Examples], scores: Tensor) -> str:
    """Some queries, as many of each class, beside the most similar support examples."""
    support, query = task
    image = partial(pixels, low=support.x.min(), high=support.x.max())
    truth, labels = query.y.argmax(-1), support.y.argmax(-1)
    turn = torch.stack([(truth[:q] == truth[q]).sum() for q in range(len(truth))])
    chosen = (turn * query.y.shape[-1] + truth).argsort()[:QUERIES].tolist()
    shown = []
    for q in chosen:
        nearest = scores[q].topk(min(NEAREST, len(labels))).indices.tolist()
        right = labels[nearest[0]] == truth[q]
        marks = "".join("✓" if labels[s] == truth[q] else "✗" for s in nearest)
        shown.append(
            f'<figure class="{"right" if right else "wrong"}"><div>{image(query.x[q])}'
            f"{''.join(image(support.x[s], kind='small') for s in nearest)}</div>"
            f"<figcaption>nearest: <i>{escape(marks)}</i></figcaption></figure>"
        )
    note = (
        "Queries beside the support examples most similar to them, the nearest first. A mark "
        "shows whether an example has the class of the query."
    )
    return (
        f'<h3>Nearest examples</h3><div class="queries">{"".join(shown)}</div>{paragraph(note)}'
    )
