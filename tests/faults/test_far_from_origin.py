"""Far from the origin heads solve in float64, and estimators compare in it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import losses
from quickstudy.core.similarity import cosine_similarity, unit

X, Y = (np.asarray(part) for part in load_iris(return_X_y=True))
ORDER = np.random.default_rng(0).permutation(150)
X, Y = X[ORDER], Y[ORDER]
OFFSETS = [0, 300, 3000, 10_000]


class Same(nn.Module):
    """The identity, with a parameter that makes the learner compute in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + 0 * self.p


def moved(offset: float) -> Any:
    """Return numbers of single precision, in double precision."""
    return (X + offset).astype("f4").astype("f8")


def logits(learner: qs.Learner[Any], Z: np.ndarray) -> np.ndarray:
    model = qs.FewShotClassifier(learner, random_state=0).fit(Z[:75], Y[:75])
    return model._logits(Z[75:]).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.astype(np.longdouble) for x in (a, b))
    a, b = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (a, b))
    return a @ b.T


def ridge_weights(Z: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(Z.T @ Z + penalty * np.eye(Z.shape[1]), Z.T @ np.eye(3)[Y[:75]])


@pytest.mark.parametrize("offset", OFFSETS)
def test_prototypes(offset: float) -> None:
    Z = moved(offset)
    means = np.array([Z[:75][Y[:75] == c].mean(0) for c in range(3)])
    right = -((Z[75:, None] - means) ** 2).sum(-1)
    found = logits(qs.PrototypicalNetwork(Same()), Z)
    np.testing.assert_array_equal(found.argmax(1), right.argmax(1))
    np.testing.assert_allclose(found, right, atol=1e-6 * (offset + 10))


@pytest.mark.parametrize("offset", OFFSETS)
def test_cosines_to_prototypes(offset: float) -> None:
    Z = moved(offset)
    means = np.array([Z[:75][Y[:75] == c].mean(0) for c in range(3)]).astype("f4")
    right = cosines(Z[75:], means).argmax(1)
    found = logits(qs.cosine_prototypical(Same()), Z).argmax(1)
    assert (found != right).mean() <= 0.02


@pytest.mark.parametrize("offset", OFFSETS)
def test_votes_by_cosines(offset: float) -> None:
    Z = moved(offset)
    votes = np.exp(cosines(Z[75:], Z[:75])) @ np.eye(3)[Y[:75]]
    found = logits(qs.MatchingNetwork(Same()), Z)
    np.testing.assert_array_equal(found.argmax(1), votes.argmax(1))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_ridge_heads(offset: float, penalty: float) -> None:
    Z = moved(offset)
    right = Z[75:] @ ridge_weights(Z[:75], penalty)
    found = logits(qs.meta_opt_net_ridge(Same(), penalty=penalty), Z)
    np.testing.assert_allclose(found, right, atol=2e-7 * (offset + 10))
    ones = np.c_[Z, np.ones(150)]
    right = ones[75:] @ ridge_weights(ones[:75], penalty)
    found = logits(qs.R2D2(Same(), penalty=penalty, scale=1), Z)
    np.testing.assert_allclose(found, right, atol=2e-7 * (offset + 10))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("wide", [False, True])
def test_the_ridge_system_of_either_width(offset: float, wide: bool) -> None:
    """S wide where there are fewer examples than dimensions, and D wide otherwise."""
    Z = moved(offset)[: 3 if wide else 75]
    y = np.eye(3)[Y[: len(Z)]]
    right = np.linalg.solve(Z.T @ Z + np.eye(4), Z.T @ y)
    examples = qs.Examples(
        *(torch.tensor(a, dtype=torch.float32) for a in (Z, y, np.ones(len(Z))))
    )
    learner = qs.meta_opt_net_ridge(Same(), penalty=1)
    np.testing.assert_allclose(learner.adapt(examples).W.detach(), right, atol=1e-5)


HEADS: dict[str, Callable[[], qs.Learner[Any]]] = {
    "support vectors": lambda: qs.MetaOptNet(Same()),
    "logistic": lambda: qs.LRD2(Same(), penalty=1),
    "contrastive": lambda: qs.contrastive_siamese(Same()),
    "triplets": lambda: qs.triplet_siamese(Same()),
    "semi-supervised": lambda: qs.SemiSupervisedPrototypicalNetwork(Same()),
}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("name", HEADS)
def test_single_precision_predicts_what_double_precision_does(name: str, offset: float) -> None:
    Z = moved(offset)
    found, right = logits(HEADS[name](), Z), logits(HEADS[name]().double(), Z)
    np.testing.assert_array_equal(found.argmax(1), right.argmax(1))


@pytest.mark.parametrize("offset", OFFSETS)
def test_ridge_regression(offset: float) -> None:
    Z = moved(offset)
    right = Ridge().fit(Z[:, :3], X[:, 3]).predict(Z[:, :3])
    model = qs.FewShotRegressor(qs.RidgeRegression(Same()))
    model.partial_fit(Z[:60, :3], X[:60, 3]).partial_fit(Z[60:, :3], X[60:, 3])
    np.testing.assert_allclose(model.predict(Z[:, :3]), right, atol=1e-7 * (offset + 100))


@pytest.mark.parametrize(
    "loss", [losses.n_pairs, losses.info_nce, losses.contrastive, losses.triplet]
)
def test_losses(loss: losses.Loss) -> None:
    Z = torch.tensor(moved(3000)[::5])
    y, weight = torch.eye(3)[torch.tensor(Y[::5])], torch.ones(30)
    right = loss(Z, y.double(), weight.double())
    torch.testing.assert_close(loss(Z.float(), y, weight).double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1, 1e6, 1e30])
def test_a_cosine_has_no_scale(scale: float) -> None:
    a, b = (
        torch.tensor(X[:20], dtype=torch.float32),
        torch.tensor(X[20:30], dtype=torch.float32),
    )
    np.testing.assert_allclose(
        cosine_similarity(scale * a, b), cosines(a.numpy(), b.numpy()), rtol=1e-6
    )
    x = (scale * a).requires_grad_()
    unit(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert (unit(torch.zeros(1, 3)) == 0).all()


def test_verification_by_cosines() -> None:
    Z = moved(3000)
    verifier = qs.FewShotVerifier(qs.MatchingNetwork(Same())).fit(Z[:75], Y[:75])
    found = verifier.decision_function(Z[75:110], Z[110:145])
    right = np.diagonal(cosines(Z[75:110], Z[110:145]))
    np.testing.assert_allclose(1 - found, 1 - right, rtol=1e-3, atol=1e-12)


def test_similarities_of_a_module_keep_their_dtype() -> None:
    learner = qs.SiameseNetwork(Same(), qs.learners.metric.WeightedL1(4))
    assert qs.FewShotClassifier(learner).fit(X, Y).predict(X).shape == (150,)
