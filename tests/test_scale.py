"""What is learned, predicted and kept of many classes: values are those of naive forms, and
work grows no faster than the formula."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import scale
from benchmarks.scale import operations
from quickstudy import FewShotClassifier, Learner, LifelongClassifier, PrototypicalNetwork
from quickstudy.core.losses import pairs
from quickstudy.estimators.widths import CLASSES, class_blocks
from quickstudy.execution.ram import peak
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA

MANY = 2 * CLASSES + 40


def examples(classes: int = MANY) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(classes), 3))
    return rng.normal(size=(len(y), 8)), y


def means(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([X[y == label].mean(0) for label in np.unique(y)])


def lda() -> Learner:
    return StreamingLDA(nn.Flatten(), shrinkage=0.1)


@pytest.mark.parametrize("kind", [FewShotClassifier, LifelongClassifier])
def test_means_of_many_classes_are_those_of_a_loop(kind: type[FewShotClassifier]):
    X, y = examples()
    model = kind().fit(X, y)
    np.testing.assert_allclose(model.state_.means.numpy(), means(X, y), rtol=1e-12, atol=1e-12)
    more = X[:9] + 1, y[:9] + MANY - 5  # some are new
    before = model.state_.sums.clone()
    model.partial_fit(*more)
    X, y = np.concatenate([X, more[0]]), np.concatenate([y, more[1]])
    expected = means(X, y)
    label = model.classes_.tolist()
    found = model.state_.means.numpy()[[label.index(name) for name in np.unique(y)]]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    distance = ((X[:20, None] - expected) ** 2).sum(-1)
    np.testing.assert_array_equal(model.predict(X[:20]), np.unique(y)[distance.argmin(1)])
    assert before.isfinite().all()


@pytest.mark.parametrize("kind", [FewShotClassifier, LifelongClassifier])
def test_moments_of_many_classes_are_those_of_all_at_once(
    kind: type[FewShotClassifier], monkeypatch: pytest.MonkeyPatch
):
    """The scatter is of all classes, and so goes from one block to the next."""
    X, y = examples()
    more = X[y < 20] + 1, y[y < 20]
    apart = kind(lda()).fit(X, y).partial_fit(*more)
    monkeypatch.setattr("quickstudy.estimators.widths.CLASSES", 10**9)
    monkeypatch.setattr("quickstudy.estimators.classifier.CLASSES", 10**9)
    together = kind(lda()).fit(X, y).partial_fit(*more)
    for name in ("means", "sizes", "scatter"):
        a, b = (getattr(model.state_, name)[: MANY if name != "scatter" else 8]
                for model in (apart, together))  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_net_that_normalises_by_the_batch_embeds_all_classes_together():
    net = nn.BatchNorm1d(8, track_running_stats=False)
    X, y = examples()
    model = FewShotClassifier(PrototypicalNetwork(net)).fit(X, y)
    embedded = net(torch.from_numpy(X).float()).detach().double().numpy()
    np.testing.assert_allclose(model.state_.means.numpy(), means(embedded, y), atol=1e-5)


def test_a_call_that_fails_leaves_the_state_of_many_classes_as_it_was():
    X, y = examples()
    model = LifelongClassifier().fit(X, y)
    state, classes = [leaf.clone() for leaf in model.state_], model.classes_.tolist()
    with pytest.raises(ValueError, match="not finite"):
        model.partial_fit(np.full((2, 8), 1.7e308), [0, 0])
    with pytest.raises(ValueError, match="not finite"):
        model.partial_fit(np.full((2, 8), 1.7e308), [MANY, MANY])
    assert all(map(torch.equal, model.state_, state)) and model.classes_.tolist() == classes
    model.partial_fit(X[:2], [MANY, MANY])
    assert model.classes_.tolist() == [*classes, MANY]


def test_blocks_have_every_row_once():
    index = np.random.default_rng(0).integers(1000, size=3000)
    blocks = list(class_blocks(index, size=64))
    assert sorted(row for _, rows in blocks for row in rows) == list(range(3000))
    for classes, rows in blocks:
        assert len(classes) <= 64 and set(index[rows]) == set(classes)


def test_fitting_ten_times_the_classes_takes_ten_times_the_memory_and_work():
    small, large = (scale.fitting(classes, 2) for classes in (1000, 10_000))
    assert operations(large) < 12 * operations(small)
    assert peak(large, "cpu") < 12 * peak(small, "cpu") < 12 * 50e6


def test_pairs_are_those_of_equal_labels():
    label = torch.randint(5, (20,))
    y, weight = torch.eye(5)[label], torch.rand(20)
    y[3] = 0
    same, other = pairs(y, weight)
    for i in range(20):
        for j in range(20):
            both = 0.0 if i == j or 3 in (i, j) else (weight[i] * weight[j]).item()
            alike = label[i] == label[j]
            assert same[i, j].item() == pytest.approx(both if alike else 0)
            assert other[i, j].item() == pytest.approx(0 if alike else both)


def test_powers_are_those_of_known_work():
    sizes = 100, 1000
    counts = [operations(lambda n=n: torch.zeros(n, 3).exp()) for n in sizes]
    assert scale.power(counts, sizes) == 1
    rows = [torch.ones(n, 3) for n in sizes]
    products = [operations(lambda x=x: x @ x.T) for x in rows]
    assert products == [100 * 3 * 100, 1000 * 3 * 1000] and scale.power(products, sizes) == 2


def test_nothing_grows_faster_than_its_formula(tmp_path: Path):
    """At a quarter of the sizes of the page."""
    out = tmp_path / "scale.json"
    for name in (
        "prototypical",
        "matching",
        "Siamese",
        "FewShot",
        "Lifelong",
        "Mapping",
        "embed",
    ):
        scale.main(["--smoke", "--repeats", "1", "--only", name, "--out", str(out)])
        result = json.loads(out.read_text())
        assert result["rows"] and result["claims"] and "load" in result
