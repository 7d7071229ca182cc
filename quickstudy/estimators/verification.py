"""Verification: are these two the same? And: is this one of those that are known?

The first is asked of faces, signatures and voices. A learner that compares gives a score to a
pair, and a threshold makes it an answer; there are two ways to be wrong. The false-accept rate
is the share of pairs of different classes that pass, the false-reject rate that of pairs of one
class that do not, and the equal error rate what both are where they are equal.

>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> verifier = FewShotVerifier().fit(X[::10], y[::10])  # fifteen examples
>>> verifier.predict(X[[1, 1]], X[[2, 149]]).tolist()  # two setosas; a setosa, a virginica
[True, False]
"""

import warnings
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from quickstudy.core.task import Examples, Json, TaskDistribution
from quickstudy.estimators.adapted_model import frozen
from quickstudy.estimators.few_shot import _MISFIT, _FewShotEstimator
from quickstudy.evaluation.pairwise import compares, require_distance, similarities, similarity
from quickstudy.evaluation.protocol import Report, evaluate
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.storage.checkpoints import _class

State = TypeVar("State")


class ROC(NamedTuple):
    """Both errors of every threshold: a pair passes whose score reaches it."""

    threshold: np.ndarray  # (K,) falling; the first, infinity, lets nothing pass
    false_accept: np.ndarray  # (K,) rate, rising from 0 to 1
    false_reject: np.ndarray  # (K,) rate, falling from 1 to 0


def roc(scores: Any, same: Any) -> ROC:
    """The receiver operating characteristic of scores (N,), larger where a pair is more alike.

    Args:
        same: (N,) booleans, whether the pair really is of one class.

    Raises:
        ValueError: shapes differ, a score is not finite, or there are no pairs of one class, or
            none of two.
    """
    scores = column_or_1d(np.asarray(scores, dtype=np.float64))
    same = _truth(same, len(scores))
    if same.all() or not same.any():
        raise ValueError(
            f"{'All' if same.all() else 'None'} of the {len(same)} pairs are of one class: "
            "errors need both, pairs of one class and pairs of two."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "A score is NaN or infinite: leave that pair out, or scale its inputs."
        )
    accept, hit, threshold = roc_curve(same, scores, drop_intermediate=False)
    return ROC(threshold, accept, 1 - hit)


def equal_error_rate(scores: Any, same: Any) -> float:
    """What the false-accept and the false-reject rate are where they are equal, between
    thresholds by linear interpolation; arguments and errors as those of `roc`."""
    _, accept, reject = roc(scores, same)
    gap = accept - reject  # rises from -1 to 1
    after = int((gap >= 0).argmax())
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(accept[after - 1] + share * (accept[after] - accept[after - 1]))


