"""The lifelong classifier: nothing is lost, by no order of calls, no kill, no bad input."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from quickstudy import ExperienceReplay, Learner, LifelongClassifier, LifeLongMemory
from quickstudy.core.tree import leaves
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.storage.checkpoints import CheckpointError

with warnings.catch_warnings():  # it names the checks that need optional packages
    warnings.simplefilter("ignore")

    @parametrize_with_checks([LifelongClassifier()])
    def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]):
        check(estimator)


class Other(PrototypicalNetwork):
    """One whose rows are not known to be apart, and so takes the general way."""


def replay() -> ExperienceReplay:
    torch.manual_seed(0)
    return ExperienceReplay(nn.Linear(4, 12), memory_size=30, lr=0.02)


LEARNERS: dict[str, Callable[[], Learner[Any] | None]] = {
    "default": lambda: None,
    "lda": lambda: StreamingLDA(nn.Flatten()),
    "general": lambda: Other(nn.Flatten()),
    "memory": lambda: LifeLongMemory(nn.Flatten(), memory_size=40),
    "replay": replay,
}


def data(classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Twelve classes of six examples, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(classes), 6))
    return 3 * rng.normal(size=(classes, 4))[y] + 0.3 * rng.normal(size=(len(y), 4)), y


def same(a: LifelongClassifier, b: LifelongClassifier) -> None:
    assert a.classes_.tolist() == b.classes_.tolist() and a.n_samples_seen_ == b.n_samples_seen_
    for one, other in zip(leaves(a.state_), leaves(b.state_), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("name", LEARNERS)
@settings(
    max_examples=8, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    cuts=st.lists(st.integers(1, 71), max_size=6, unique=True),
    acts=st.lists(st.sampled_from(["go on", "save and load", "die", "fail"]), min_size=7),
)
def test_any_order_of_calls_ends_as_if_uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, name: str, cuts: list[int], acts: list[str]
):
    folder = tmp_path_factory.mktemp("any")
    X, y = data()
    learner = LEARNERS[name]()
    whole, model = (
        LifelongClassifier(learner),
        LifelongClassifier(learner, path=folder / "auto"),
    )
    for part, act in zip(np.split(np.arange(72), sorted(cuts)), acts, strict=False):
        whole.partial_fit(X[part], y[part])
        if act == "fail":
            with pytest.raises(ValueError, match="NaN"):
                model.partial_fit(X[part] * np.nan, y[part] + 50)
        model.partial_fit(X[part], y[part])
        if act == "save and load":
            model.save(folder / "by hand")
            model = LifelongClassifier.load(folder / "by hand", learner)
            model.path = folder / "auto"
        if act == "die":
            model = LifelongClassifier(learner, path=folder / "auto")
            assert (model.predict(X) == whole.predict(X)).all()
    same(model, whole)
    assert (model.predict_proba(X) == whole.predict_proba(X)).all()


WORK = """
import sys
import numpy as np
from quickstudy import LifelongClassifier
rng = np.random.default_rng(0)
model = LifelongClassifier(path=sys.argv[1])
X, y = rng.normal(size=(4000, 16)), np.arange(4000) // 8
model.partial_fit(X[:1], y[:1])
for at in range(model.n_samples_seen_ if sys.argv[2] == "again" else 1, len(X), 4):
    model.partial_fit(X[at:at + 4], y[at:at + 4])
    print(at, flush=True)
