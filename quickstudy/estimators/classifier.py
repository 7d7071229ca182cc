"""Learners as scikit-learn classifiers: `fit` adapts, `predict` predicts.

Meta-training is no part of `fit`: an estimator gets a learner that is meta-trained. `fit`
adapts it to your examples, and `save` writes the adapted state as one small file.
"""

import warnings
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from torch import Tensor

from quickstudy.core.criteria import OutputMismatch
from quickstudy.core.task import Json
from quickstudy.estimators.adapted_model import computed, point_prediction
from quickstudy.estimators.base import SHAPE_ERRORS, FewShotEstimator
from quickstudy.estimators.labels import join_labels
from quickstudy.estimators.open_set import calibrate_threshold, check_unknown_label
from quickstudy.estimators.widths import (
    CLASSES,
    adapt_classes,
    adapt_from_scratch,
    adapt_to_labels,
    grow,
    map_class_axes,
    one_hot_examples,
)
from quickstudy.evaluation.pairwise import require_distance
from quickstudy.learner import Learner
from quickstudy.storage.files import CheckpointError, class_name


class ClassColumns(ClassifierMixin, FewShotEstimator):
    """The base of classifiers: each class has a column of the learner's outputs.

    Examples:
        >>> import quickstudy as qs
        >>> classifier = qs.FewShotClassifier().fit([[0.0], [3.0]], ["near", "far"])
        >>> classifier.classes_.tolist(), classifier.predict_proba([[3.0]]).round(1).tolist()
        (['far', 'near'], [[1.0, 0.0]])
    """

    classes_: np.ndarray
    _columns: np.ndarray  # of `classes_`, among the learner's outputs
    _width: int  # the number of the learner's outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (N, classes): the softmax of the learner's predictions."""
        return self._logits(X).softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each example (N,)."""
        best = self._logits(X).argmax(-1).numpy()
        return self.classes_[best]

    def _logits(self, X: Any) -> Tensor:
        predictions = self._predictions(X)  # (N, width)
        if len(predictions) == 1 and self.learner_.transductive:
            warnings.warn(
                f"{class_name(self.learner_)} is transductive, and learns from the rows of X: "
                "give it many at once, of every class, not one alone.",
                stacklevel=3,
            )
        return predictions[:, self._columns]

    def _adapt_from_scratch(
        self, x: Tensor, index: np.ndarray, weight: Tensor, count: int
    ) -> tuple[Any, int]:
        """Return the state after examples of `count` classes, and the number of columns."""

        def adapt(width: int) -> tuple[Any, int]:
            try:
                return self._adapt_to_labels(x, index, weight, width)
            except OutputMismatch:
                raise
            except SHAPE_ERRORS as error:
                raise self._shape_error("adapt to", f" with {width} classes", error) from error

        return adapt_from_scratch(self.learner_, adapt, count)

    def _adapt_to_labels(
        self, x: Tensor, index: np.ndarray, weight: Tensor, width: int
    ) -> tuple[Any, int]:
        """Return the state of `width` classes, and the number of columns of predictions."""
        with self._copy_of_learner(measure=True) as learner:
            adapt = partial(adapt_to_labels, learner, x, index, weight, width)
            state = computed(learner, adapt, x)
            return state, point_prediction(learner.predict(state, x[:2])).shape[1]

    def _metadata(self) -> dict[str, Json]:
        labels = self.classes_.tolist()
        if not all(isinstance(label, str | int | float) for label in labels):
            raise CheckpointError(
                "Labels that are saved must be text, numbers or booleans: convert y before fit."
            )
        return {
            "labels": labels,
            "dtype": self.classes_.dtype.str,
            "columns": self._columns.tolist(),
            "width": self._width,
        }

    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        self.classes_ = np.array(metadata["labels"], dtype=metadata["dtype"])
        self._columns, self._width = np.array(metadata["columns"]), metadata["width"]


class FewShotClassifier(ClassColumns):
    """Classify with a learner that adapts to the examples.

    `X` is (N, features), or (N, *features) such as images (N, channels, height, width). Bytes
    become floats in [0, 1], as in `FewShot`. A learner that is transductive, or normalises by
    the batch at hand, predicts a row of `X` from the other rows as well.

    Args:
        learner: meta-trained. It is used as it is, not copied or changed. None: a
            `PrototypicalNetwork` on the inputs themselves, which is the nearest centroid and
            needs no training.
        input_shape: the shape of an example for the learner, to which rows of `X` are
            reshaped, so that images pass as flat rows through pipelines.
        random_state: seed of learners that draw random numbers.
        unknown: the label that `predict` gives to examples of no known class, such as "none of
            these" or -1: those whose best logit is below `threshold_`. The learner must declare
            `PredictsSimilarities`. None: every example gets the label of a class.
        threshold: None: 95 % of the examples pass, each when it is left out.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba`.
        threshold_: in use if `unknown` is given.
        state_: the adapted state, a nest of tensors.
        learner_: the learner in use.

    Examples:
        >>> import quickstudy as qs
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = qs.FewShotClassifier().fit(X[::10], y[::10])  # fifteen examples
        >>> round(model.score(X, y), 2)
        0.9
    """

    def __init__(
        self,
        learner: Learner[Any] | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        random_state: int | np.random.RandomState | None = None,
        unknown: Any = None,
        threshold: float | None = None,
    ):
        super().__init__(learner, input_shape=input_shape, random_state=random_state)
        self.unknown, self.threshold = unknown, threshold

    threshold_: float

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapt the learner, from scratch, to labelled examples.

        The learner may have more outputs than there are classes; the others are never
        predicted. Examples of weight 0 do not count, nor do classes that have no other.

        Raises:
            ValueError: there is one class only, or there are more than the learner has
                outputs, or `X`, `y` or `sample_weight` is malformed; or `unknown` is given,
                and the learner's logits are no similarities or every class has one example.
        """
        self._begin(afresh=True)
        x, labels, weight = self._validated_labels(X, y, sample_weight, reset=True)
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(
                "The examples have 1 class: give examples of at least two classes, or add "
                "classes one by one with `partial_fit`."
            )
        self._check_unknown(classes)
        calibrates = self.unknown is not None and self.threshold is None
        if calibrates and len(classes) == len(labels):
            raise ValueError(
                "One example of each class does not tell how near another would be: give two "
                "or more of some class, or `threshold`."
            )
        self._learn(x, labels, weight, classes)
        if calibrates:
            index = np.searchsorted(classes, labels)

            def best_logits(left_out: np.ndarray) -> Tensor:
                kept = x[~left_out], index[~left_out], weight[~left_out]
                state, _ = self._adapt_to_labels(*kept, self._width)
                with self._copy_of_learner() as learner:
                    return learner.predict(state, x[left_out])[:, self._columns].amax(-1)

            self.threshold_ = calibrate_threshold(index, best_logits)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Adapt the learner further, from its state; `threshold_` stays as it is.

        Labels may be new ones. They take outputs that the learner has to spare. If it has none,
        the state grows along the learner's `class_axes`.

        Args:
            classes: labels to expect. Needed in the first call only if the learner's state
                cannot grow, and never if its number of outputs is enough.

        Raises:
            ValueError: as `fit`, but one class is enough; or the state cannot grow; or
                `unknown` is given and there is no threshold yet.
        """
        first = self._begin(afresh=False)
        x, labels, weight = self._validated_labels(X, y, sample_weight, reset=first)
        old = labels[:0] if first else self.classes_[np.argsort(self._columns)]
        new = np.setdiff1d(join_labels(old, labels, classes), old)
        classes = join_labels(old, new)
        self._check_unknown(classes)
        if self.unknown is not None and not hasattr(self, "threshold_"):
            raise ValueError(
                "There is no threshold yet for what is unknown: begin with `fit`, which "
                "chooses one, or give `threshold`."
            )
        self._learn(x, labels, weight, classes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each example (N,), or `unknown`."""
        if self.unknown is None:
            return super().predict(X)
        best, columns = (part.numpy() for part in self._logits(X).max(-1))
        labels = join_labels(self.classes_, [self.unknown])
        return labels[np.where(best >= self.threshold_, columns, -1)]

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the best logit of each example (N,): lower for examples of no known class."""
        return self._logits(X).amax(-1).numpy()

    def _learn(
        self, x: Tensor, labels: np.ndarray, weight: Tensor, classes: np.ndarray
    ) -> None:
        """Adapt to examples; `classes` are all labels in the order of their columns."""
        columns = np.argsort(classes)  # of the sorted classes
        labels = labels.astype(classes.dtype)
        index = columns[np.searchsorted(classes[columns], labels)]  # (S,)
        if not hasattr(self, "state_"):
            state, width = self._adapt_from_scratch(x, index, weight, len(classes))
        else:
            state, width = self.state_, max(self._width, len(classes))
            if width > self._width:
                state = grow(self.learner_, state, self._width, width)
            state = self._adapt_further(state, x, index, weight, width)
        self.state_, self._width = state, width
        self.classes_, self._columns = classes[columns], columns

    def _adapt_further(
        self, state: Any, x: Tensor, index: np.ndarray, weight: Tensor, width: int
    ) -> Any:
        """Return `state` after examples of some of its `width` classes."""
        axes = self.learner_.class_axes
        if width <= CLASSES or axes is None or not self.learner_.independent_classes:
            return self._adapt(one_hot_examples(x, index, weight, width), state)[0]
        state = map_class_axes(lambda leaf, axis: leaf.clone(), state, axes)
        with self._copy_of_learner() as learner:
            adapt = partial(adapt_classes, learner, x, index, weight, width, state)
            return computed(learner, adapt, x)

    def _check_unknown(self, classes: np.ndarray) -> None:
        if self.unknown is None:
            return
        require_distance(self.learner_)
        check_unknown_label(self.unknown, classes)
        if self.threshold is not None:
            self.threshold_ = float(self.threshold)

    def _metadata(self) -> dict[str, Json]:
        if self.unknown is None:
            return super()._metadata()
        return super()._metadata() | {
            "unknown": self.unknown,
            "threshold": getattr(self, "threshold_", None),
        }

    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        super()._restore_metadata(metadata)
        self.unknown = metadata.get("unknown")
        if self.unknown is not None:
            self.threshold = self.threshold_ = metadata["threshold"]