class FewShotVerifier(_FewShotEstimator):
    """Says whether two examples are of one class, by how alike a learner finds them.

    The classes need not be those of `fit`, nor any that were there in meta-training: `fit`
    chooses a threshold, and nothing else. Examples are given as to `FewShotClassifier`. Scores
    are no probabilities; what a threshold promises is said by its two error rates. With a
    learner that normalises by the batch at hand, a score depends on the other rows.

    Args:
        learner: meta-trained, with a module `embed` or a method `similarity`; it is used as it
            is, not copied or changed. None: minus the squared distance of the inputs, which
            needs no training.
        far: false-accept rate that is not to be exceeded, such as 0.01; None: as large as the
            false-reject rate.
        input_shape: the shape of an example for the learner, to which rows of `X` are reshaped.
        random_state: seed of learners that draw random numbers.

    Attributes:
        threshold_: scores from here on are said to be of one class.
        false_accept_rate_: at the threshold, on the pairs of `fit`. All three rates are a
            little too good for other pairs, as these are what the threshold was chosen by.
        false_reject_rate_: the same of the other error.
        equal_error_rate_: on the pairs of `fit`.
        pairs_: of `fit`: how many of one class, and how many of two.
        learner_: the learner in use.
    """

    def __init__(
        self,
        learner: Learner[Any] | None = None,
        *,
        far: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(learner, input_shape=input_shape, random_state=random_state)
        self.far = far

    threshold_: float
    false_accept_rate_: float
    false_reject_rate_: float
    equal_error_rate_: float
    pairs_: tuple[int, int]

    def fit(self, X: Any, y: Any) -> Self:
        """Chooses the threshold by all pairs of labelled examples.

        Raises:
            ValueError: no two examples are of one class, or all of them are; or `X` or `y` is
                not as it should be.
        """
        self._begin()
        x, labels, _ = self._support(X, y, None, reset=True)
        check_classification_targets(labels)
        i, j = np.triu_indices(len(x), 1)
        same = labels[i] == labels[j]
        if same.all() or not same.any():
            raise ValueError(
                f"{'All' if same.all() else 'No two'} of the {len(x)} examples are of one "
                "class: give two or more of at least one class, and some of another."
            )
        return self._choose(self._compared(similarities, x, x)[i, j], same)

    def fit_pairs(self, A: Any, B: Any, same: Any) -> Self:
        """Chooses the threshold by pairs of examples, row by row.

        Args:
            same: (N,) booleans, whether the pair is of one class.

        Raises:
            ValueError: no pair is of one class, or all are; or shapes differ.
        """
        self._begin()
        a, b = self._pairs(A, B, reset=True)
        return self._choose(self._compared(similarity, a, b), _truth(same, len(a)))

    def decision_function(self, A: Any, B: Any) -> np.ndarray:
        """The score (N,) of each pair of rows, larger for what is more alike."""
        check_is_fitted(self, "state_")
        return self._compared(similarity, *self._pairs(A, B, reset=False))

    def predict(self, A: Any, B: Any) -> np.ndarray:
        """Whether each pair of rows is of one class: booleans (N,)."""
        return self.decision_function(A, B) >= self.threshold_

    def score(self, A: Any, B: Any, same: Any) -> float:
        """The share of pairs about which `predict` is right."""
        said = self.predict(A, B)
        return float((said == _truth(same, len(said))).mean())

    def _pairs(self, A: Any, B: Any, *, reset: bool) -> tuple[Tensor, Tensor]:
        A = np.asarray(validate_data(self, A, reset=reset, allow_nd=True))
        a = self._inputs(A, reset=reset)
        B = np.asarray(validate_data(self, B, reset=False, allow_nd=True))
        b = self._inputs(B, reset=False)
        if len(a) != len(b):
            raise ValueError(
                f"A has {len(a)} examples and B has {len(b)}: give equally many, as they are "
                "compared row by row."
            )
        return a, b

    def _compared(self, execution: Any, a: Tensor, b: Tensor) -> np.ndarray:
        if not compares(self.learner_):
            raise ValueError(
                f"{_class(self.learner_)} has neither a module `embed` nor a method "
                "`similarity`: give a learner that compares, such as SiameseNetwork."
            )
        try:
            with frozen(self.learner_, self.seed_):
                scores = execution(self.learner_, a, b).cpu().double()
        except _MISFIT as error:
            raise ValueError(
                f"{_class(self.learner_)} cannot compare examples of shape {self.shape_} "
                f"({str(error).strip()}): give `input_shape`, or a learner made for such "
                "examples."
            ) from error
        if scores.isnan().any():
            raise ValueError(
                f"{_class(self.learner_)} finds two examples NaN alike: scale X as in "
                "meta-training."
            )
        return scores.numpy()

    def _choose(self, scores: np.ndarray, same: np.ndarray) -> Self:
        if self.far is not None and not 0 <= self.far < 1:
            raise ValueError(f"far={self.far}: give a rate from 0 to below 1, such as 0.01.")
        curve = roc(scores, same)
        different = int((~same).sum())
        if self.far is None:
            best = int(np.abs(curve.false_accept - curve.false_reject).argmin())
        else:
            best = int((curve.false_accept <= self.far).nonzero()[0][-1])
            if 0 < self.far * different < 1:
                warnings.warn(
                    f"A false-accept rate of {self.far} cannot be seen in {different} pairs of "
                    "different classes, so that none of these may pass: give more examples.",
                    stacklevel=3,
                )
        at, below = curve.threshold[best], curve.threshold[best + 1 :][:1]
        if best == 0:  # nothing passes
            at = np.nextafter(below[0], np.inf)
        elif len(below):  # half-way to the first pair that does not pass
            at = (at + below[0]) / 2
        self.threshold_ = float(at)
        self.false_accept_rate_ = float(curve.false_accept[best])
        self.false_reject_rate_ = float(curve.false_reject[best])
        self.equal_error_rate_ = equal_error_rate(scores, same)
        self.pairs_ = len(same) - different, different
        self.state_ = {"threshold": torch.tensor(self.threshold_, dtype=torch.float64)}
        return self

    def _default(self) -> Learner[Any]:
        return PrototypicalNetwork(nn.Flatten())

    def _about(self) -> dict[str, Json]:
        return {"far": self.far, **{name: getattr(self, name) for name in _FITTED}}

    def _recall(self, about: dict[str, Json]) -> None:
        self.far, self.pairs_ = about["far"], tuple(about["pairs_"])
        for name in _FITTED[:-1]:
            setattr(self, name, about[name])


_FITTED = (
    "threshold_",
    "false_accept_rate_",
    "false_reject_rate_",
    "equal_error_rate_",
    "pairs_",
)


def evaluate_verification(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
) -> Report:
    """How well a learner tells whether two examples are of one class, on `n_tasks` tasks.

    In each task every query example is paired with every support example. The report has the
    equal error rate and the area under the ROC curve (`auroc`: the probability that a pair of
    one class scores higher than a pair of two).

    Raises:
        ValueError: the learner does not compare; or a task has no pair of one class, or none of
            two.
    """
    report = evaluate(
        _Pairing(learner),
        tasks,
        n_tasks=n_tasks,
        meta_batch_size=meta_batch_size,
        seed=seed,
        metrics={
            "equal_error_rate": lambda found, query: torch.tensor(
                equal_error_rate(*_scored_pairs(found, query))
            ),
            "auroc": lambda found, query: _auroc(*_scored_pairs(found, query)),
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
    """How well the best logit tells queries of known classes from queries of unknown ones.

    Of each task the first `known` classes are taught, and the queries of all are asked. The
    report has the area under the ROC curve (`auroc`: the probability that a query of a known
    class gets a higher best logit than one of an unknown class) and the accuracy on the known.

    Raises:
        ValueError: the learner's logits are no similarities, or a task has too few classes.
    """
    require_distance(learner)
    report = evaluate(
        _Teaching(learner, known),
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


class _Pairing(Learner[Examples]):
    """`learner`, asked how alike queries and support examples are."""

    execution = "loop"  # ROC curves are computed outside of torch

    def __init__(self, learner: Learner[Any]):
        super().__init__()
        self.learner = learner

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        return _rows(support, (support.weight > 0) & support.y.any(-1))

    def predict(self, state: Examples, x: Tensor) -> _Scores:
        return _Scores(similarities(self.learner, x, state.x), state.y)


class _Teaching(Learner[State]):
    """`learner`, taught the first `known` classes."""

    execution = "loop"

    def __init__(self, learner: Learner[State], known: int):
        super().__init__()
        self.learner, self.known = learner, known

    def adapt(self, support: Examples, state: State | None = None) -> State:
        x, y, weight = support
        if not 1 < self.known < y.shape[1]:
            raise ValueError(
                f"known={self.known} of {y.shape[1]} classes: give at least two, and draw "
                "tasks of more ways than that."
            )
        rows = (weight > 0) & y[:, : self.known].any(-1)
        return self.learner.adapt(_rows(Examples(x, y[:, : self.known], weight), rows), state)

    def predict(self, state: State, x: Tensor) -> Tensor:
        return self.learner.predict(state, x)


def _rows(examples: Examples, rows: Tensor) -> Examples:
    return Examples(*(part[rows] for part in examples))


def _truth(same: Any, size: int) -> np.ndarray:
    """Booleans, one for each of `size` pairs."""
    same = column_or_1d(np.asarray(same))
    if len(same) != size:
        raise ValueError(
            f"There are {size} pairs and {len(same)} values of `same`: give one each."
        )
    if not np.isin(same, (0, 1)).all():
        raise ValueError("`same` must be True or False (1 or 0) for every pair.")
    return same.astype(bool)


def _scored_pairs(found: _Scores, query: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs, and whether they are of one class."""
    real = query.weight > 0
    same = query.y[real] @ found.y.T > 0.5  # (Q, S)
    return found.scores[real].flatten().cpu().numpy(), same.flatten().cpu().numpy()


def _auroc(scores: np.ndarray, positive: np.ndarray) -> Tensor:
    return torch.tensor(roc_auc_score(positive, scores))


def _known_auroc(logits: Tensor, query: Examples) -> Tensor:
    real = query.weight > 0
    known = query.y[real, : logits.shape[1]].any(-1)
    return _auroc(logits[real].amax(-1).cpu().numpy(), known.cpu().numpy())


def _known_accuracy(logits: Tensor, query: Examples) -> Tensor:
    y = query.y[:, : logits.shape[1]]
    known = (query.weight > 0) & y.any(-1)
    return (logits[known].argmax(-1) == y[known].argmax(-1)).double().mean()
