"""The base of all estimators: input checks, adaptation, and files of adapted models."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core.task import Examples, Json
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.storage import renamed
from quickstudy.storage.files import CheckpointError, class_name, to_json
from quickstudy.storage.state_file import learner_id, learner_ids, read, state_types, write
from quickstudy.storage.tree_json import pack_state, unpack_state

KEY = "quickstudy"  # of our entry in the metadata of a safetensors file
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError)  # PyTorch's, where shapes do not fit


def read_model(path: str | Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Read and check the file of an adapted model.

    Returns:
        The metadata and the tensors. The metadata has `facts` (those given to `save`) and
        `learner` (the class and the sha256 of the base that `load` needs).

    Raises:
        CheckpointError: the file is missing, truncated or changed, or of another format.

    Examples:
        >>> import numpy as np, quickstudy as qs, tempfile
        >>> model = qs.FewShotClassifier().fit(np.eye(2), [0, 1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.safetensors", author="Ada")
        ...     metadata, tensors = read_model(f"{folder}/model.safetensors")
        >>> metadata["facts"], sorted(tensors)
        ({'author': 'Ada'}, ['sizes', 'sums'])
    """
    metadata, tensors = read(
        Path(path),
        KEY,
        kind="adapted model",
        writer="an estimator's `save`",
        again="Copy it again from where it came from, or adapt and save anew.",
    )
    return renamed.model(metadata), tensors


class FewShotEstimator(BaseEstimator, ABC):
    """The base of classifiers, regressors and verifiers.

    Subclasses write their part of a file in `_metadata`, and read it in `_restore_metadata`.
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
        metadata, tensors = read_model(path)
        if metadata["estimator"] != class_name(self):
            raise CheckpointError(
                f"{path} is of a {metadata['estimator']}, not a {class_name(self)}: load it "
                f"with `{metadata['estimator']}.load`."
            )
        self.learner_ = self._default_learner() if self.learner is None else self.learner
        saved, current = metadata["learner"], learner_id(self.learner_)
        if saved not in learner_ids(self.learner_):
            raise CheckpointError(
                f"{path} was adapted from another base: a {saved['class']} whose parameters "
                f"have the sha256 {saved['sha256'][:12]}…, and this is a {current['class']} "
                f"with {current['sha256'][:12]}…. Load it with the learner that was adapted."
            )
        device = reference_tensor(self.learner_).device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.state_ = unpack_state(metadata["state"], tensors, state_types(self.learner_))
        self.shape_, self.seed_ = tuple(metadata["shape"]), metadata["seed"]
        self.n_features_in_ = metadata["features"]
        if metadata["feature_names"]:
            self.feature_names_in_ = np.array(metadata["feature_names"], dtype=object)
        self._restore_metadata(metadata["targets"])
        return metadata

    @abstractmethod
    def _default_learner(self) -> Learner[Any]:
        """Return a learner that needs no training."""

    @abstractmethod
    def _metadata(self) -> dict[str, Json]:
        """Return the facts about the targets that a file keeps."""

    @abstractmethod
    def _restore_metadata(self, metadata: dict[str, Json]) -> None:
        """Set the attributes that `_metadata` wrote."""

    def _reset(self) -> None:
        """Forget the state, and choose learner and seed."""
        self.learner_ = self._default_learner() if self.learner is None else self.learner
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        if hasattr(self, "state_"):
            del self.state_

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, **checks: Any
    ) -> tuple[Tensor, np.ndarray, Tensor]:
        """Return x (S, *features), targets and weights (S,) of the examples of weight > 0."""
        X, y = validate_data(self, X, y, reset=reset, allow_nd=True, **checks)
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        keep = weight > 0
        if not keep.any():
            raise ValueError("Every sample_weight is 0: give at least one example a weight.")
        if not keep.all():
            X, y, weight = X[keep], y[keep], weight[keep]
        return self._inputs(X, reset=reset), y, self._tensor(weight, "sample_weight")

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
        return x / 255 if X.dtype == np.uint8 else x

    def _tensor(self, values: np.ndarray, name: str) -> Tensor:
        """Return numbers in the dtype and on the device of the learner's parameters."""
        like = reference_tensor(self.learner_)
        tensor = torch.from_numpy(values.astype(np.float64)).to(like.dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values too large for {like.dtype}: scale it.")
        return tensor.to(like.device)

    @contextmanager
    def _deterministic(self) -> Iterator[None]:
        """Run in evaluation mode, without a graph, with random numbers of the seed alone."""
        # the attention backend is the one that `over_tasks` uses
        with evaluating(self.learner_), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(self.seed_)
            yield

    def _adapt(self, support: Examples, state: Any = None) -> tuple[Any, int]:
        """Return the state after `support`, and the number of columns of its predictions."""
        with self._deterministic():
            state = self.learner_.adapt(support, state)
            return state, point_prediction(self.learner_.predict(state, support.x[:2])).shape[1]

    def _shape_error(self, targets: str, reason: Exception) -> ValueError:
        return ValueError(
            f"{class_name(self.learner_)} cannot adapt to examples of shape {self.shape_} with "
            f"{targets} ({str(reason).strip()}): give `input_shape`, or a learner made for "
            "such examples."
        )

    def _predictions(self, X: Any) -> Tensor:
        """Return the predictions of `X`, (N, C), in double precision on the CPU."""
        check_is_fitted(self, "state_")
        X = validate_data(self, X, reset=False, allow_nd=True)
        x = self._inputs(X, reset=False)
        with self._deterministic():
            predictions = point_prediction(self.learner_.predict(self.state_, x))
        if predictions.isnan().any():
            raise ValueError(
                f"{class_name(self.learner_)} predicts NaN: its adaptation diverged. Scale X "
                "as in meta-training, or lower the learner's inner learning rate."
            )
        return predictions.cpu().double()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def reference_tensor(learner: Learner[Any]) -> Tensor:
    """Return a tensor with the dtype and the device that the learner computes in.

    Examples:
        >>> import quickstudy as qs
        >>> reference_tensor(qs.MAML(qs.nets.MLP(4, 3)).double()).dtype
        torch.float64
    """
    floats = (p for p in learner.parameters() if p.is_floating_point())
    return next(floats, torch.zeros((), dtype=torch.float64))


def point_prediction(prediction: Any) -> Tensor:
    """Return the prediction, or the mean of a predicted distribution.

    Examples:
        >>> point_prediction(torch.distributions.Normal(torch.zeros(2), 1.0)).tolist()
        [0.0, 0.0]
    """
    return prediction if isinstance(prediction, Tensor) else prediction.mean
