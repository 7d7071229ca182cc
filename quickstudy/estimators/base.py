"""The base of all estimators: input checks, adaptation, and files of adapted models."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn import Flatten

from quickstudy.core.task import Examples, Json
from quickstudy.estimators.adapted_model import (
    KEY,
    computed,
    deterministic,
    point_prediction,
    predictions,
    random_state,
    reference_tensor,
    restore,
)
from quickstudy.estimators.arrays import visible_values
from quickstudy.estimators.labels import exact_labels
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.storage.files import class_name, to_json
from quickstudy.storage.state_file import learner_id, state_types, write
from quickstudy.storage.tree_json import pack_state

SHAPE_ERRORS = (RuntimeError, ValueError, IndexError)  # PyTorch's, where shapes do not fit


class FewShotEstimator(BaseEstimator, ABC):
    """The base of classifiers, regressors and verifiers.

    Subclasses write their part of a file in `_metadata`, and read it in `_restore_metadata`.

    Examples:
        >>> import quickstudy as qs
        >>> estimator = qs.FewShotRegressor(input_shape=(1,))
        >>> isinstance(estimator, FewShotEstimator), sorted(estimator.get_params())
        (True, ['input_shape', 'learner', 'random_state'])
    """

    def __init__(
        self,
        learner: Learner[Any] | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.learner = learner
        self.input_shape = input_shape
        self.random_state = random_state

    n_features_in_: int
    feature_names_in_: np.ndarray
    learner_: Learner[Any]
    state_: Any
    shape_: tuple[int, ...]  # of an example, as the learner takes it
    seed_: int
    _is_bytes: bool | None  # whether `fit` was given bytes
    _is_fraction: bool | None  # whether all examples had values in [0, 1], bytes aside
    _seed: int | None  # of predictions; None if the learner draws no random numbers

    def save(self, path: str | Path, **facts: Json) -> None:
        """Write the adapted state, without the learner, to one safetensors file.

        Args:
            facts: JSON that `read_model` returns.

        Raises:
            CheckpointError: the state or a fact cannot be written, or the disk refuses. An
                older file of that name stays intact.
        """
        check_is_fitted(self, "state_")
        tensors: dict[str, Tensor] = {}
        metadata: dict[str, Json] = {
            "estimator": class_name(self),
            "learner": learner_id(self.learner_),
            "state": pack_state(self.state_, "", tensors, state_types(self.learner_)),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "shape": list(self.shape_),
            "features": self.n_features_in_,
            "feature_names": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "seed": self.seed_,
            "bytes": self._is_bytes,
            "fractions": self._is_fraction,
            "targets": self._metadata(),
            "facts": {name: to_json(name, value) for name, value in facts.items()},
        }
        write(Path(path), KEY, metadata, tensors)

    @classmethod
    def load(cls, path: str | Path, learner: Learner[Any] | None = None) -> Self:
        """Return the estimator that `save` wrote.

        Args:
            learner: the base that was adapted. None: the default learner.

        Raises:
            CheckpointError: as `read_model`; or the base or the estimator is another.
        """
        model = cls(learner)
        shape = model._restore(path)["input_shape"]
        model.input_shape = None if shape is None else tuple(shape)
        return model

    def _restore(self, path: str | Path) -> dict[str, Json]:
        """Restore the fitted state from a file; return the file's metadata."""
        self.learner_ = self._default_learner() if self.learner is None else self.learner
        metadata, state = restore(path, self.learner_, class_name(self))
        self.shape_, self.seed_ = tuple(metadata["shape"]), metadata["seed"]
        self._seed = self.seed_
        # older files do not say; then everything is accepted
        self._is_bytes, self._is_fraction = (
            metadata.get("bytes"),
            metadata.get("fractions", True),
        )
        self.n_features_in_ = metadata["features"]
        if metadata["feature_names"]:
            self.feature_names_in_ = np.array(metadata["feature_names"], dtype=object)
        self._restore_metadata(metadata["targets"])
        self.state_ = state  # last, as other threads take an estimator with a state as fitted
        return metadata

    def _default_learner(self) -> Learner[Any]:
        """Return a learner that needs no training."""
        return PrototypicalNetwork(Flatten())

    @abstractmethod
    def _metadata(self) -> dict[str, Json]:
        """Return the facts about the targets that a file keeps."""

    @abstractmethod
    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        """Set the attributes that `_metadata` wrote."""

    def _begin(self, *, afresh: bool) -> bool:
        """Choose learner and seed if there is no state, or it is forgotten; return whether."""
        first = afresh or not hasattr(self, "state_")
        if first:
            vars(self).pop("state_", None)
            self.learner_ = self._default_learner() if self.learner is None else self.learner
            self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
            self._seed = self.seed_
        return first

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, **checks: Any
    ) -> tuple[Tensor, np.ndarray, Tensor]:
        """Return x (S, *features), targets and weights (S,) of the examples of weight > 0."""
        X, y = visible_values(X, "X"), visible_values(y, "y")
        X, y = validate_data(self, X, y, reset=reset, allow_nd=True, **checks)
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        keep = weight > 0
        if not keep.any():
            raise ValueError("Every sample_weight is 0: give at least one example a weight.")
        if not keep.all():
            X, y, weight = X[keep], y[keep], weight[keep]
        x, weight = self._inputs(X, reset=reset), self._tensor(weight, "sample_weight")
        if (weight < torch.finfo(weight.dtype).tiny).any():
            raise ValueError(f"sample_weight is too small for {weight.dtype}: scale it.")
        self._is_fraction = self._is_fraction and _is_fraction(X)
        return x, y, weight

    def _validated_labels(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[Tensor, np.ndarray, Tensor]:
        """Return x, labels of classes and weights, as `_validated`."""
        x, labels, weight = self._validated(
            X, exact_labels(visible_values(y, "y")), sample_weight, reset=reset
        )
        check_classification_targets(labels)
        return x, labels, weight

    def _inputs(self, X: np.ndarray, *, reset: bool) -> Tensor:
        """Return validated `X` as the learner takes it, (N, *features)."""
        shape = X.shape[1:] if self.input_shape is None else tuple(self.input_shape)
        if math.prod(shape) != math.prod(X.shape[1:]):
            raise ValueError(
                f"input_shape={shape} holds {math.prod(shape)} values, and an example of X "
                f"{math.prod(X.shape[1:])}: give an input_shape that fits X."
            )
        if reset:
            self.shape_ = shape
        elif shape != self.shape_:
            raise ValueError(
                f"Examples of X have the shape {shape}, and {class_name(self)} was fitted on "
                f"{self.shape_}: give X that shape."
            )
        x = self._tensor(X, "X").reshape(len(X), *shape)
        is_bytes = X.dtype == np.uint8
        if reset:
            self._is_bytes, self._is_fraction = is_bytes, _is_fraction(X)
        elif self._is_bytes not in (None, is_bytes) and not (
            self._is_fraction and _is_fraction(X)
        ):
            raise ValueError(
                f"{class_name(self)} was fitted on {'bytes' if self._is_bytes else 'numbers'}, "
                f"and X has {X.dtype}. Bytes (uint8) are divided by 255, and other numbers are "
                "not: give bytes always, or numbers of one scale always."
            )
        return x / 255 if is_bytes else x

    def _tensor(self, values: np.ndarray, name: str) -> Tensor:
        """Return numbers in the dtype and on the device of the learner's parameters."""
        like = reference_tensor(self.learner_)
        tensor = torch.from_numpy(values.astype(np.float64)).to(like.dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values too large for {like.dtype}: scale it.")
        return tensor.to(like.device)

    def _adapt(self, support: Examples, state: Any = None) -> tuple[Any, int]:
        """Return the state after `support`, and the number of columns of its predictions."""
        with self._copy_of_learner(measure=True) as learner:
            state = computed(learner, partial(learner.adapt, support, state), support.x)
            return state, point_prediction(learner.predict(state, support.x[:2])).shape[1]

    @contextmanager
    def _copy_of_learner(self, *, measure: bool = False) -> Iterator[Learner[Any]]:
        """Yield a copy of the learner in evaluation mode, with random numbers of the seed.

        Args:
            measure: whether to find out if the learner draws random numbers. If it does not,
                predictions leave torch's random state alone from then on.
        """
        with deterministic(self.learner_, self.seed_ if measure else self._seed) as copy:
            before = random_state(self.learner_)
            yield copy
            if measure:
                unchanged = random_state(self.learner_).equal(before)
                self._seed = None if unchanged else self.seed_

    def _shape_error(self, verb: str, targets: str, reason: Exception) -> ValueError:
        return ValueError(
            f"{class_name(self.learner_)} cannot {verb} examples of shape {self.shape_}"
            f"{targets} ({str(reason).strip()}): give `input_shape`, or a learner made for "
            "such examples."
        )

    def _predictions(self, X: Any) -> Tensor:
        """Return the predictions of `X`, (N, C), in double precision on the CPU."""
        check_is_fitted(self, "state_")
        X = validate_data(self, visible_values(X, "X"), reset=False, allow_nd=True)
        return predictions(self.learner_, self.state_, self._inputs(X, reset=False), self._seed)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _is_fraction(X: np.ndarray) -> bool:
    """Return whether X is of bytes, which become fractions, or of fractions.

    Bytes that are 0 or 1 are a mask, which is no picture: 1 would become 1 / 255.
    """
    if X.dtype.kind not in "fb":
        return X.dtype == np.uint8 and bool(X.max() != 1)
    return bool(X.min() >= 0 and X.max() <= 1)
