"""Weights of 1e-20 have the means that weights of 1 have: no quotient has an absolute floor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import losses
from quickstudy.core.criteria import accuracy, cross_entropy, squared_error
from quickstudy.learners.heads import svm
from quickstudy.learners.metric import FullContext
from quickstudy.recall.retrieval import task_embedding

X, Y = (np.asarray(part) for part in load_iris(return_X_y=True))
X = X.astype("f4")
FACTORS = [1e-10, 1e-20, 1e-30, 1e20]


class Same(nn.Module):
    """The identity, with a parameter that makes the learner compute in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + 0 * self.p


MEANS: dict[str, Callable[[], qs.Learner[Any]]] = {
    "prototypes": lambda: qs.PrototypicalNetwork(Same()),
    "cosine": lambda: qs.cosine_prototypical(Same()),
    "matching": lambda: qs.MatchingNetwork(Same()),
    "full context": lambda: qs.MatchingNetwork(Same(), context=FullContext(4)),
    "semi-supervised": lambda: qs.SemiSupervisedPrototypicalNetwork(Same()),
    "FEAT": lambda: qs.FEAT(Same(), 4),
    "contrastive": lambda: qs.contrastive_siamese(Same()),
    "triplets": lambda: qs.triplet_siamese(Same()),
    "MAML": lambda: qs.MAML(nn.Linear(4, 3), lr=0.1, steps=3),
    "ProtoMAML": lambda: qs.ProtoMAML(nn.Linear(4, 8), lr=0.1, steps=3),
}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", MEANS)
def test_a_common_factor_changes_no_prediction(name: str, factor: float) -> None:
    weight = np.random.default_rng(0).uniform(0.5, 2, len(Y))
    torch.manual_seed(0)
    learner = MEANS[name]()
    right, found = (
        qs.FewShotClassifier(learner).fit(X, Y, sample_weight=w).predict_proba(X)
        for w in (weight, factor * weight)
    )
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weight", [1e-14, 1e-30])
@pytest.mark.parametrize("estimator", [qs.FewShotClassifier, qs.LifelongClassifier])
def test_an_old_class_keeps_its_mean(estimator: type[Any], weight: float) -> None:
    means = np.array([X[c == Y].mean(0) for c in range(3)])
    nearest = ((X[:, None] - means) ** 2).sum(-1).argmin(1)
    weights = np.where(Y == 2, weight, 1.0)
    for learner in (None, qs.PrototypicalNetwork(Same())):
        model = estimator(learner).fit(X, Y, sample_weight=weights)
        np.testing.assert_array_equal(model.predict(X), nearest)


@pytest.mark.parametrize("factor", [1, *FACTORS])
def test_ridge_regression(factor: float) -> None:
    weight = np.full(len(X), factor)
    right = Ridge().fit(X[:, :3], X[:, 3], sample_weight=weight).predict(X[:, :3])
    for learner in (None, qs.RidgeRegression(Same())):
        model = qs.FewShotRegressor(learner)
        model.partial_fit(X[:70, :3], X[:70, 3], sample_weight=weight[:70])
        model.partial_fit(X[70:, :3], X[70:, 3], sample_weight=weight[70:])
        np.testing.assert_allclose(model.predict(X[:, :3]), right, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 1e-10, 1e-20, 1e-30])
@pytest.mark.parametrize("penalty", [1.0, 1e-20])
def test_heads_minimise_what_they_say(factor: float, penalty: float) -> None:
    """With tiny weights, or a tiny penalty that these outweigh again."""
    x = np.c_[X, np.ones(len(X))].astype("f8")
    w, y = np.full(len(X), factor), np.eye(3)[Y]
    right = x @ np.linalg.solve((x.T * w) @ x + penalty * np.eye(5), (x.T * w) @ y)
    head = qs.R2D2(Same(), penalty=penalty, scale=1)
    logits = qs.FewShotClassifier(head).fit(X, Y, sample_weight=w)._logits(X).detach().numpy()
    np.testing.assert_allclose(logits, right, rtol=1e-3, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("factor", [1e-10, 1e-20, 1e-30])
def test_support_vectors_have_a_cost_for_each_weight(factor: float) -> None:
    y, weight = torch.eye(3)[torch.tensor(Y)], torch.linspace(0.5, 2, len(X))
    examples = qs.Examples(torch.tensor(X), y, weight)
    right = svm(examples, C=0.01)
    scaled = examples._replace(weight=factor * weight)
    torch.testing.assert_close(svm(scaled, C=0.01 / factor), right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    "loss",
    [
        losses.contrastive,
        losses.triplet,
        partial(losses.triplet, miner=losses.semi_hard_triplets),
        partial(losses.triplet, miner=losses.hard_triplets),
        losses.n_pairs,
        losses.info_nce,
        partial(losses.center, centers=torch.zeros(3, 4)),
    ],
)
def test_losses_of_metric_learning(loss: losses.Loss, factor: float) -> None:
    x, y = torch.tensor(X[::5]), torch.eye(3)[torch.tensor(Y[::5])]
    weight = torch.linspace(0.5, 2, len(x))
    torch.testing.assert_close(loss(x, y, factor * weight), loss(x, y, weight))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("criterion", [cross_entropy, squared_error, accuracy])
def test_criteria(criterion: Callable[..., Tensor], factor: float) -> None:
    examples = qs.Examples(torch.zeros(4, 1), torch.eye(3)[[0, 1, 2, 0]], torch.ones(4))
    prediction = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    scaled = examples._replace(weight=factor * examples.weight)
    torch.testing.assert_close(criterion(prediction, scaled), criterion(prediction, examples))


def test_embeddings_of_tasks() -> None:
    support = qs.Examples(
        torch.tensor(X), torch.eye(3)[torch.tensor(Y)], torch.full((150,), 1e-20)
    )
    found = task_embedding(qs.PrototypicalNetwork(nn.Identity()), support)
    np.testing.assert_allclose(found.numpy(), X.mean(0), rtol=1e-5)


def test_weights_that_the_dtype_cannot_hold_are_refused() -> None:
    for weight in (1e-60, 1e-42):
        with pytest.raises(ValueError, match=r"sample_weight is too small for torch\.float32"):
            qs.FewShotClassifier(qs.PrototypicalNetwork(Same())).fit(
                X, Y, sample_weight=np.where(Y == 0, weight, 1.0)
            )


def test_a_mean_over_nothing_is_zero_and_has_a_gradient() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    examples = qs.Examples(x, torch.eye(2), torch.zeros(2))
    means = qs.core.class_sums(x, examples).means
    assert (means == 0).all()
    means.sum().backward()
    assert x.grad is not None and (x.grad == 0).all()
