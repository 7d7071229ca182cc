"""Estimators: scikit-learn's own checks, equality with the learners, files, and bad input."""

import errno
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor, nn

from quickstudy import MAML, Examples, Learner, PrototypicalNetwork, squared_error
from quickstudy.core.tree import leaves
from quickstudy.estimators import FewShotClassifier, FewShotRegressor, read_model
from quickstudy.learners.amortised.conditional_neural_process import ConditionalNeuralProcess
from quickstudy.learners.heads.ridge import RidgeRegression
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.storage.checkpoints import CheckpointError

with warnings.catch_warnings():  # it names the checks that need optional packages
    warnings.simplefilter("ignore")

    @parametrize_with_checks([FewShotClassifier(), FewShotRegressor()])
    def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]):
        check(estimator)


def few(shots: int = 5, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Support and query of the handwritten digits: 10 classes of `shots` examples."""
    X, y = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(seed).permutation(len(X))
    given = np.concatenate([order[y[order] == c][:shots] for c in range(10)])
    queries = np.setdiff1d(order, given)
    return X[given], y[given], X[queries], y[queries]


def maml(outputs: int = 3, **settings: Any) -> MAML:
    torch.manual_seed(0)
    return MAML(MLP(4, outputs, hidden=(8,)), lr=0.3, steps=10, **settings)


def bias(learner: MAML) -> Tensor:
    """Of the last layer."""
    return learner.net.get_parameter("head.bias")


def blobs(classes: int = 3, n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (3 * np.eye(4)[y] + 0.3 * rng.normal(size=(n, 4))), y


# Equality


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # theirs
def test_without_a_learner_it_is_the_nearest_centroid():
    X, y, queries, truth = few()
    ours, theirs = FewShotClassifier().fit(X, y), NearestCentroid().fit(X, y)
    assert (ours.predict(queries) == theirs.predict(queries)).all()
    assert ours.score(queries, truth) == theirs.score(queries, truth) > 0.8


def test_without_a_learner_it_is_ridge_regression():
    X, y = map(np.asarray, load_diabetes(return_X_y=True))
    y = np.stack([y, -2 * y + X[:, 0]], 1)
    ours, theirs = FewShotRegressor().fit(X[:300], y[:300]), Ridge().fit(X[:300], y[:300])
    np.testing.assert_allclose(ours.predict(X[300:]), theirs.predict(X[300:]), rtol=1e-9)
    flat = FewShotRegressor().fit(X[:300], y[:300, 0]).predict(X[300:])
    np.testing.assert_allclose(flat, theirs.predict(X[300:])[:, 0], rtol=1e-9)


def test_fit_is_adapt_and_the_learner_stays_as_it_was():
    learner = maml()
    learner.net.get_submodule("body").eval()  # a part that its owner has frozen
    modes = [module.training for module in learner.modules()]
    before = {name: p.clone() for name, p in learner.state_dict().items()}
    X, y = blobs()
    model = FewShotClassifier(learner).fit(X, y)

    x = torch.tensor(X, dtype=torch.float32)
    support = Examples(x, nn.functional.one_hot(torch.tensor(y)).float(), torch.ones(len(x)))
    state = learner.adapt(support)
    for ours, theirs in zip(leaves(model.state_), leaves(state), strict=True):
        torch.testing.assert_close(ours, theirs)
    want = learner.predict(state, x).double().softmax(-1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(X), want, rtol=1e-6)
    assert model.score(X, y) == 1.0
    assert [module.training for module in learner.modules()] == modes
    assert all((before[name] == p).all() for name, p in learner.state_dict().items())
    assert not any(leaf.requires_grad for leaf in leaves(model.state_))


@pytest.mark.parametrize("labels", [np.arange(10), np.array([*"jihgfedcba"], dtype=object)])
def test_a_stream_of_new_classes_ends_as_all_at_once(labels: np.ndarray):
    X, y, queries, _ = few()
    y = labels[y]
    stream = FewShotClassifier()
    for part in np.split(np.random.default_rng(1).permutation(50), [1, 3, 20]):
        stream.partial_fit(X[part], y[part])
    whole = FewShotClassifier().fit(X, y)
    assert stream.classes_.tolist() == sorted(labels)
    np.testing.assert_allclose(
        stream.predict_proba(queries), whole.predict_proba(queries), rtol=1e-7, atol=1e-12
    )


def test_a_regression_state_of_classes_grows_too():
    learner = RidgeRegression(nn.Flatten()).double()
    X, y, queries, _ = few()
    stream = FewShotClassifier(learner).partial_fit(X[:20], y[:20])  # classes 0 to 3
    stream.partial_fit(X[20:], y[20:])
    whole = FewShotClassifier(learner).fit(X, y).predict_proba(queries)
    np.testing.assert_allclose(stream.predict_proba(queries), whole, rtol=1e-6)


def test_regression_examples_later_are_as_at_once():
    X, y = map(np.asarray, load_diabetes(return_X_y=True))
    stream = FewShotRegressor().fit(X[:10], y[:10]).partial_fit(X[10:300], y[10:300])
    whole = FewShotRegressor().fit(X[:300], y[:300])
    np.testing.assert_allclose(stream.predict(X[300:]), whole.predict(X[300:]), rtol=1e-9)


@pytest.mark.parametrize("learner", [None, maml()], ids=["prototypes", "maml"])
def test_weights_count_as_copies_and_zeros_as_absence(learner: Learner[Any] | None):
    X, y = blobs()
    weight = np.ones(len(y))
    weight[:4], weight[9:] = 3, 0
    ours = FewShotClassifier(learner).fit(X, y, sample_weight=weight)
    copies = np.repeat(np.arange(len(y)), weight.astype(int))
    theirs = FewShotClassifier(learner).fit(X[copies], y[copies])
    queries = X.mean(0) + 0.1 * X  # near the border, where a difference would show
    np.testing.assert_allclose(
        ours.predict_proba(queries), theirs.predict_proba(queries), rtol=1e-4, atol=1e-7
    )
    even = FewShotClassifier(learner).fit(X, y).predict_proba(queries)
    assert np.abs(even - ours.predict_proba(queries)).max() > 1e-3
    alone = FewShotClassifier(learner).fit(X, y, sample_weight=y != 2)
    assert alone.classes_.tolist() == [0, 1]


# The number of outputs


def test_outputs_to_spare_are_never_predicted():
    learner = maml(outputs=7)
    with torch.no_grad():
        bias(learner)[5] = 50.0  # an output that would win
    X, y = blobs()
    model = FewShotClassifier(learner).fit(X, np.array(["c", "a", "b"])[y])
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert model.predict_proba(X).shape == (12, 3)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert set(model.predict(X)) <= {"a", "b", "c"}


def test_more_classes_than_outputs_are_refused_by_their_number():
    X, y = blobs(classes=4)
    with pytest.raises(ValueError, match=r"3 outputs, and there are 4 classes"):
        FewShotClassifier(maml()).fit(X, y)
    with pytest.raises(ValueError, match=r"1 outputs, and there are 4 classes"):
        FewShotClassifier(maml(outputs=1)).fit(X, y)


def test_a_net_takes_new_classes_while_it_has_outputs():
    X, y = blobs(classes=4, n=16)
    model = FewShotClassifier(maml(outputs=3))
    model.partial_fit(X[y == 2], y[y == 2])  # one class is enough here
    model.partial_fit(X[y < 2], y[y < 2])
    assert model.classes_.tolist() == [0, 1, 2]
    for _ in range(5):
        model.partial_fit(X[y < 3], y[y < 3])
    assert model.score(X[y < 3], y[y < 3]) == 1.0
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=r"of 3 classes cannot grow to 4: name all classes"):
        model.partial_fit(X, y)
    assert (model.predict_proba(X) == before).all()  # and nothing was lost
    model = FewShotClassifier(maml(outputs=4)).partial_fit(X[:2], y[:2], classes=range(4))
    assert model.partial_fit(X, y).classes_.tolist() == [0, 1, 2, 3]


class Counts(NamedTuple):
    sums: Tensor
    sizes: Tensor


class Priors(Learner[Counts]):
    """Has a column of ones, not of zeros, for a class not yet seen."""

    def adapt(self, support: Examples, state: Counts | None = None) -> Counts:
        if state is None:
            state = Counts(torch.zeros(support.y.shape[1]), torch.ones(support.y.shape[1]))
        return Counts(state.sums, state.sizes + support.y.sum(0).float())

    def predict(self, state: Counts, x: Tensor) -> Tensor:
        return state.sizes.log().expand(len(x), -1)


def test_a_state_that_zeros_would_falsify_is_not_grown():
    X, y = blobs()
    model = FewShotClassifier(Priors()).fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="cannot grow to 3"):
        model.partial_fit(X, y)
    model = FewShotClassifier(Priors()).partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    model.partial_fit(X, y)
    want = np.array([9, 9, 5]) / 23
    np.testing.assert_allclose(model.predict_proba(X), np.tile(want, (12, 1)), rtol=1e-6)


def test_a_regressor_says_how_many_outputs_its_learner_has():
    X, _ = blobs()
    with pytest.raises(ValueError, match="3 outputs, and y has 1 values"):
        FewShotRegressor(maml(criterion=squared_error)).fit(X, X[:, 0])
    model = FewShotRegressor(maml(criterion=squared_error)).fit(X, X[:, :3])
    assert model.predict(X).shape == (12, 3)
    with pytest.raises(ValueError, match="y has 2 values of an example: give it 3"):
        model.partial_fit(X, X[:, :2])


def test_a_distribution_is_predicted_by_its_mean():
    learner = ConditionalNeuralProcess(4, 1, width=16)
    X, y = blobs()
    model = FewShotRegressor(learner).fit(X, y)
    with torch.no_grad():
        mean = learner.predict(model.state_, torch.tensor(X).float()).mean[:, 0]
    np.testing.assert_allclose(model.predict(X), mean.numpy(), rtol=1e-6)


# Inputs


def test_images_are_given_as_they_are_or_as_rows():
    torch.manual_seed(0)
    learner = PrototypicalNetwork(Conv4(channels=4, size=16))
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (8, 1, 16, 16), dtype=np.uint8), np.arange(8) % 2
    images = FewShotClassifier(learner).fit(X, y)
    rows = FewShotClassifier(learner, input_shape=(1, 16, 16)).fit(X.reshape(8, -1), y)
    want = images.predict_proba(X)
    assert (rows.predict_proba(X.reshape(8, -1)) == want).all()
    as_float = (torch.from_numpy(X).float() / 255).numpy()  # as FewShot makes them
    assert (FewShotClassifier(learner).fit(as_float, y).predict_proba(as_float) == want).all()
    tensors = FewShotClassifier(learner).fit(torch.from_numpy(X), y)
    assert (tensors.predict_proba(torch.from_numpy(X)) == want).all()
    with pytest.raises(ValueError, match=r"\(1, 16, 8\), and FewShotClassifier was fitted on"):
        images.predict(X[..., :8])
    with pytest.raises(ValueError, match="holds 256 values, and an example of X 128"):
        rows.fit(X.reshape(8, -1)[:, :128], y)
    with pytest.raises(ValueError, match=r"cannot adapt to examples of shape \(256,\)"):
        FewShotClassifier(learner).fit(X.reshape(8, -1), y)


def test_pipelines_cross_validation_grids_and_frames():
    X, y, _, _ = few()
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 32)))
    names = np.array([f"digit {c}" for c in y])
    pipe = make_pipeline(StandardScaler(), FewShotClassifier(learner, input_shape=(1, 8, 8)))
    assert cross_val_score(pipe, X, names, cv=3).mean() > 0.6
    grid = GridSearchCV(FewShotClassifier(), {"learner": [None, learner]}, cv=2).fit(X, y)
    assert len(grid.cv_results_["params"]) == 2
    assert cross_val_score(FewShotRegressor(), X, y, cv=3).shape == (3,)

    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    model = FewShotClassifier().fit(frame, pd.Series(names))
    assert model.feature_names_in_.tolist() == list(frame)
    assert (model.predict(frame) == FewShotClassifier().fit(X, names).predict(X)).all()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"pixel 3": "other"}))


def test_clones_and_pickles():
    X, y = blobs()
    model = FewShotClassifier(maml(), input_shape=(4,), random_state=3).fit(X, y)
    other: Any = clone(model)
    settings = {"learner", "input_shape", "random_state", "unknown", "threshold"}
    assert other.get_params().keys() == settings
    assert other.input_shape == (4,)
    assert other.random_state == 3
    with pytest.raises(NotFittedError):
        other.predict(X)
    want = model.predict_proba(X)
    assert (other.fit(X, y).predict_proba(X) == want).all()
    assert (pickle.loads(pickle.dumps(model)).predict_proba(X) == want).all()


class NoisyState(PrototypicalNetwork):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        noise = torch.randn_like(support.x)
        return super().adapt(support._replace(x=support.x + noise), state)


def test_chance_comes_from_the_seed_and_leaves_the_callers_alone():
    X, y = blobs()
    torch.manual_seed(5)
    first, again, other = (
        FewShotClassifier(NoisyState(nn.Flatten()), random_state=seed).fit(X, y)
        for seed in (0, 0, 1)
    )
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after
    assert (first.predict_proba(X) == again.predict_proba(X)).all()
    assert (first.predict_proba(X) != other.predict_proba(X)).any()


@pytest.mark.parametrize(
    ("X", "y", "weight", "message"),
    [
        (np.full((2, 3), np.nan), [0, 1], None, "NaN"),
        (np.full((2, 3), np.inf), [0, 1], None, "infinity"),
        (np.full((2, 3), 1e300), [0, 1], None, "too large for torch.float32"),
        (np.ones((2, 3)), [0, 0], None, "1 class"),
        (np.ones((2, 3)), [0, 1], [1, 0], "1 class"),
        (np.ones((2, 3)), [0, 1], [0, 0], "non-zero|is 0: give"),
        (np.ones((2, 3)), [0, 1], [1, -1], "(?i)negative"),
        (np.ones((0, 3)), [], None, "0 sample"),
        (np.ones(3), [0, 1, 0], None, "1D array"),
        (np.ones((2, 3)), [0, 1, 0], None, "inconsistent numbers"),
        (np.ones((2, 3)), [0.5, 1.2], None, "(?i)continuous"),
        (np.ones((2, 3)), [0, 1], None, r"cannot adapt to examples of shape \(3,\)"),
    ],
)
def test_bad_examples_get_a_sentence(X: Any, y: Any, weight: Any, message: str):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier(maml()).fit(X, y, sample_weight=weight)


def test_text_and_numbers_do_not_mix_as_labels():
    X, y = blobs()
    model = FewShotClassifier().fit(X, y)
    with pytest.raises(ValueError, match=r"(?i)mix"):
        model.partial_fit(X, np.array(["a", "b", "c"])[y])


def test_adaptation_that_diverges_is_named():
    X, y = blobs()
    with pytest.raises(ValueError, match="diverged"):
        FewShotRegressor(MAML(MLP(4, 1), lr=1e9, steps=20, criterion=squared_error)).fit(
            X, y
        ).predict(X)


def test_batch_statistics_work():
    learner = MAML(use_batch_statistics(Conv4(5, channels=4, size=16)), lr=0.1, steps=1)
    X, y = np.random.default_rng(0).random((6, 1, 16, 16)), np.arange(6) % 2
    assert FewShotClassifier(learner).fit(X, y).predict_proba(X).shape == (6, 2)


# Files


def fitted(labels: Any = ("one", "two", "three"), **settings: Any) -> FewShotClassifier:
    X, y = blobs()
    return FewShotClassifier(maml(outputs=4), **settings).fit(X, np.array(labels)[y])


@pytest.mark.parametrize(
    "labels",
    [
        ("ß", "zwei", "drei"),
        np.array(["x", "y", "z"], dtype=object),
        (3, 1, 2),
        np.array([3, 1, 2], dtype=np.uint8),
        (0.0, 2.0, 1.0),
        (True, False, True),
    ],
)
def test_a_saved_model_is_the_same_model(tmp_path: Path, labels: Any):
    X, y = blobs()
    model = fitted(labels, input_shape=(4,))
    path = tmp_path / "new" / "model.safetensors"
    model.save(path, run="runs/a", invert=False)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < 4000
    again = FewShotClassifier.load(path, maml(outputs=4))
    assert again.input_shape == (4,)
    assert again.classes_.dtype == model.classes_.dtype
    assert (again.predict(X) == model.predict(X)).all()
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    assert read_model(path)[0]["facts"] == {"run": "runs/a", "invert": False}
    more = model.classes_[y % 2]
    want = model.partial_fit(X, more).predict_proba(X)
    assert (again.partial_fit(X, more).predict_proba(X) == want).all()


def test_other_states_and_estimators_are_saved_too(tmp_path: Path):
    X, y = blobs()
    frame = pd.DataFrame(X, columns=[*"abcd"])
    stream = FewShotClassifier().partial_fit(frame[y > 0], y[y > 0]).partial_fit(frame, y)
    stream.save(tmp_path / "classes")
    again = FewShotClassifier.load(tmp_path / "classes")
    assert type(again.state_) is type(stream.state_)
    assert (again.predict_proba(frame) == stream.predict_proba(frame)).all()
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame.rename(columns={"a": "z"}))

    for name, target in ("flat", y), ("deep", X[:, :2]):
        model = FewShotRegressor().fit(X, target)
        model.save(tmp_path / name)
        same = FewShotRegressor.load(tmp_path / name)
        assert (same.predict(X) == model.predict(X)).all()
    with pytest.raises(CheckpointError, match=r"load it with `FewShotRegressor\.load`"):
        FewShotClassifier.load(tmp_path / "flat")


def test_another_base_is_refused(tmp_path: Path):
    path = tmp_path / "model"
    fitted().save(path)
    other = maml(outputs=4)
    with torch.no_grad():
        bias(other)[0] += 1e-6
    with pytest.raises(CheckpointError, match="adapted from another base: a MAML"):
        FewShotClassifier.load(path, other)
    with pytest.raises(CheckpointError, match="and this is a PrototypicalNetwork"):
        FewShotClassifier.load(path)


def test_every_damage_is_noticed(tmp_path: Path):
    path = tmp_path / "model"
    model = fitted()
    model.save(path)
    data = path.read_bytes()
    X, _ = blobs()
    want = model.predict_proba(X)
    length = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.integers(8, len(data), 250), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            loaded = FewShotClassifier.load(path, maml(outputs=4))
        except CheckpointError:
            continue
        assert place < 8 + length  # a blank, perhaps; but nothing that is read
        assert (loaded.predict_proba(X) == want).all()
    for size in (0, 7, 8, 100, 8 + length, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_model(path)
    changed = data.replace(b'\\"two\\"', b'\\"TWO\\"')
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match="was changed: its sha256 is another"):
        read_model(path)


def test_files_that_are_no_models_get_a_sentence(tmp_path: Path):
    with pytest.raises(CheckpointError, match="There is no file"):
        read_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="Cannot read"):
        read_model(tmp_path)
    for metadata in None, {"other": "1"}:
        safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "tensors", metadata)
        with pytest.raises(CheckpointError, match="is no adapted model: name a file"):
            read_model(tmp_path / "tensors")
    about = '{"format": 99, "versions": {"quickstudy": "7.0"}}'
    safetensors.torch.save_file({}, tmp_path / "future", {"quickstudy": about})
    with pytest.raises(CheckpointError, match=r"has format 99.*wrote it \(7\.0\)"):
        read_model(tmp_path / "future")


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model"
    model = fitted()
    model.save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*free some space"):
            model.save(path, more=1)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    with pytest.raises(CheckpointError, match="fact `x` is no JSON"):
        model.save(path, x=object())
    with pytest.raises(CheckpointError, match="Cannot write"):
        model.save(path / "below a file")
    assert path.read_bytes() == before


def test_states_and_labels_that_no_file_holds_are_refused(tmp_path: Path):
    class Inner(NamedTuple):
        sums: Tensor

    class Local(Priors):
        def adapt(self, support: Examples, state: Any = None) -> Any:
            return Inner(support.y.float().sum(0))

        def predict(self, state: Any, x: Tensor) -> Tensor:
            return state.sums.expand(len(x), -1)

    X, y = blobs()
    with pytest.raises(CheckpointError, match=r"`state` is a Inner.*top level"):
        FewShotClassifier(Local()).fit(X, y).save(tmp_path / "model")
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], dtype="datetime64[D]")
    with pytest.raises(CheckpointError, match="must be text, numbers or booleans"):
        FewShotClassifier().fit(X, days[y]).save(tmp_path / "model")
    with pytest.raises(NotFittedError):
        FewShotClassifier().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())
