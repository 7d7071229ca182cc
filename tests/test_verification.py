"""Verification: rates against counting, scores against definitions, files, and bad input."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import (
    MAML,
    Examples,
    FewShot,
    FewShotClassifier,
    FewShotVerifier,
    Learner,
    PrototypicalNetwork,
    cosine_prototypical,
    datasets,
)
from quickstudy.capabilities import ComparesInputs
from quickstudy.core.task import batches
from quickstudy.estimators import (
    equal_error_rate,
    evaluate_open_set,
    evaluate_verification,
    roc,
)
from quickstudy.learners.metric.siamese import SiameseNetwork, WeightedL1
from quickstudy.nets.backbones import MLP
from quickstudy.storage import CheckpointError
from quickstudy.testing.learners import Blobs

# Rates


def test_rates_are_those_that_counting_gives():
    rng = np.random.default_rng(0)
    same = rng.random(60) < 0.4
    scores = (rng.normal(size=60) + same).round(1)  # so that some are equal
    curve = roc(scores, same)
    assert set(curve.threshold[1:]) == set(scores)
    assert np.isinf(curve.threshold[0])
    for threshold, accept, reject in zip(*curve, strict=True):
        passes = scores >= threshold
        assert accept == pytest.approx(passes[~same].mean())
        assert reject == pytest.approx((~passes[same]).mean())


@pytest.mark.parametrize(
    ("scores", "same", "rate"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 0),
        ([3, 2, 1, 0], [0, 0, 1, 1], 1),
        ([5, 5, 5, 5], [0, 0, 1, 1], 0.5),
        ([3, 2, 1, 0], [1, 0, 1, 0], 0.5),
        ([6, 5, 4, 3, 2, 1], [1, 1, 0, 1, 0, 0], 1 / 3),
        # between (0, 1/2) and (1, 0), by two scores that are equal
        ([3, 1, 1], [1, 1, 0], 1 / 3),
    ],
)
def test_equal_error_rates_by_hand(scores: list[int], same: list[int], rate: float):
    assert equal_error_rate(scores, same) == pytest.approx(rate)
    assert equal_error_rate(torch.tensor(scores), torch.tensor(same)) == pytest.approx(rate)


def test_the_equal_error_rate_of_gaussians():
    rng = np.random.default_rng(0)
    same = np.arange(50_000) % 5 == 0  # many more pairs of two classes
    scores = rng.normal(size=len(same)) + 2 * same
    assert equal_error_rate(scores, same) == pytest.approx(math.erfc(1 / 2**0.5) / 2, abs=5e-3)


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([1, 2], [1, 1], "All of the 2 pairs are of one class"),
        ([1, 2], [0, 0], "None of the 2 pairs are of one class"),
        ([1, 2, 3], [0, 1], "3 pairs and 2 values"),
        ([1, math.nan], [0, 1], "NaN or infinite"),
        ([1, 2], [0, 2], "True or False"),
        ([[1, 2], [3, 4]], [0, 1], "1d array"),
    ],
)
def test_bad_pairs_get_a_sentence(scores: Any, same: Any, message: str):
    with pytest.raises(ValueError, match=message):
        roc(scores, same)


# The estimator


def net() -> nn.Module:
    return nn.Linear(4, 3)


def blobs(classes: int = 3, n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (3 * np.eye(4)[y] + 0.3 * rng.normal(size=(n, 4))), y


class Nearness(Learner[Examples], ComparesInputs):
    """Compares inputs by a method, and has no embedding."""

    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        return -(a - b).abs().sum(-1)

    def adapt(self, support: Examples, state: Any = None) -> Examples:
        return support

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        return x


def minus_squared(learner: Any, a: Tensor, b: Tensor) -> Tensor:
    return -(learner.embed(a) - learner.embed(b)).square().sum(-1)


def cosine(learner: Any, a: Tensor, b: Tensor) -> Tensor:
    return 10 * F.cosine_similarity(learner.embed(a), learner.embed(b))


def pair_scores(learner: Any, a: Tensor, b: Tensor) -> Tensor:
    return learner.pair_logits(a, b)


@pytest.mark.parametrize(
    ("learner", "definition"),
    [
        (PrototypicalNetwork(net()), minus_squared),
        (cosine_prototypical(net()), cosine),
        (SiameseNetwork(net(), WeightedL1(3)), pair_scores),
        (Nearness(), pair_scores),
    ],
    ids=["distance", "cosine", "siamese", "method"],
)
def test_scores_are_the_learners_and_all_pairs_choose(learner: Any, definition: Any):
    X, y = blobs()
    X = X.astype(np.float32)
    x = torch.tensor(X)
    verifier = FewShotVerifier(learner).fit(X, y)
    i, j = np.triu_indices(len(X), 1)
    with torch.no_grad():
        want = definition(learner, x[i], x[j]).numpy()
    np.testing.assert_allclose(
        verifier.decision_function(X[i], X[j]), want, rtol=1e-4, atol=1e-5
    )
    same = y[i] == y[j]
    assert verifier.pairs_ == (same.sum(), (~same).sum()) == (18, 48)
    by_pairs = FewShotVerifier(learner).fit_pairs(X[i], X[j], same)
    assert by_pairs.threshold_ == pytest.approx(verifier.threshold_, rel=1e-4)
    predicted = verifier.predict(X[i], X[j])
    assert (predicted[~same]).mean() == pytest.approx(verifier.false_accept_rate_)
    assert (~predicted[same]).mean() == pytest.approx(verifier.false_reject_rate_)
    assert verifier.equal_error_rate_ == pytest.approx(equal_error_rate(want, same), abs=1e-6)
    assert verifier.score(X[i], X[j], same) == (predicted == same).mean()
    assert verifier.score(X[i][same], X[j][same], same[same]) == predicted[same].mean()


def line(*places: float) -> np.ndarray:
    return np.array(places)[:, None]


def test_the_threshold_is_half_way_to_the_next_pair():
    verifier = FewShotVerifier().fit(line(0, 1, 5, 7), [0, 0, 1, 1])
    assert verifier.threshold_ == -(4 + 16) / 2  # of one class 1 and 4, of two from 16 on
    assert verifier.equal_error_rate_ == 0
    assert verifier.predict(line(0, 0), line(3.1, 3.2)).tolist() == [True, False]


def test_a_wished_false_accept_rate_is_not_exceeded():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 6
    X = y[:, None] + 0.4 * rng.normal(size=(60, 1))
    before = math.inf
    for far in (0.3, 0.1, 0.01):
        verifier = FewShotVerifier(max_false_accept_rate=far).fit(X, y)
        different = verifier.pairs_[1]
        assert far - 1 / different < verifier.false_accept_rate_ <= far
        assert -verifier.threshold_ < before
        before = -verifier.threshold_
    with pytest.warns(UserWarning, match=r"0\.01 cannot be seen in 8 pairs"):
        strict = FewShotVerifier(max_false_accept_rate=0.01).fit(
            line(0, 2, 2.5, 6, 7, 8), [0, 0, 1, 1, 1, 1]
        )
    assert strict.false_accept_rate_ == 0
    nothing = FewShotVerifier(max_false_accept_rate=0).fit_pairs(
        line(0, 0), line(1, 2), [False, True]
    )
    assert nothing.predict(line(0), line(1)).tolist() == [False]
    with pytest.raises(ValueError, match=r"max_false_accept_rate=1: give a rate"):
        FewShotVerifier(max_false_accept_rate=1).fit(X, y)


def test_it_is_an_estimator_as_others():
    X, y = blobs()
    verifier = FewShotVerifier(
        PrototypicalNetwork(net()), max_false_accept_rate=0.2, random_state=1
    )
    assert verifier.get_params().keys() == {
        "learner",
        "max_false_accept_rate",
        "input_shape",
        "random_state",
    }
    with pytest.raises(NotFittedError):
        verifier.predict(X, X)
    learner: Any = verifier.learner
    before = {name: p.clone() for name, p in learner.state_dict().items()}
    assert verifier.fit(X, y) is verifier
    assert learner.training
    assert all((before[name] == p).all() for name, p in learner.state_dict().items())
    other: Any = clone(verifier)
    assert other.max_false_accept_rate == 0.2
    with pytest.raises(NotFittedError):
        other.predict(X, X)
    same = pickle.loads(pickle.dumps(verifier))
    want = verifier.decision_function(X, X[::-1])
    assert (same.decision_function(X, X[::-1]) == want).all()


def test_images_as_bytes():
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), np.uint8)
    learner = PrototypicalNetwork(nn.Flatten())
    verifier = FewShotVerifier(learner).fit(images, [0, 0, 0, 1, 1, 1])
    want = -((images[0] / 255.0 - images[1] / 255.0) ** 2).sum()
    assert verifier.decision_function(images[:1], images[1:2])[0] == pytest.approx(want)
    rows = FewShotVerifier(learner, input_shape=(1, 4, 4)).fit(images.reshape(6, 16), y6())
    assert rows.threshold_ == verifier.threshold_


def y6() -> list[int]:
    return [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("X", "y", "learner", "message"),
    [
        (np.ones((3, 4)), [0, 0, 0], None, "All of the 3 examples are of one class: give two"),
        (np.ones((3, 4)), [0, 1, 2], None, "No two of the 3 examples are of one class"),
        (np.full((3, 4), np.nan), [0, 0, 1], None, "NaN"),
        (np.full((3, 4), 1e300), [0, 0, 1], PrototypicalNetwork(net()), "too large"),
        (np.ones((3, 4)), [0, 1], None, "inconsistent numbers"),
        (
            np.ones((3, 5)),
            [0, 0, 1],
            PrototypicalNetwork(net()),
            r"of shape \(5,\) .*linear|mat",
        ),
        (np.ones((3, 4)), [0, 0, 1], MAML(MLP(4, 2)), "MAML has neither a module `embed` nor"),
    ],
)
def test_bad_examples_get_a_sentence(X: Any, y: Any, learner: Any, message: str):
    with pytest.raises(ValueError, match=message):
        FewShotVerifier(learner).fit(X, y)


def test_pairs_must_fit():
    X, y = blobs()
    verifier = FewShotVerifier().fit(X, y)
    with pytest.raises(ValueError, match="A has 2 examples and B has 3: give equally many"):
        verifier.predict(X[:2], X[:3])
    with pytest.raises(ValueError, match="4 features"):
        verifier.predict(X[:2, :3], X[:2, :3])
    with pytest.raises(ValueError, match="None of the 2 pairs"):
        verifier.fit_pairs(X[:2], X[2:4], [False, False])


def test_files(tmp_path: Path):
    X, y = blobs()
    learner, path = PrototypicalNetwork(net()), tmp_path / "new" / "faces"
    verifier = FewShotVerifier(learner, max_false_accept_rate=0.05, input_shape=(4,)).fit(X, y)
    verifier.save(path, camera="none")
    again = FewShotVerifier.load(path, learner)
    assert again.get_params() == {**verifier.get_params(), "random_state": None}
    for name in ("threshold_", "false_accept_rate_", "equal_error_rate_", "pairs_"):
        assert getattr(again, name) == getattr(verifier, name)
    a, b = X[:6], X[6:]
    assert (again.decision_function(a, b) == verifier.decision_function(a, b)).all()
    with pytest.raises(CheckpointError, match="adapted from another base"):
        FewShotVerifier.load(path, PrototypicalNetwork(net()))
    with pytest.raises(CheckpointError, match=r"load it with `FewShotVerifier\.load`"):
        FewShotClassifier.load(path, learner)
    with pytest.raises(CheckpointError, match="There is no file"):
        FewShotVerifier.load(tmp_path / "absent", learner)
    data = path.read_bytes()
    for size in (0, 8, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            FewShotVerifier.load(path, learner)
    changed = data.replace(b'\\"threshold_\\": -', b'\\"threshold_\\": 1')
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match="was changed"):
        FewShotVerifier.load(path, learner)


# On many tasks


def test_rates_over_tasks_are_those_of_each():
    learner = PrototypicalNetwork(nn.Linear(8, 4))
    tasks = Blobs(ways=4, queries=2)
    report = evaluate_verification(learner, tasks, n_tasks=3, meta_batch_size=2, seed=4)
    assert report.card["pairs"] == "query with support"
    stream = batches(tasks, 2, steps=2, seed=4, rank=2**32 - 1)
    found = []
    for batch in stream:
        for s, sy, q, qy in zip(
            batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True
        ):
            scores, same = [], []
            for one, label in zip(q, qy, strict=True):
                for other, its in zip(s, sy, strict=True):
                    with torch.no_grad():
                        gap = learner.embed(one[None]) - learner.embed(other[None])
                    scores.append(-float(gap.square().sum()))
                    same.append(bool((label == its).all()))
            higher = np.subtract.outer(
                np.array(scores)[same], np.array(scores)[np.invert(same)]
            )
            found.append((equal_error_rate(scores, same), (higher > 0).mean()))
    want = torch.tensor(found, dtype=torch.float64)[:3]
    torch.testing.assert_close(report.values["equal_error_rate"], want[:, 0])
    torch.testing.assert_close(report.values["auroc"], want[:, 1])
    pixels = evaluate_verification(
        PrototypicalNetwork(nn.Flatten()), tasks, n_tasks=3, meta_batch_size=2, seed=4
    )
    assert report.paired_difference(pixels).mean == pytest.approx(
        report.mean("equal_error_rate") - pixels.mean("equal_error_rate")
    )


def test_padding_is_of_no_pair():
    letters = datasets.digits()
    tasks = FewShot(letters, ways=(2, 5), shots=(1, 3), queries=4)
    report = evaluate_verification(
        PrototypicalNetwork(nn.Flatten()), tasks, n_tasks=8, meta_batch_size=4
    )
    assert report.mean("auroc") > 0.8
    with pytest.raises(ValueError, match="MAML has no module `embed`"):
        evaluate_verification(MAML(MLP(64, 5)), tasks, n_tasks=1, meta_batch_size=1)


# None of these


def test_the_unknown_are_told_from_the_known():
    learner, tasks = PrototypicalNetwork(nn.Flatten()), FewShot(datasets.digits(), 8, 3, 5)
    report = evaluate_open_set(learner, tasks, known=5, n_tasks=12, meta_batch_size=4)
    assert report.card["known"] == 5
    batch = next(iter(batches(tasks, 4, steps=1, seed=1, rank=2**32 - 1)))
    x, y, _ = (part[0] for part in batch.support)
    means = torch.stack([x[y[:, c] > 0].flatten(1).mean(0) for c in range(5)])
    q, label = batch.query.x[0].flatten(1), batch.query.y[0].argmax(-1)
    distance = torch.cdist(q.double(), means.double())
    near, known = distance.amin(1), label < 5
    area = (near[known][:, None] < near[~known]).double().mean()
    right = (distance.argmin(1) == label)[known].double().mean()
    torch.testing.assert_close(report.values["auroc"][0], area)
    torch.testing.assert_close(report.values["accuracy"][0], right)
    assert 0.6 < report.mean("auroc") < 1
    for known in (1, 8, 9):
        with pytest.raises(ValueError, match=f"known={known} of 8 classes"):
            evaluate_open_set(learner, tasks, known=known, n_tasks=1, meta_batch_size=1)
    with pytest.raises(ValueError, match="logits of MAML are no similarities"):
        evaluate_open_set(MAML(MLP(64, 8)), tasks, known=5, n_tasks=1)


def digits(shots: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Examples of the digits 0 to 4, others of these, and examples of 5 to 9."""
    data = datasets.digits()
    X, y = data.x.flatten(1).numpy() / 255.0, data.y.numpy()
    order = np.random.default_rng(seed).permutation(len(X))
    given = np.concatenate([order[y[order] == c][:shots] for c in range(5)])
    rest = np.setdiff1d(order, given)
    known, unknown = rest[y[rest] < 5], rest[y[rest] > 4]
    return X[given], y[given], X[known], y[known], X[unknown]


