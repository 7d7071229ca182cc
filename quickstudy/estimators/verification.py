"""Evaluation of verification and of open-set recognition, on the tasks of a distribution."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from quickstudy.core.criteria import accuracy
from quickstudy.core.task import Examples, TaskDistribution
from quickstudy.estimators.error_rates import equal_error_rate
from quickstudy.evaluation.pairwise import (
    LoopedLearner,
    State,
    require_distance,
    similarities,
)
from quickstudy.evaluation.protocol import evaluate
from quickstudy.evaluation.report import Report
from quickstudy.learner import Learner


def evaluate_verification(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
) -> Report:
    """Evaluate how well a learner tells whether two examples are of one class.

    In each task every query example is paired with every support example. The report has the
    equal error rate and the area under the ROC curve (`auroc`: the probability that a pair of
    one class scores higher than a pair of two).

    Raises:
        ValueError: the learner does not compare; or a task has no pair of one class, or none of
            two.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> report = evaluate_verification(learner, Blobs(), n_tasks=4, meta_batch_size=4)
        >>> list(report.values), bool(report.mean("auroc") > 0.5)
        (['equal_error_rate', 'auroc'], True)
    """
    report = evaluate(
        _Pairs(learner),
        tasks,
        n_tasks=n_tasks,
        meta_batch_size=meta_batch_size,
        seed=seed,
        metrics={
            "equal_error_rate": lambda pairs, query: _measured(
                equal_error_rate, *_scored_pairs(pairs, query)
            ),
            "auroc": lambda pairs, query: _measured(_auroc, *_scored_pairs(pairs, query)),
        },
    )
    return Report(report.values, {**report.card, "pairs": "query with support"})


def evaluate_open_set(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    known: int,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
) -> Report:
    """Evaluate how well the best logit separates queries of known and of unknown classes.

    The learner adapts to the first `known` classes of each task, and predicts the queries of
    all. The report has the area under the ROC curve (`auroc`: the probability that a query of a
    known class gets a higher best logit than one of an unknown class) and the accuracy on
    known classes.

    Raises:
        ValueError: the learner's logits are no similarities, or a task has too few classes.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> report = evaluate_open_set(learner, Blobs(), known=2, n_tasks=4, meta_batch_size=4)
        >>> list(report.values), report.card["known"]
        (['auroc', 'accuracy'], 2)
    """
    require_distance(learner)
    report = evaluate(
        _KnownClasses(learner, known),
        tasks,
        n_tasks=n_tasks,
        meta_batch_size=meta_batch_size,
        seed=seed,
        metrics={"auroc": _known_auroc, "accuracy": _known_accuracy},
    )
    return Report(report.values, {**report.card, "known": known})


class _Scores(NamedTuple):
    scores: Tensor  # (Q, S)
    y: Tensor  # (S, C)


class _Pairs(LoopedLearner[Examples]):
    """Predict the similarities of queries and support examples."""

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        return support.take((support.weight > 0) & support.y.any(-1))

    def predict(self, state: Examples, x: Tensor) -> _Scores:
        return _Scores(similarities(self.learner, x, state.x), state.y)


class _KnownClasses(LoopedLearner[State]):
    """Adapt `learner` to the first `known` classes."""

    def __init__(self, learner: Learner[State], known: int):
        super().__init__(learner)
        self.known = known

    def adapt(self, support: Examples, state: State | None = None) -> State:
        x, y, weight = support
        if not 1 < self.known < y.shape[1]:
            raise ValueError(
                f"known={self.known} of {y.shape[1]} classes: give at least two, and draw "
                "tasks of more ways than that."
            )
        rows = (weight > 0) & y[:, : self.known].any(-1)
        return self.learner.adapt(Examples(x, y[:, : self.known], weight).take(rows), state)

    def predict(self, state: State, x: Tensor) -> Tensor:
        return self.learner.predict(state, x)


def _scored_pairs(pairs: _Scores, query: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of pairs, and whether they are of one class."""
    real = query.weight > 0
    same = query.y[real] @ pairs.y.T > 0.5  # (Q, S)
    return pairs.scores[real].flatten().cpu().numpy(), same.flatten().cpu().numpy()


def _measured(
    measure: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    positive: np.ndarray,
) -> Tensor:
    """Return a measure of scores by whether they are of positives; NaN if a score is."""
    return torch.tensor(measure(scores, positive) if np.isfinite(scores).all() else math.nan)


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    return float(roc_auc_score(positive, scores))


def _known_auroc(logits: Tensor, query: Examples) -> Tensor:
    real = query.weight > 0
    known = query.y[real, : logits.shape[1]].any(-1)
    return _measured(_auroc, logits[real].amax(-1).cpu().numpy(), known.cpu().numpy())


def _known_accuracy(logits: Tensor, query: Examples) -> Tensor:
    y = query.y[:, : logits.shape[1]]
    return accuracy(logits.double(), Examples(query.x, y, (query.weight > 0) & y.any(-1)))
