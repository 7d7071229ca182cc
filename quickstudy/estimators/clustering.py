"""Clustering by a learned metric: groups of unlabelled examples."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.utils import check_array
from torch import Tensor, nn

from quickstudy.core.task import Examples, TaskDistribution
from quickstudy.estimators.adapted_model import reference_tensor
from quickstudy.estimators.arrays import visible_values
from quickstudy.evaluation.pairwise import LoopedLearner, embed
from quickstudy.evaluation.protocol import Metric, evaluate, evaluating
from quickstudy.evaluation.report import Report
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import PrototypicalNetwork


def embeddings(learner: Learner[Any], X: Any) -> np.ndarray:
    """Return the learner's embeddings of examples, in float64 (N, D).

    Args:
        learner: has the capability `Embeds`.
        X: (N, *features), as `FewShotClassifier` takes it: bytes become floats in [0, 1].

    Raises:
        ValueError: the learner does not embed, or `X` is malformed.

    Examples:
        >>> import numpy as np, quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> embeddings(learner, np.ones((3, 2, 2))).shape
        (3, 4)
    """
    X = np.asarray(check_array(visible_values(X, "X"), dtype=None, allow_nd=True))  # pyright: ignore[reportArgumentType]
    x = torch.from_numpy(X.astype(np.float64)).to(reference_tensor(learner))
    with evaluating(learner) as copy:
        embedded = embed(copy, x / 255 if X.dtype == np.uint8 else x)
    return embedded.cpu().double().numpy()


def cluster(
    learner: Learner[Any], X: Any, n_clusters: int | None = None, *, most: int = 20
) -> np.ndarray:
    """Group unlabelled examples by Ward's method on their embeddings.

    Args:
        learner: has the capability `Embeds`.
        X: (N, *features), as `FewShotClassifier` takes it.
        n_clusters: the number of groups. None: the number from 2 to `most` with the highest
            silhouette (Rousseeuw, 1987, doi:10.1016/0377-0427(87)90125-7).
        most: the largest number that is tried.

    Returns:
        Integers (N,) from 0, in the order of the groups' first examples.

    Raises:
        ValueError: the learner does not embed, or there are too few examples.

    Examples:
        >>> import quickstudy as qs
        >>> from sklearn.datasets import load_iris
        >>> X, _ = load_iris(return_X_y=True)
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> cluster(learner, X[[0, 1, 2, 148, 149]]).tolist()
        [0, 0, 0, 1, 1]
    """
    return _groups(embeddings(learner, X), n_clusters, most)


class Clustering(NamedTuple):
    """How well groups agree with classes, on the same tasks.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> result = evaluate_clustering(learner, Blobs(), n_tasks=2, meta_batch_size=2)
        >>> result.learned.paired_difference(result.pixels).mean
        0.0
    """

    learned: Report  # by the learner's embedding
    pixels: Report  # by the inputs themselves


def evaluate_clustering(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    known: bool = True,
    n_tasks: int = 100,
    meta_batch_size: int = 50,
    seed: int = 1,
) -> Clustering:
    """Evaluate how well clusters of a task's query set agree with its classes.

    The reports have the adjusted Rand index (Hubert & Arabie, 1985, doi:10.1007/BF01908075): 1
    if groups are classes, 0 on average if groups are random. Support sets are not used.

    Args:
        known: whether the number of classes is given. Otherwise it is chosen as in `cluster`,
            and the reports also have the number of `clusters`.

    Raises:
        ValueError: the learner does not embed.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> result = evaluate_clustering(learner, Blobs(), n_tasks=2, meta_batch_size=2)
        >>> list(result.learned.values)
        ['adjusted_rand_index']
    """

    def of_groups(measure: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
        def metric(embedded: Tensor, query: Examples) -> Tensor:
            real = query.weight > 0
            points = embedded[real].cpu().double().numpy()
            truth = query.y[real].argmax(-1).cpu().numpy()
            if not np.isfinite(points).all():
                return torch.tensor(math.nan)
            groups = _groups(points, len(np.unique(truth)) if known else None)
            return torch.tensor(float(measure(truth, groups)))

        return metric

    metrics = {"adjusted_rand_index": of_groups(adjusted_rand_score)}
    if not known:
        metrics["clusters"] = of_groups(lambda truth, groups: groups.max() + 1)
    number = "as many as classes" if known else "by silhouette"
    reports = (
        evaluate(
            _Embedding(embedder),
            tasks,
            n_tasks=n_tasks,
            meta_batch_size=meta_batch_size,
            seed=seed,
            metrics=metrics,
        )
        for embedder in (learner, PrototypicalNetwork(nn.Flatten()))
    )
    return Clustering(*(Report(r.values, {**r.card, "clusters": number}) for r in reports))


class _Embedding(LoopedLearner[Tensor]):
    """Predict the embeddings of `learner`."""

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        return support.weight

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return embed(self.learner, x)


def _groups(embedded: np.ndarray, n_clusters: int | None, most: int = 20) -> np.ndarray:
    size = len(embedded)
    if n_clusters is not None:
        if not (1 <= n_clusters <= size and size > 1):
            raise ValueError(
                f"{n_clusters} clusters of {size} example(s): give two examples at least, and "
                "ask for as many clusters at most as there are examples."
            )
        return _ward(embedded, n_clusters)
    if size < 3:
        raise ValueError(
            f"How many clusters {size} example(s) have cannot be found: give `n_clusters`, or "
            "more examples."
        )
    candidates = [_ward(embedded, number) for number in range(2, min(most, size - 1) + 1)]
    return max(candidates, key=lambda labels: silhouette_score(embedded, labels))


def _ward(embedded: np.ndarray, number: int) -> np.ndarray:
    labels = AgglomerativeClustering(number).fit_predict(embedded)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return first.argsort().argsort()[label]
