"""An episode in pictures: its support set, and its queries with predictions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Generator, Tensor

from quickstudy.core.task import TaskBatch, seeds
from quickstudy.core.tree import tree_map
from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import first_batch
from quickstudy.reports.functions import predictions
from quickstudy.reports.html import class_name, paragraph, pixels
from quickstudy.runs import Benchmark
from quickstudy.tasks.few_shot import FewShot

QUERIES = 40  # images of the query set, at most


def draw_episode(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Show the first task of a benchmark and how the learner classifies it.

    Returns:
        HTML; empty if the tasks do not classify images.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> benchmark = Benchmark(qs.FewShot(qs.datasets.digits(), 3, 1, 2), meta_batch_size=1)
        >>> html = draw_episode(qs.PrototypicalNetwork(torch.nn.Flatten()), benchmark)
        >>> html.count('class="right"') + html.count('class="wrong"')
        6
    """
    with first_batch(learner, benchmark, seed=seed) as (learner, batch):
        if not learner.classifies or batch.support.x.ndim != 5:
            return ""
        task: TaskBatch = tree_map(lambda leaf: leaf[:1], batch)
        probabilities = predictions(learner, task.support, task.query.x)[0].softmax(-1)
    return _episode(task, probabilities, _class_names(benchmark, seed))


def _episode(task: TaskBatch, probabilities: Tensor, names: Sequence[str] | None) -> str:
    support, query = (tree_map(lambda leaf: leaf[0].cpu(), part) for part in task)
    image = partial(pixels, low=support.x.min(), high=support.x.max())
    real, truth = query.weight > 0, query.y.argmax(-1)
    classes = [c for c in range(support.y.shape[-1]) if support.y[:, c].any()]
    label = {c: names[c] if names else f"class {i}" for i, c in enumerate(classes, 1)}
    shots = {c: support.x[support.y[:, c] > 0] for c in classes}
    taught = "".join(
        f"<figure><div>{''.join(image(x) for x in shots[c])}</div>"
        f"<figcaption>{class_name(label[c])}</figcaption></figure>"
        for c in classes
    )
    per_class = max(1, QUERIES // len(classes))
    queries = []
    for c in classes:
        for q in (real & (truth == c)).nonzero().flatten().tolist()[:per_class]:
            guess, probability = int(probabilities[q].argmax()), float(probabilities[q].max())
            right = guess == c
            was = "" if right else f'<span class="was">is {class_name(label[c])}</span>'
            queries.append(
                f'<figure class="{"right" if right else "wrong"}">'
                f"<div>{image(query.x[q])}<i>{'✓' if right else '✗'}</i>"
                f"{image(shots[guess][0], kind='small')}</div>"
                f"<figcaption>{class_name(label[guess])}{was}"
                f'<span class="chance"><s style="width:{probability:.0%}"></s></span>'
                f"{probability:.0%}</figcaption></figure>"
            )
    share = (probabilities.argmax(-1) == truth)[real].double().mean().item()
    note = (
        f"The first task of the test, not picked. Of its {int(real.sum())} queries {share:.1%} "
        f"are right; {len(queries)} are shown. Each stands beside an example of the predicted "
        "class, with the probability of that class."
    )
    return (
        f'<h3>Support set: what it learns from</h3><div class="taught">{taught}</div>'
        f'<h3>Query set: what it predicts</h3><div class="queries">{"".join(queries)}</div>'
        + paragraph(note)
    )


def _class_names(benchmark: Benchmark, seed: int) -> list[str] | None:
    """The names of the first task's classes, if its data set has names."""
    tasks = benchmark.tasks
    if not isinstance(tasks, FewShot):
        return None
    generator = Generator().manual_seed(seeds(seed, 0, 0)[0])  # that of the first batch
    ids = tasks.class_ids(benchmark.meta_batch_size, generator)[0]
    return [tasks.dataset.classes[i] for i in ids.tolist()]
