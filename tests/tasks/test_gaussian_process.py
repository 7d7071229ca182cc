"""Gaussian processes against scikit-learn's, and against what is published of them."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    RBF,
    ConstantKernel,
    ExpSineSquared,
    Kernel,
    Matern,
)
from torch import Generator, Tensor
from torch.distributions import Normal

from quickstudy.core.task import Task
from quickstudy.tasks.gaussian_process import KERNELS, GaussianProcess

LENGTH, SCALE, PERIOD, NOISE = 0.4, 0.7, 0.3, 0.05
FIXED: dict[str, Any] = {
    "length": (LENGTH, LENGTH),
    "scale": (SCALE, SCALE),
    "period": (PERIOD, PERIOD),
    "noise": NOISE,
}
# scikit-learn's periodic kernel is parametrised as ours is: exp(-2 (sin(pi d / p) / l)²).
ORACLES: dict[str, Kernel] = {
    "rbf": RBF(LENGTH),
    "matern52": Matern(LENGTH, nu=2.5),
    "periodic": ExpSineSquared(LENGTH, PERIOD),
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def density(task: Task, kernel: Kernel) -> float:
    """The mean log-density of one task's real targets by scikit-learn's exact posterior."""
    (xs, ys), (xq, yq) = (
        (e.x[e.weight > 0].double().numpy(), e.y[e.weight > 0, 0].double().numpy())
        for e in task
    )
    settings: dict[str, Any] = {"alpha": NOISE**2, "optimizer": None}
    exact = GaussianProcessRegressor(ConstantKernel(SCALE**2) * kernel, **settings)
    mean, deviation = map(np.asarray, exact.fit(xs, ys).predict(xq, return_std=True))
    noisy = np.sqrt(deviation**2 + NOISE**2)
    return scipy.stats.norm.logpdf(yq, mean, noisy).mean().item()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_ceiling_is_that_of_scikit_learns_posterior(kernel: Any, ragged: bool):
    tasks = GaussianProcess(kernel, ragged=ragged, **FIXED)
    batch, ceiling = tasks.sample(6, seeded()), tasks.ceiling(6, seeded())
    for i in range(6):
        one = Task(*(type(e)(*(column[i] for column in e)) for e in batch))
        assert ceiling[i].item() == pytest.approx(density(one, ORACLES[kernel]), abs=1e-3)


def test_without_context_the_ceiling_is_the_priors():
    tasks = GaussianProcess(context=(0, 0), **FIXED)
    task, prior = tasks.sample(5, seeded()), Normal(0.0, (SCALE**2 + NOISE**2) ** 0.5)
    assert task.support.x.shape == (5, 0, 1)
    expected = prior.log_prob(task.query.y).mean((1, 2)).double()
    torch.testing.assert_close(tasks.ceiling(5, seeded()), expected, rtol=1e-5, atol=1e-5)


# 600 batches of 16 with an independent sampler and Cholesky solves gave these.
@pytest.mark.parametrize(
    "kernel, measured", [("rbf", 1.53), ("matern52", 1.11), ("periodic", 1.21)]
)
def test_the_ceilings_are_those_measured_elsewhere(kernel: Any, measured: float):
    tasks = GaussianProcess(kernel, ragged=True)
    generator = seeded()
    values = torch.cat([tasks.ceiling(250, generator) for _ in range(8)])
    # three standard errors, and as much again for the other measurement's
    error = values.std().item() * (1 / len(values) + 1 / 600) ** 0.5
    assert error < 0.05
    assert values.mean().item() == pytest.approx(measured, abs=3 * error)


@pytest.mark.parametrize("kernel", KERNELS)
def test_draws_have_the_kernels_covariance(kernel: Any):
    tasks = GaussianProcess(kernel, context=(10, 10), **FIXED)
    task = tasks.sample(6000, seeded())
    x, y = (torch.stack([e[:, 0], e[:, 1]], 1) for e in (task.support.x, task.support.y))
    gap, product = (x[:, 0] - x[:, 1]).squeeze(-1).abs(), (y[:, 0] * y[:, 1]).squeeze(-1)
    near = gap < 0.3
    # The noise of two points is independent, so it is in no product of two.
    matrix = ORACLES[kernel](np.zeros((1, 1)), gap[near, None].double().numpy())
    expected = SCALE**2 * torch.from_numpy(matrix)[0].mean()
    error = product[near].std() / near.sum() ** 0.5
    assert abs(product[near].mean() - expected) < 4 * error
    variance = y.square().mean()
    assert variance.item() == pytest.approx(SCALE**2 + NOISE**2, rel=0.06)


def sizes(tasks: GaussianProcess, batches: int, size: int) -> Tensor:
    """(batches * size, 2): how many context and target points every task has."""
    generator = seeded()
    found = []
    for _ in range(batches):
        task = tasks.sample(size, generator)
        found.append(torch.stack([e.weight.sum(-1) for e in task], -1))
    return torch.cat(found).long()


def test_sizes_are_drawn_as_in_the_published_code():
    context, targets = sizes(GaussianProcess(ragged=True), 4, 1000).unbind(-1)
    assert (context.min(), context.max()) == (3, 46)
    assert targets.min() == 3 and (context + targets).max() == 49
    assert abs(context.double().mean() - 24.5) < 4 * 12.7 / 4000**0.5
    few = targets[context == 3]  # 3 to 46, each as likely
    assert few.max() > 40 and abs(few.double().mean() - 24.5) < 4 * 12.7 / len(few) ** 0.5
    assert (targets[context == 46] == 3).all()


def test_tasks_of_a_batch_share_sizes_unless_ragged():
    shared = sizes(GaussianProcess(), 20, 3).view(20, 3, 2)
    assert (shared == shared[:, :1]).all()
    assert len(shared[:, 0].unique(dim=0)) > 10
    ragged_sizes = sizes(GaussianProcess(ragged=True), 1, 20)
    assert len(ragged_sizes.unique(dim=0)) > 10


def test_padding_is_zero_and_comes_last():
    task = GaussianProcess(ragged=True).sample(40, seeded())
    for examples in task:
        assert (examples.weight.diff(dim=-1) <= 0).all()
        padded = examples.weight == 0
        assert padded.any() and (examples.x[padded] == 0).all()
        assert (examples.y[padded] == 0).all()
        assert (examples.y[~padded] != 0).all()
        assert examples.x.dtype == examples.y.dtype == examples.weight.dtype == torch.float32


def test_ceiling_is_of_the_tasks_that_sample_draws():
    tasks = GaussianProcess(ragged=True)
    assert torch.equal(tasks.ceiling(5, seeded(1)), tasks.ceiling(5, seeded(1)))
    a, b = seeded(2), seeded(2)
    tasks.sample(5, a)
    tasks.ceiling(5, b)
    assert torch.equal(a.get_state(), b.get_state())


def test_the_card_says_the_parameters():
    card = GaussianProcess("periodic", context=(5, 5), points=20, ragged=True).card()
    assert card["tasks"] == "GaussianProcess" and card["kernel"] == "periodic"
    assert card["context"] == [5, 5] and card["targets"] == [3, 15] and card["ragged"]
    assert card["period"] == [0.1, 0.5] and card["noise"] == 0.02
    assert "period" not in GaussianProcess().card()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kernel": "linear"}, "use rbf, matern52, periodic"),
        ({"context": (3, 48)}, "raise `points`"),
        ({"context": (9, 3)}, "fewest, most"),
        ({"noise": 0.0}, "above 0"),
    ],
)
def test_bad_settings_say_the_remedy(settings: Any, message: str):
    with pytest.raises(ValueError, match=message):
        GaussianProcess(**settings)
