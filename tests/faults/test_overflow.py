"""Inputs that overflow are refused in words; predictions are numbers, or an error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn

import quickstudy as qs

X, Y = (np.asarray(part) for part in load_iris(return_X_y=True))


class Same(nn.Module):
    """The identity, with a parameter that makes the learner compute in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + 0 * self.p


LEARNERS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "prototypes": lambda: qs.PrototypicalNetwork(Same()),
    "a similarity of its own": lambda: qs.SiameseNetwork(
        Same(), qs.learners.metric.WeightedL1(4)
    ),
    "cosine": lambda: qs.cosine_prototypical(Same()),
    "matching": lambda: qs.MatchingNetwork(Same()),
    "R2D2": lambda: qs.R2D2(Same()),
    "support vectors": lambda: qs.MetaOptNet(Same()),
    "relation": lambda: qs.RelationNetwork(Same(), nn.Linear(8, 1)),
    "MAML": lambda: qs.MAML(nn.Linear(4, 3), lr=0.1, steps=2),
}


@pytest.mark.parametrize("scale", [1e15, 1e19, 1e30, 1e37, 1e38, 1e39, 1e160, 1e300])
@pytest.mark.parametrize("name", LEARNERS)
def test_large_queries(name: str, scale: float) -> None:
    torch.manual_seed(0)
    for classifier in (qs.FewShotClassifier, qs.LifelongClassifier):
        model = classifier(LEARNERS[name]()).fit(X, Y)
        try:
            probabilities = model.predict_proba(scale * X)
        except ValueError as error:
            assert "scale" in str(error).lower()
            continue
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(1), 1)
        best = model.classes_[probabilities.argmax(1)]
        assert (probabilities.max(1) == probabilities[np.arange(150), best]).all()


def test_distances_that_overflow_single_precision_only() -> None:
    model = qs.FewShotClassifier(qs.PrototypicalNetwork(Same())).fit(1e21 * X, Y)
    means = np.array([X[c == Y].mean(0) for c in range(3)])
    nearest = ((X[:, None] - means) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(model.predict(1e21 * X), nearest)
    with pytest.raises(ValueError, match=r"too large for torch\.float32: scale it"):
        model.predict(1e39 * X)


class Infinite(qs.Learner[Tensor]):
    """Predicts one value for all, and infinity for large inputs."""

    value = torch.inf

    def adapt(self, support: qs.Examples, state: Any = None) -> Tensor:
        return support.y.mean(0)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return torch.where(x.amax(1, keepdim=True) > 100, self.value, state)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_predictions(value: float) -> None:
    learner = Infinite()
    learner.value = value
    for model in (
        qs.FewShotClassifier(learner).fit(X, Y),
        qs.FewShotRegressor(learner).fit(X, X),
    ):
        model.predict(X)
        with pytest.raises(ValueError, match=r"[Ss]cale X"):
            model.predict(1000 * X)


def test_infinite_similarities() -> None:
    verifier = qs.FewShotVerifier().fit(X[::10], Y[::10])
    with pytest.raises(ValueError, match="no finite similarity: scale X"):
        verifier.decision_function(1e200 * X, -1e200 * X)


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), MemoryError()])
def test_too_many_queries_for_the_memory(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    model = qs.FewShotClassifier().fit(X, Y)
    monkeypatch.setattr(qs.PrototypicalNetwork, "predict", fails)
    with pytest.raises(ValueError, match=r"150 examples at once .* predict fewer at a time"):
        model.predict(X)