"""


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path: Path):
    path = tmp_path / "model"
    command = [sys.executable, "-c", WORK, str(path), "first"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline()
        time.sleep(0.013)
        os.kill(process.pid, signal.SIGKILL)
        printed = process.stdout.read().split()
    model = LifelongClassifier.load(path)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 16)), np.arange(4000) // 8
    seen = model.n_samples_seen_
    assert int(printed[-1] if printed else 77) + 4 <= seen < len(X)  # all that was printed
    whole = LifelongClassifier().partial_fit(X[:1], y[:1])
    for at in range(1, seen, 4):
        whole.partial_fit(X[at : at + 4], y[at : at + 4])
    same(model, whole)


# What it learns


def test_a_class_keeps_its_place():
    X, y = data()
    names = np.array([*"lkjihgfedcba"])[y]
    model = LifelongClassifier().partial_fit(X[y > 9], names[y > 9])
    assert model.classes_.tolist() == ["a", "b"]
    model.partial_fit(X[y == 5], names[y == 5]).partial_fit(X, names, classes=["long name"])
    assert model.classes_.tolist() == [*"abg", *"cdefhijkl", "long name"]
    chances = model.predict_proba(X)
    assert chances.shape == (72, 13) and (chances[:, -1] == 0).all()
    assert model.score(X, names) == 1.0
    alone = LifelongClassifier().partial_fit(X[y == 3], y[y == 3])
    assert (alone.predict(X) == 3).all()


@pytest.mark.parametrize("name", ["default", "lda"])
def test_rows_apart_are_as_all_at_once(name: str):
    X, y = load_digits(return_X_y=True)
    stream, learner = LifelongClassifier(LEARNERS[name]()), LEARNERS[name]()
    for part in np.split(np.arange(600), [2, 3, 50, 51, 200]):
        stream.partial_fit(X[part], y[part])
    whole = LifelongClassifier(learner).fit(X[:600], y[:600])
    order = [stream.classes_.tolist().index(c) for c in whole.classes_]
    np.testing.assert_allclose(
        stream.predict_proba(X[600:])[:, order], whole.predict_proba(X[600:]), atol=1e-6
    )
    assert stream.score(X[600:], y[600:]) > 0.84


# The budget


@pytest.mark.parametrize("name", ["default", "lda", "general", "memory"])
def test_classes_that_do_not_fit_are_refused_and_nothing_is_lost(name: str, tmp_path: Path):
    X, y = data()
    for budget in (0.0006, 0.0012, 0.003):
        path = tmp_path / f"{name} {budget}"
        learner = LEARNERS[name]()
        model = LifelongClassifier(learner, budget=budget, path=path)
        taken = 0
        with pytest.raises(ValueError, match=r"raise `budget`"):
            for c in range(1000):
                rows = y == c % 12
                model.partial_fit(X[rows], np.full(rows.sum(), c))
                taken = c + 1
                assert sum(leaf.nbytes for leaf in leaves(model.state_)) <= budget * 1e6
        if taken:
            assert model.classes_.tolist() == list(range(taken))
            again = LifelongClassifier.load(path, learner)
            same(model, again)
            assert again.budget == budget
            again.partial_fit(X[y == 0], y[y == 0])  # what is known can be learned better
            if name == "default":  # four sums and a size, of eight bytes each
                assert taken == int(budget * 1e6 / 40)


def test_the_memory_is_as_large_as_the_budget_allows():
    X, y = data()
    learner = replay()
    learner.memory_size = 10**9
    model = LifelongClassifier(learner, budget=0.01)
    for part in np.split(np.arange(72), 6):
        model.partial_fit(X[part], y[part])
    size, example = sum(leaf.nbytes for leaf in leaves(model.state_)), 4 * (4 + 12 + 1)
    assert 10_000 - example < size <= 10_000 and learner.memory_size == 10**9
    with pytest.raises(ValueError, match="with a memory of one example takes"):
        LifelongClassifier(learner, budget=0.0001).partial_fit(X, y)


# What is wrong


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.full((2, 4), np.nan), [0, 20], "NaN"),
        (np.ones((2, 3)), [0, 20], "3 features, but LifelongClassifier is expecting 4"),
        (np.ones((2, 4)), ["a", "b"], "(?i)mix"),
        (np.ones((2, 4)), [0.5, 1.5], "(?i)continuous"),
        (np.ones((2, 4)), [None, 1], "(?i)label|unknown"),
        (np.ones((2, 4)), [[0, 1], [1, 0]], "(?i)1d"),
        (np.ones((3, 4)), [0, 20], "inconsistent numbers"),
        (np.ones((0, 4)), [], "0 sample"),
    ],
)
def test_bad_examples_get_a_sentence_and_change_nothing(
    X: Any, y: Any, message: str, tmp_path: Path
):
    good, labels = data()
    model = LifelongClassifier(path=tmp_path / "model").partial_fit(good, labels)
    before, file = dict(vars(model)), (tmp_path / "model").read_bytes()
    for call in (model.partial_fit, model.fit):
        if "expecting" in message and call == model.fit:
            continue  # begins anew
        if "mix" in message and call == model.fit:
            continue
        with pytest.raises(ValueError, match=message):
            call(X, y)
        assert all(vars(model)[name] is value for name, value in before.items())
        assert (tmp_path / "model").read_bytes() == file
    same(LifelongClassifier.load(tmp_path / "model"), model)


def test_what_cannot_be_done_is_said(tmp_path: Path):
    X, y = data()
    with pytest.raises(NotFittedError):
        LifelongClassifier(path=tmp_path / "none").predict(X)
    net = LifelongClassifier(replay()).partial_fit(X, y)
    with pytest.raises(ValueError, match="of 12 classes cannot grow"):
        net.partial_fit(X, y + 1)
    assert net.classes_.tolist() == list(range(12))
    hot: Any = replay()
    hot.lr = 1e39
    with pytest.raises(ValueError, match=r"diverged.*Nothing was changed"):
        LifelongClassifier(hot).partial_fit(X, y)

    path = tmp_path / "model"
    LifelongClassifier(path=path).partial_fit(X, y)
    with pytest.raises(CheckpointError, match="another base"):
        LifelongClassifier(replay(), path=path).partial_fit(X, y)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        LifelongClassifier(path=path).partial_fit(X, y)


def test_a_disk_that_refuses_leaves_model_and_file_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    X, y = data()
    model = LifelongClassifier(path=tmp_path / "model").partial_fit(X[:40], y[:40])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CheckpointError, match="free some space"):
            model.partial_fit(X[40:], y[40:])
    assert model.n_samples_seen_ == 40
    same(LifelongClassifier.load(tmp_path / "model"), model)
    whole = LifelongClassifier().partial_fit(X[:40], y[:40]).partial_fit(X[40:], y[40:])
    same(model.partial_fit(X[40:], y[40:]), whole)
