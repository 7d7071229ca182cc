"""Learners as scikit-learn regressors: `fit` adapts, `predict` predicts."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from torch.nn import Flatten

from quickstudy.core.criteria import OutputMismatch
from quickstudy.core.task import Examples, Json
from quickstudy.estimators.base import SHAPE_ERRORS, FewShotEstimator
from quickstudy.learner import Learner
from quickstudy.learners.heads.ridge import RidgeRegression
from quickstudy.storage.files import class_name


class FewShotRegressor(RegressorMixin, FewShotEstimator):
    """Predict numbers with a learner that adapts to the examples.

    `X` is (N, features) or (N, *features); `y` is (N,) or (N, values). If the learner predicts
    distributions, their means are the predictions.

    Args:
        learner: meta-trained. It is used as it is, not copied or changed. None:
            `RidgeRegression` on the inputs themselves, which needs no training.
        input_shape: the shape of an example for the learner, to which rows of `X` are
            reshaped.
        random_state: seed of learners that draw random numbers.

    Attributes:
        state_: the adapted state, a nest of tensors.
        learner_: the learner in use.

    Examples:
        >>> import numpy as np, quickstudy as qs
        >>> X = np.linspace(0, 1, 50)[:, None]
        >>> model = qs.FewShotRegressor().fit(X, 3 * X[:, 0] + 1)
        >>> model.predict([[0.5]]).round(3).tolist()
        [2.5]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapt the learner, from scratch, to examples. Those of weight 0 do not count.

        Raises:
            ValueError: the learner has another number of outputs than `y`, or `X`, `y` or
                `sample_weight` is malformed.
        """
        return self._learn(X, y, sample_weight, afresh=True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapt the learner further, from its state.

        Raises:
            ValueError: as `fit`; or `y` has another number of values than before.
        """
        return self._learn(X, y, sample_weight, afresh=False)

    def _learn(self, X: Any, y: Any, sample_weight: Any, *, afresh: bool) -> Self:
        first = self._begin(afresh=afresh)
        x, y, weight = self._validated(
            X, y, sample_weight, reset=first, multi_output=True, y_numeric=True
        )
        if y.dtype.kind not in "biuf":
            raise ValueError(
                f"y holds {y.dtype}, not numbers: give a FewShotClassifier labels."
            )
        target = self._tensor(y, "y").reshape(len(y), -1)  # (S, C)
        count = target.shape[1]
        if not first and count != self._width:
            raise ValueError(
                f"y has {count} values of an example: give it {self._width}, as before."
            )
        state = None if first else self.state_
        try:
            state, width = self._adapt(Examples(x, target, weight), state)
        except OutputMismatch as mismatch:
            width = mismatch.outputs
        except SHAPE_ERRORS as error:
            raise self._shape_error("adapt to", f" with {count} values of y", error) from error
        if width != count:
            raise ValueError(
                f"The learner has {width} outputs, and y has {count} values of an example: "
                f"give y of {width} columns, or a learner of {count} outputs."
            )
        self.state_, self._width, self._flat = state, width, y.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return values of the shape that `y` had in `fit`: (N,) or (N, values)."""
        values = self._predictions(X).numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"{class_name(self.learner_)} predicts an infinite value: scale X as in fit."
            )
        return values[:, 0] if self._flat else values

    def _default_learner(self) -> Learner[Any]:
        return RidgeRegression(Flatten()).double()

    def _metadata(self) -> dict[str, Json]:
        return {"width": self._width, "flat": self._flat}

    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        self._width, self._flat = metadata["width"], metadata["flat"]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
