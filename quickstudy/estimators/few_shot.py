"""Learners as scikit-learn estimators: `fit` is adapt, `predict` is predict.

Meta-training is no part of `fit`: an estimator is given a learner that has learned to learn.
What it learns from your examples is a state, which `save` writes as one small file.

>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> model = FewShotClassifier().fit(X[::10], y[::10])  # fifteen examples
>>> round(model.score(X, y), 2)
0.9
"""

import math
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn import Flatten
from torch.nn import functional as F

from quickstudy.core.functional import leaves, tree_map
from quickstudy.core.task import Examples, Json
from quickstudy.estimators.adapted_model import KEY, frozen, like, mean, outputs, restore
from quickstudy.evaluation.pairwise import require_distance
from quickstudy.learner import Learner
from quickstudy.learners.heads.ridge import RidgeRegression
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.storage.checkpoints import CheckpointError, _class, _json
from quickstudy.storage.state_file import identity, pack, state_types, write

_TURNS, _PASS = 20, 0.95  # of a threshold: rounds of leaving out, share that is to pass
_MISFIT = (RuntimeError, ValueError, IndexError)  # what PyTorch raises when shapes do not fit


class _FewShotEstimator(BaseEstimator, ABC):
    """What classifier and regressor share.

    Subclasses tell in `_about` what they know of their targets, and `_recall` it.
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

    def save(self, path: str | Path, **facts: Json) -> None:
        """Writes what was learned, not the learner, to one safetensors file.

        Args:
            facts: what `read_model` is to return; JSON.

        Raises:
            CheckpointError: the state or a fact cannot be written, or the disk refuses. A file
                that was there before is intact.
        """
        check_is_fitted(self, "state_")
        tensors: dict[str, Tensor] = {}
        about: dict[str, Json] = {
            "estimator": _class(self),
            "learner": identity(self.learner_),
            "state": pack(self.state_, "", tensors, state_types(self.learner_)),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "shape": list(self.shape_),
            "features": self.n_features_in_,
            "feature_names": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "seed": self.seed_,
            "targets": self._about(),
            "facts": {name: _json(name, value) for name, value in facts.items()},
        }
        write(Path(path), KEY, about, tensors)

    @classmethod
    def load(cls, path: str | Path, learner: Learner[Any] | None = None) -> Self:
        """The estimator that `save` wrote.

        Args:
            learner: the base that it was adapted from; None: the default learner.

        Raises:
            CheckpointError: as `read_model`; or the base, or the estimator, is another.
        """
        model = cls(learner)
        about = model._restore(path)
        shape = about["input_shape"]
        model.input_shape = None if shape is None else tuple(shape)
        return model

    def _restore(self, path: str | Path) -> dict[str, Json]:
        """Knows what the model in a file knows; returns what the file says."""
        self.learner_ = self._default() if self.learner is None else self.learner
        about, self.state_ = restore(path, self.learner_, _class(self))
        self.shape_, self.seed_ = tuple(about["shape"]), about["seed"]
        self.n_features_in_ = about["features"]
        if about["feature_names"]:
            self.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        self._recall(about["targets"])
        return about

    @abstractmethod
    def _default(self) -> Learner[Any]:
        """A learner that needs no training."""

    @abstractmethod
    def _about(self) -> dict[str, Json]:
        """What is known of the targets."""

    @abstractmethod
    def _recall(self, about: dict[str, Json]) -> None:
        """The inverse of `_about`."""

    def _begin(self) -> None:
        """Forgets, and chooses learner and seed."""
        self.learner_ = self._default() if self.learner is None else self.learner
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        if hasattr(self, "state_"):
            del self.state_

    def _support(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, **checks: Any
    ) -> tuple[Tensor, np.ndarray, Tensor]:
        """x (S, *features), targets and weights (S,) of the examples that have a weight."""
        X, y = validate_data(self, X, y, reset=reset, allow_nd=True, **checks)
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        keep = weight > 0
        if not keep.any():
            raise ValueError("Every sample_weight is 0: give at least one example a weight.")
        if not keep.all():
            X, y, weight = X[keep], y[keep], weight[keep]
        return self._inputs(X, reset=reset), y, self._tensor(weight, "sample_weight")

    def _inputs(self, X: np.ndarray, *, reset: bool) -> Tensor:
        """Validated `X` as the learner takes it, (N, *features)."""
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
                f"Examples of X have the shape {shape}, and {_class(self)} was fitted on "
                f"{self.shape_}: give X that shape."
            )
        x = self._tensor(X, "X").reshape(len(X), *shape)
        return x / 255 if X.dtype == np.uint8 else x

    def _tensor(self, values: np.ndarray, name: str) -> Tensor:
        """Numbers in the dtype and on the device of the learner's parameters."""
        example = like(self.learner_)
        tensor = torch.from_numpy(values.astype(np.float64)).to(example.dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values too large for {example.dtype}: scale it.")
        return tensor.to(example.device)

    def _adapt(self, support: Examples, state: Any = None) -> tuple[Any, int]:
        """The state after `support`, and how many outputs its predictions have."""
        with frozen(self.learner_, self.seed_):
            state = self.learner_.adapt(support, state)
            return state, mean(self.learner_.predict(state, support.x[:2])).shape[-1]

    def _misfit(self, what: str, reason: Exception) -> ValueError:
        return ValueError(
            f"{_class(self.learner_)} cannot adapt to examples of shape {self.shape_} with "
            f"{what} ({str(reason).strip()}): give `input_shape`, or a learner made for such "
            "examples."
        )

    def _outputs(self, X: Any) -> Tensor:
        """What is predicted of `X`, (N, C), in double precision on the CPU."""
        check_is_fitted(self, "state_")
        X = validate_data(self, X, reset=False, allow_nd=True)
        x = self._inputs(X, reset=False)
        return outputs(self.learner_, self.state_, x, self.seed_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class _Classifier(ClassifierMixin, _FewShotEstimator):
    """What classifiers share: a class has a column of the learner's outputs."""

    classes_: np.ndarray
    _columns: np.ndarray  # of `classes_`, among the learner's outputs
    _width: int  # how many of these there are

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, classes): the softmax of the learner's predictions."""
        return self._logits(X).softmax(-1).numpy()

    def _logits(self, X: Any) -> Tensor:
        predictions = self._outputs(X)  # of all that the learner has
        if len(predictions) == 1 and self.learner_.transductive:
            warnings.warn(
                f"{_class(self.learner_)} is transductive, and learns from the rows that it is "
                "asked about: give it many at once, of every class, not one alone.",
                stacklevel=3,
            )
        return predictions[:, self._columns]

    def _start(
        self, x: Tensor, index: np.ndarray, weight: Tensor, count: int
    ) -> tuple[Any, int]:
        """Adapts from nothing, with a column of labels for each of the learner's outputs."""
        trouble = None
        try:
            state, width = self._adapt(self._examples(x, index, weight, count))
        except _MISFIT as error:
            trouble = error
            try:  # one column broadcasts to however many outputs there are, and so tells
                one = self._examples(x, np.zeros_like(index), weight, 1)
                state, width = self._adapt(one)
            except _MISFIT:
                raise self._misfit(f"{count} classes", trouble) from trouble
            if width in (1, count):  # so their number was not the trouble
                raise self._misfit(f"{count} classes", trouble) from trouble
        if width < count:
            raise ValueError(
                f"The learner has {width} outputs, and there are {count} classes: give "
                f"examples of at most {width} classes, or a learner of {count} outputs."
            ) from trouble
        if width > count:
            state, _ = self._adapt(self._examples(x, index, weight, width))
        return state, width

    def _grow(self, x: Tensor, state: Any, width: int, count: int) -> Any:
        """`state`, of `width` classes, as it would be had there been `count` from the start.

        By trial: the same examples are learned with few and with many columns of labels.
        Where the two states differ in shape is the axis of classes, and padding the one with
        zeros there must make it the other.
        """
        index, weight = np.arange(len(x)) % width, torch.ones_like(x.flatten(1)[:, 0])
        trouble = None
        try:
            few, _ = self._adapt(self._examples(x, index, weight, width))
            many, _ = self._adapt(self._examples(x, index, weight, count))
            padded = tree_map(_pad, few, few, many)
            pairs = zip(leaves(padded), leaves(many), strict=True)
            if all(_close(a, b) for a, b in pairs):
                return tree_map(_pad, state, few, many)
        except _MISFIT as error:
            trouble = error
        raise ValueError(
            f"What {_class(self.learner_)} knows of {width} classes cannot grow to {count}: "
            "name all classes in the first call, partial_fit(X, y, classes=…), or fit, on all "
            "examples, a learner that has enough outputs."
        ) from trouble

    def _examples(self, x: Tensor, index: np.ndarray, weight: Tensor, width: int) -> Examples:
        y = F.one_hot(torch.from_numpy(index), width)
        return Examples(x, y.to(weight), weight)

    def _default(self) -> Learner[Any]:
        return PrototypicalNetwork(Flatten())

    def _about(self) -> dict[str, Json]:
        labels = self.classes_.tolist()
        if not all(isinstance(label, str | int | float) for label in labels):
            raise CheckpointError(
                "Labels that are saved must be text, numbers or booleans: convert y before fit."
            )
        kind = self.classes_.dtype.str
        columns = self._columns.tolist()
        return {"labels": labels, "dtype": kind, "columns": columns, "width": self._width}

    def _recall(self, about: dict[str, Json]) -> None:
        self.classes_ = np.array(about["labels"], dtype=about["dtype"])
        self._columns, self._width = np.array(about["columns"]), about["width"]


class FewShotClassifier(_Classifier):
    """Classifies by what a learner makes of the examples.

    `X` is (N, features), or (N, *features) such as images (N, channels, height, width). Bytes
    become floats in [0, 1], as in `FewShot`. With a learner that is transductive, or normalises
    by the batch at hand, a prediction depends on the other rows of `X`.

    Args:
        learner: meta-trained; it is used as it is, not copied or changed. None: a
            `PrototypicalNetwork` on the inputs themselves, which is the nearest centroid and
            needs no training.
        input_shape: the shape of an example for the learner, to which rows of `X` are
            reshaped: so that images pass as flat rows through pipelines.
        random_state: seed of learners that draw random numbers.
        unknown: what `predict` says of examples that are of none of the classes, such as "none
            of these" or -1: those whose best logit is below `threshold_`. The learner's logits
            must be similarities. None: everything is taken for one of the classes.
        threshold: None: as low as lets 95 % of the examples pass, each when it is left out.

    Attributes:
        classes_: the labels, sorted; columns of `predict_proba`.
        threshold_: in use, where `unknown` is given.
        state_: what was learned, a nest of tensors.
        learner_: the learner in use.
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
        """Adapts the learner, from nothing, to labelled examples.

        The learner may have more outputs than there are classes: the others are never
        predicted. Examples of weight 0 do not count, nor do classes that have no other.

        Raises:
            ValueError: there is one class only, or there are more than the learner has
                outputs, or `X`, `y` or `sample_weight` is not as it should be; or what is
                unknown cannot be told, by this learner or from one example of each class.
        """
        self._begin()
        x, labels, weight = self._support(X, y, sample_weight, reset=True)
        check_classification_targets(labels)
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
            self.threshold_ = self._calibrated(x, np.searchsorted(classes, labels), weight)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Adapts the learner further, from what it knows; `threshold_` stays as it is.

        Labels may be new ones. They take outputs that the learner has to spare; where there
        are none the state is grown, which is possible where its tensors have a column, of
        zeros, for a class not yet seen (prototypes, for example).

        Args:
            classes: labels to expect. Needed in the first call only if the learner's state
                cannot grow, and never if its number of outputs is enough.

        Raises:
            ValueError: as `fit`, but one class is enough; or the state cannot grow; or there
                is no threshold yet for what is `unknown`.
        """
        first = not hasattr(self, "state_")
        if first:
            self._begin()
        x, labels, weight = self._support(X, y, sample_weight, reset=first)
        check_classification_targets(labels)
        known = labels[:0] if first else self.classes_[np.argsort(self._columns)]
        expected = labels[:0] if classes is None else np.asarray(classes)
        groups = [group for group in (known, labels, expected) if len(group)]
        unique_labels(*groups)  # raises where text is mixed with numbers
        new = np.setdiff1d(np.concatenate(groups), known)
        classes = np.concatenate([known, new]) if len(known) else new
        self._check_unknown(classes)
        if self.unknown is not None and not hasattr(self, "threshold_"):
            raise ValueError(
                "There is no threshold yet for what is unknown: begin with `fit`, which "
                "chooses one, or give `threshold`."
            )
        self._learn(x, labels, weight, classes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each example (N,), or `unknown`."""
        best, columns = self._logits(X).max(-1)
        labels = self.classes_[columns.numpy()]
        if self.unknown is None:
            return labels
        return np.where(best.numpy() >= self.threshold_, labels, np.array([self.unknown]))

    def score_samples(self, X: Any) -> np.ndarray:
        """The best logit of each example (N,): the lower, the less it is like any class."""
        return self._logits(X).amax(-1).numpy()

    def _learn(
        self, x: Tensor, labels: np.ndarray, weight: Tensor, classes: np.ndarray
    ) -> None:
        """Adapts to examples, `classes` being all labels in the order of their columns."""
        columns = np.argsort(classes)  # of the sorted classes
        index = columns[np.searchsorted(classes[columns], labels)]  # (S,)
        known, width = getattr(self, "state_", None), getattr(self, "_width", 0)
        if known is None:
            state, width = self._start(x, index, weight, len(classes))
        else:
            if len(classes) > width:
                known, width = self._grow(x, known, width, len(classes)), len(classes)
            state, _ = self._adapt(self._examples(x, index, weight, width), known)
        self.state_, self._width = state, width
        self.classes_, self._columns = classes[columns], columns

    def _check_unknown(self, classes: np.ndarray) -> None:
        if self.unknown is None:
            return
        require_distance(self.learner_)
        unique_labels(classes, [self.unknown])  # raises where text is mixed with numbers
        if self.unknown in classes:
            raise ValueError(
                f"unknown={self.unknown!r} is the label of a class: leave out its examples, or "
                "give another label."
            )
        if self.threshold is not None:
            self.threshold_ = float(self.threshold)

    def _calibrated(self, x: Tensor, index: np.ndarray, weight: Tensor) -> float:
        """What the best logits of examples reach that were not learned from.

        One example of every class is left out at a time: a class is then known by one less
        than it will be.
        """
        order = np.argsort(index, kind="stable")
        sizes = np.bincount(index)
        place = np.empty_like(index)  # of an example within its class
        place[order] = np.arange(len(index)) - np.repeat(sizes.cumsum() - sizes, sizes)
        best: list[Tensor] = []
        for turn in range(min(sizes.max(), _TURNS)):
            out = (place == turn) & (sizes[index] > 1)
            if out.any():
                state, _ = self._adapt(
                    self._examples(x[~out], index[~out], weight[~out], self._width)
                )
                with frozen(self.learner_, self.seed_):
                    logits = self.learner_.predict(state, x[out])
                best.append(logits[:, self._columns].amax(-1).cpu().double())
        return float(np.quantile(torch.cat(best).numpy(), 1 - _PASS, method="lower"))

    def _about(self) -> dict[str, Json]:
        said = {"unknown": self.unknown, "threshold": getattr(self, "threshold_", None)}
        return super()._about() | (said if self.unknown is not None else {})

    def _recall(self, about: dict[str, Json]) -> None:
        super()._recall(about)
        self.unknown = about.get("unknown")
        if self.unknown is not None:
            self.threshold = self.threshold_ = about["threshold"]


class FewShotRegressor(RegressorMixin, _FewShotEstimator):
    """Predicts numbers by what a learner makes of the examples.

    `X` is (N, features) or (N, *features); `y` is (N,) or (N, values). Of a learner that
    predicts distributions, the mean is taken.

    Args:
        learner: meta-trained; it is used as it is, not copied or changed. None:
            `RidgeRegression` on the inputs themselves, which needs no training.
        input_shape: the shape of an example for the learner, to which rows of `X` are
            reshaped.
        random_state: seed of learners that draw random numbers.

    Attributes:
        state_: what was learned, a nest of tensors.
        learner_: the learner in use.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapts the learner, from nothing, to examples. Those of weight 0 do not count.

        Raises:
            ValueError: the learner has another number of outputs than `y`, or `X`, `y` or
                `sample_weight` is not as it should be.
        """
        self._begin()
        return self.partial_fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapts the learner further, from what it knows.

        Raises:
            ValueError: as `fit`; or `y` has another number of values than before.
        """
        first = not hasattr(self, "state_")
        if first:
            self._begin()
        x, y, weight = self._support(
            X, y, sample_weight, reset=first, multi_output=True, y_numeric=True
        )
        target = self._tensor(y, "y").reshape(len(y), -1)  # (S, C)
        count = target.shape[1]
        if not first and count != self._width:
            raise ValueError(
                f"y has {count} values of an example: give it {self._width}, as before."
            )
        known = None if first else self.state_
        try:
            state, width = self._adapt(Examples(x, target, weight), known)
        except _MISFIT as error:
            raise self._misfit(f"{count} values of y", error) from error
        if width != count:
            raise ValueError(
                f"The learner has {width} outputs, and y has {count} values of an example: "
                f"give y of {width} columns, or a learner of {count} outputs."
            )
        self.state_, self._width, self._flat = state, width, y.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values, of the shape that `y` had in `fit`: (N,) or (N, values)."""
        values = self._outputs(X).numpy()
        return values[:, 0] if self._flat else values

    def _default(self) -> Learner[Any]:
        return RidgeRegression(Flatten()).double()

    def _about(self) -> dict[str, Json]:
        return {"width": self._width, "flat": self._flat}

    def _recall(self, about: dict[str, Json]) -> None:
        self._width, self._flat = about["width"], about["flat"]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _pad(leaf: Tensor, few: Tensor, many: Tensor) -> Tensor:
    """`leaf` with zeros at the end of the axes along which `many` is longer than `few`."""
    room = [b - a for a, b in zip(few.shape, many.shape, strict=True)]
    return F.pad(leaf, [n for r in reversed(room) for n in (0, r)])


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = b.abs().amax().item() if b.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale)
