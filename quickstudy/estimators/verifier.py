"""Verification: are two examples of one class?

Faces, signatures and voices are verified. A learner that compares gives a pair a score, and a
threshold turns the score into an answer. There are two errors. The false-accept rate is the
share of pairs of different classes that pass, the false-reject rate that of pairs of one class
that do not. The equal error rate is their value at the threshold where they are equal.
"""

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from quickstudy.core.task import Json
from quickstudy.estimators.arrays import visible_values
from quickstudy.estimators.base import SHAPE_ERRORS, FewShotEstimator
from quickstudy.estimators.error_rates import equal_error_rate, pair_labels, roc
from quickstudy.evaluation.pairwise import compares, similarities, similarity
from quickstudy.learner import Learner
from quickstudy.storage.files import class_name


class FewShotVerifier(FewShotEstimator):
    """Predict whether two examples are of one class, from the similarity a learner gives them.

    The classes need not be those of `fit`, nor of meta-training: `fit` chooses a threshold, and
    nothing else. Examples have the form that `FewShotClassifier` takes. Scores are no
    probabilities; the two error rates describe a threshold. With a learner that normalises by
    the batch at hand, a score depends on the other rows.

    Args:
        learner: meta-trained, with the capability `Embeds` or `ComparesInputs`. It is used as
            it is, not copied or changed. None: minus the squared distance of the inputs, which
            needs no training.
        max_false_accept_rate: the largest false-accept rate on the pairs of `fit`, such as
            0.01. None: the threshold at which both errors are equal.
        input_shape: the shape of an example for the learner, to which rows of `X` are reshaped.
        random_state: seed of learners that draw random numbers.

    Attributes:
        threshold_: the lowest score that passes.
        false_accept_rate_: at the threshold, on the pairs of `fit`. All three rates are
            slightly optimistic for other pairs, as the threshold was chosen by these.
        false_reject_rate_: the other error, on the same pairs.
        equal_error_rate_: on the pairs of `fit`.
        pairs_: the numbers of pairs of one class and of two in `fit`.
        learner_: the learner in use.

    Examples:
        >>> import quickstudy as qs
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> verifier = qs.FewShotVerifier().fit(X[::10], y[::10])  # fifteen examples
        >>> verifier.predict(X[[1, 1]], X[[2, 149]]).tolist()  # two setosas; setosa, virginica
        [True, False]
    """

    def __init__(
        self,
        learner: Learner[Any] | None = None,
        *,
        max_false_accept_rate: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        super().__init__(learner, input_shape=input_shape, random_state=random_state)
        self.max_false_accept_rate = max_false_accept_rate

    threshold_: float
    false_accept_rate_: float
    false_reject_rate_: float
    equal_error_rate_: float
    pairs_: tuple[int, int]

    def fit(self, X: Any, y: Any) -> Self:
        """Choose the threshold by all pairs of labelled examples.

        Raises:
            ValueError: no two examples are of one class, or all of them are; or `X` or `y` is
                malformed.
        """
        self._begin(afresh=True)
        x, labels, _ = self._validated_labels(X, y, None, reset=True)
        i, j = np.triu_indices(len(x), 1)
        same = labels[i] == labels[j]
        if same.all() or not same.any():
            raise ValueError(
                f"{'All' if same.all() else 'No two'} of the {len(x)} examples are of one "
                "class: give two or more of at least one class, and some of another."
            )
        return self._choose_threshold(self._scores(similarities, x, x)[i, j], same)

    def fit_pairs(self, A: Any, B: Any, same: Any) -> Self:
        """Choose the threshold by pairs of examples, row by row.

        Args:
            A: the first examples.
            B: the second examples.
            same: (N,) booleans, whether the pair is of one class.

        Raises:
            ValueError: no pair is of one class, or all are; or shapes differ.
        """
        self._begin(afresh=True)
        a, b = self._validated_pairs(A, B, reset=True)
        return self._choose_threshold(self._scores(similarity, a, b), pair_labels(same, len(a)))

    def decision_function(self, A: Any, B: Any) -> np.ndarray:
        """Return the score (N,) of each pair of rows, larger for pairs that are more alike."""
        check_is_fitted(self, "state_")
        return self._scores(similarity, *self._validated_pairs(A, B, reset=False))

    def predict(self, A: Any, B: Any) -> np.ndarray:
        """Return whether each pair of rows is of one class: booleans (N,)."""
        return self.decision_function(A, B) >= self.threshold_

    def score(self, A: Any, B: Any, same: Any) -> float:
        """Return the share of pairs for which `predict` is right."""
        predicted = self.predict(A, B)
        return float((predicted == pair_labels(same, len(predicted))).mean())

    def _validated_pairs(self, A: Any, B: Any, *, reset: bool) -> tuple[Tensor, Tensor]:
        a, b = (
            self._inputs(
                np.asarray(
                    validate_data(self, visible_values(X, "X"), reset=new, allow_nd=True)
                ),
                reset=new,
            )
            for X, new in ((A, reset), (B, False))
        )
        if len(a) != len(b):
            raise ValueError(
                f"A has {len(a)} examples and B has {len(b)}: give equally many, as they are "
                "compared row by row."
            )
        return a, b

    def _scores(self, compare: Callable[..., Tensor], a: Tensor, b: Tensor) -> np.ndarray:
        if not compares(self.learner_):
            raise ValueError(
                f"{class_name(self.learner_)} has neither a module `embed` nor a method "
                "`pair_logits`: give a learner that compares, such as SiameseNetwork."
            )
        try:
            with self._copy_of_learner(measure=not hasattr(self, "state_")) as learner:
                scores = compare(learner, a, b).cpu().double()
        except SHAPE_ERRORS as error:
            raise self._shape_error("compare", "", error) from error
        if not scores.isfinite().all():
            raise ValueError(
                f"{class_name(self.learner_)} gives two examples no finite similarity: scale X "
                "as in meta-training."
            )
        return scores.numpy()

    def _choose_threshold(self, scores: np.ndarray, same: np.ndarray) -> Self:
        limit = self.max_false_accept_rate
        if limit is not None and not 0 <= limit < 1:
            raise ValueError(
                f"max_false_accept_rate={limit}: give a rate from 0 to below 1, such as 0.01."
            )
        curve = roc(scores, same)
        different = int((~same).sum())
        if limit is None:
            best = int(np.abs(curve.false_accept - curve.false_reject).argmin())
        else:
            best = int((curve.false_accept <= limit).nonzero()[0][-1])
            if 0 < limit * different < 1:
                warnings.warn(
                    f"A false-accept rate of {limit} cannot be seen in {different} pairs of "
                    "different classes, so that none of these may pass: give more examples.",
                    stacklevel=3,
                )
        threshold, below = curve.threshold[best], curve.threshold[best + 1 :][:1]
        if best == 0:  # nothing passes
            threshold = np.nextafter(below[0], np.inf)
        elif len(below):  # half-way to the first pair that does not pass
            threshold = (threshold + below[0]) / 2
        self.threshold_ = float(threshold)
        self.false_accept_rate_ = float(curve.false_accept[best])
        self.false_reject_rate_ = float(curve.false_reject[best])
        self.equal_error_rate_ = equal_error_rate(scores, same)
        self.pairs_ = len(same) - different, different
        self.state_ = {"threshold": torch.tensor(self.threshold_, dtype=torch.float64)}
        return self

    def _metadata(self) -> dict[str, Json]:
        # "far", the false-accept rate, is its name in files
        return {
            "far": self.max_false_accept_rate,
            **{key: getattr(self, key) for key in FITTED},
        }

    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        self.max_false_accept_rate, self.pairs_ = metadata["far"], tuple(metadata["pairs_"])
        for key in FITTED[:-1]:
            setattr(self, key, metadata[key])


FITTED = (
    "threshold_",
    "false_accept_rate_",
    "false_reject_rate_",
    "equal_error_rate_",
    "pairs_",
)