def test_none_of_these():
    X, y, queries, truth, others = digits(shots=20)
    plain = FewShotClassifier().fit(X, y)
    model = FewShotClassifier(unknown=-1).fit(X, y)
    predicted = model.predict(queries)
    assert 0.02 < (predicted == -1).mean() < 0.12  # 5 % were to be
    assert (model.predict(others) == -1).mean() > 3 * (predicted == -1).mean()
    known = predicted != -1
    assert (predicted[known] == plain.predict(queries)[known]).all()
    assert (model.score_samples(queries) >= model.threshold_).tolist() == known.tolist()
    assert (model.predict_proba(queries) == plain.predict_proba(queries)).all()
    assert model.score(queries, truth) == (predicted == truth).mean()
    tolerant = FewShotClassifier(unknown=-1, threshold=-1e9).fit(X, y)
    assert tolerant.threshold_ == -1e9
    assert (tolerant.predict(others) == plain.predict(others)).all()


def test_each_example_is_left_out_once():
    X, y, *_ = digits(shots=4)
    X, y = X[:-1], y[:-1]  # one class has less
    model = FewShotClassifier(unknown=-1).fit(X, y)
    best = []
    for turn in range(4):
        out = np.zeros(len(y), bool)
        for c in range(5):
            out[np.flatnonzero(y == c)[turn : turn + 1]] = True
        means = np.stack([X[~out & (y == c)].mean(0) for c in range(5)])
        best += (-((X[out][:, None] - means) ** 2).sum(-1).min(1)).tolist()
    assert len(best) == 19
    assert model.threshold_ == pytest.approx(min(best), rel=1e-9)


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (np.array(["a", "b", "c", "d", "e"]), "none of these"),
        (np.array(["a", "b", "c", "d", "e"], dtype=object), "none of these"),
        (np.arange(5, dtype=np.uint8), -1),
    ],
)
def test_labels_of_the_unknown_and_files(names: Any, unknown: Any, tmp_path: Path):
    X, y, queries, _, others = digits(shots=3)
    model = FewShotClassifier(unknown=unknown).fit(X, names[y])
    assert set(model.predict(queries)) <= {*names.tolist(), unknown}
    assert unknown in model.predict(others)
    model.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model")
    assert again.unknown == unknown
    assert again.threshold_ == model.threshold_
    assert (again.predict(others) == model.predict(others)).all()
    again.partial_fit(others[:9], np.full(9, names[0]))
    assert again.threshold_ == model.threshold_
    assert (again.predict(others[:9]) != unknown).any()


def test_what_cannot_be_told_gets_a_sentence():
    X, y, *_ = digits(shots=2)
    with pytest.raises(ValueError, match="logits of MAML are no similarities"):
        FewShotClassifier(MAML(MLP(64, 5)), unknown=-1).fit(X, y)
    with pytest.raises(ValueError, match="unknown=4 is the label of a class"):
        FewShotClassifier(unknown=4).fit(X, y)
    with pytest.raises(ValueError, match=r"(?i)mix"):
        FewShotClassifier(unknown="none").fit(X, y)
    with pytest.raises(ValueError, match="One example of each class does not tell"):
        FewShotClassifier(unknown=-1).fit(X[::2], y[::2])
    with pytest.raises(ValueError, match="begin with `fit`"):
        FewShotClassifier(unknown=-1).partial_fit(X, y)
    model = FewShotClassifier(unknown=-1, threshold=-5.0).partial_fit(X[::2], y[::2])
    assert model.threshold_ == -5
