"""R2-D2 and LR-D2 against scikit-learn, and against the paper's equations as written."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from quickstudy import LRD2, R2D2, Examples, Learner, RidgeRegression, Task
from quickstudy.core.tree import tree_map
from quickstudy.learners.heads.r2d2 import logistic, ridge
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def draw(n: int, d: int, c: int = 3) -> Examples:
    y = torch.eye(c)[torch.arange(n) % c]
    return Examples(torch.randn(n, d) + y @ torch.randn(c, d), y, torch.rand(n) + 0.5)


def task() -> Task[Examples]:
    drawn = Blobs(ways=3, shots=2, shape=(4,)).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


@pytest.mark.parametrize("n, d", [(5, 9), (6, 6), (12, 4)])  # S wide, both, D wide
def test_ridge_is_scikit_learns(n: int, d: int):
    support = draw(n, d)
    other = Ridge(alpha=0.7, fit_intercept=False)
    other.fit(support.x.numpy(), support.y.numpy(), sample_weight=support.weight.numpy())
    torch.testing.assert_close(ridge(support, 0.7).T, torch.from_numpy(other.coef_))


def test_an_s_wide_system_is_the_d_wide_one():
    support = draw(5, 9)
    x, xw = support.x, support.x.T * support.weight
    direct = torch.linalg.inv(xw @ x + 0.7 * torch.eye(9)) @ xw @ support.y
    torch.testing.assert_close(ridge(support, 0.7), direct)


def test_predictions_are_eq_6_and_the_intercept_is_penalised():
    support, query = task()
    learner = R2D2(nn.Flatten(), penalty=2.0, scale=3.0)
    with torch.no_grad():
        learner.shift.fill_(0.5)
        logits = learner.predict(learner.adapt(support), query.x)
    one, ones = torch.ones(len(support.x), 1), torch.ones(len(query.x), 1)
    x = torch.cat([support.x, one], 1)
    W = x.T @ torch.linalg.inv(x @ x.T + 2 * torch.eye(len(x))) @ support.y
    torch.testing.assert_close(logits, 3 * torch.cat([query.x, ones], 1) @ W + 0.5)


def test_about_the_mean_it_is_our_ridge_regression():
    support = draw(6, 4)._replace(weight=torch.ones(6))
    support = support._replace(x=support.x - support.x.mean(0), y=support.y - support.y.mean(0))
    ours, additive = (
        R2D2(nn.Flatten(), penalty=0.7, scale=1.0),
        RidgeRegression(nn.Flatten(), penalty=0.7),
    )
    x = torch.randn(5, 4)
    torch.testing.assert_close(
        ours.predict(ours.adapt(support), x), additive.predict(additive.adapt(support), x)
    )


def test_logistic_regression_converges_to_scikit_learns():
    support = draw(12, 5)
    W = logistic(support, 0.3, steps=12)
    for c in range(3):
        other = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-10)
        y = support.y[:, c].numpy()
        other.fit(support.x.numpy(), y, sample_weight=support.weight.numpy())
        np.testing.assert_allclose(W[:, c], other.coef_[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_are_those_of_reweighted_least_squares(steps: int):
    x, y, _ = draw(5, 9)
    expected = []
    for c in range(3):  # the paper's algorithm, one class against the others
        w = torch.zeros(9)
        for _ in range(steps):
            eta = x @ w
            mu = eta.sigmoid()
            s = mu * (1 - mu)
            z = eta + (y[:, c] - mu) / s
            w = x.T @ torch.linalg.inv(x @ x.T + 0.3 * torch.diag(1 / s)) @ z
        expected.append(w)
    found = logistic(Examples(x, y, torch.ones(5)), 0.3, steps)
    torch.testing.assert_close(found, torch.stack(expected, 1))


LEARNERS = {
    "r2d2": partial(R2D2, penalty=0.5, scale=2.0),
    "lrd2": partial(LRD2, penalty=0.5, steps=3),
}


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> Learner:
    return LEARNERS[request.param](nn.Linear(4, 3))


def test_the_loss_has_the_gradient_of_finite_differences(learner: Learner):
    named = dict(learner.named_parameters())
    batch = tree_map(lambda leaf: leaf[None], task())

    def loss(*values: Tensor) -> Tensor:
        given = dict(zip(named, values, strict=True))
        return torch.func.functional_call(learner, given, (batch,))[0]

    assert torch.autograd.gradcheck(loss, tuple(named.values()))


def test_a_padded_task_is_the_task(learner: Learner):
    support, query = task()
    padded = Examples(
        torch.cat([support.x, torch.full((2, 4), 99.0)]),
        torch.cat([support.y, torch.eye(3)[:2]]),
        torch.cat([support.weight, torch.zeros(2)]),
    )
    found = []
    for known in (support, padded):
        loss = learner.loss(Task(known, query))
        found.append((loss, torch.autograd.grad(loss, learner.get_parameter("embed.weight"))))
    torch.testing.assert_close(found[0], found[1])


def test_weights_are_numbers_of_examples(learner: Learner):
    support, query = task()
    weight = torch.arange(1.0, 7.0)
    repeated = Examples(*(leaf.repeat_interleave(weight.long(), 0) for leaf in support))
    torch.testing.assert_close(
        learner.predict(learner.adapt(support._replace(weight=weight)), query.x),
        learner.predict(learner.adapt(repeated), query.x),
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_under_autocast_solvers_keep_the_digits(name: str):
    learner = LEARNERS[name](nn.Flatten()).float()
    support, query = tree_map(Tensor.float, task())
    expected = learner.predict(learner.adapt(support), query.x)
    with torch.autocast("cpu", torch.bfloat16):
        found = learner.predict(learner.adapt(support), query.x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [R2D2, LRD2])
@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_not_positive_is_refused(
    make: type[R2D2] | type[LRD2], penalty: float
):
    with pytest.raises(ValueError, match="positive number"):
        make(nn.Flatten(), penalty=penalty)
