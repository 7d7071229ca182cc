"""Conditional neural processes: an additive state, and the exact posterior as the ceiling."""

import math

import pytest
import torch
from torch import Generator, nn

from quickstudy import Examples, batches, evaluate, train
from quickstudy.core import log_likelihood
from quickstudy.core.task import Task, seeds
from quickstudy.learners.amortised.conditional_neural_process import (
    ConditionalNeuralProcess,
    Gaussian,
)
from quickstudy.tasks.gaussian_process import GaussianProcess


@pytest.fixture
def learner() -> ConditionalNeuralProcess:
    torch.manual_seed(0)
    return ConditionalNeuralProcess(inputs=2, outputs=3, width=16).double()


def examples(n: int, seed: int = 0) -> Examples:
    g = Generator().manual_seed(seed)
    x, y = (torch.randn(n, width, generator=g, dtype=torch.double) for width in (2, 3))
    return Examples(x, y, torch.ones(n, dtype=torch.double))


def part(data: Examples, rows: slice | torch.Tensor) -> Examples:
    return data.take(rows)


def close(a: tuple, b: tuple):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_prediction_is_equations_1_to_3_by_hand(learner: ConditionalNeuralProcess):
    data, x = examples(5), examples(4, seed=1).x
    pairs = zip(data.x, data.y, strict=True)
    r = torch.stack([learner.encoder(torch.cat([a, b])) for a, b in pairs]).mean(0)
    mean, spread = torch.stack([learner.decoder(torch.cat([r, q])) for q in x]).chunk(2, -1)
    scale = 0.1 + 0.9 * torch.log1p(spread.exp())
    close(learner.predict(learner.adapt(data), x), Gaussian(mean, scale))


def test_state_is_additive_and_blind_to_order(learner: ConditionalNeuralProcess):
    data = examples(9)
    whole = learner.adapt(data)
    first = learner.adapt(part(data, slice(4)))
    close(learner.adapt(part(data, slice(4, 9)), first), whole)
    order = torch.randperm(9, generator=Generator().manual_seed(2))
    close(learner.adapt(part(data, order)), whole)
    assert whole.number == 9


def test_padding_counts_for_nothing(learner: ConditionalNeuralProcess):
    support, query = examples(4), examples(6, seed=1)

    def padded(data: Examples) -> Examples:
        junk = examples(3, seed=2)._replace(weight=torch.zeros(3, dtype=torch.double))
        return Examples(*(torch.cat(pair) for pair in zip(data, junk, strict=True)))

    close(learner.adapt(padded(support)), learner.adapt(support))
    plain = learner.loss(Task(support, query))
    torch.testing.assert_close(learner.loss(Task(padded(support), padded(query))), plain)


def test_an_empty_context_is_known_nothing(learner: ConditionalNeuralProcess):
    support, query = examples(0), examples(6)
    prediction = learner.predict(learner.adapt(support), query.x)
    none = part(examples(3), slice(3))._replace(weight=torch.zeros(3, dtype=torch.double))
    close(learner.predict(learner.adapt(none), query.x), prediction)
    tasks = Task(*(e.take(None) for e in (support, query)))
    loss = learner(tasks).mean()
    loss.backward()
    assert loss.isfinite() and prediction.mean.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_the_loss_is_of_observed_and_unobserved_points(learner: ConditionalNeuralProcess):
    support, query = examples(3), examples(5, seed=1)
    p = learner.predict(learner.adapt(support), torch.cat([support.x, query.x]))
    y = torch.cat([support.y, query.y])
    by_hand = -torch.distributions.Normal(*p).log_prob(y).sum(-1).mean()
    torch.testing.assert_close(learner.loss(Task(support, query)), by_hand)


@pytest.mark.parametrize("floor", [0.1, 0.01])
def test_the_floor_bounds_scale_and_likelihood(floor: float):
    decoder = nn.Linear(8 + 1, 2)
    nn.init.constant_(decoder.bias, -100.0)  # as sure as it can be
    learner = ConditionalNeuralProcess(width=8, floor=floor, decoder=decoder)
    x = torch.zeros(2, 1)
    support = Examples(x, x, torch.ones(2))
    prediction = learner.predict(learner.adapt(support), x)
    torch.testing.assert_close(prediction.scale, torch.full((2, 1), floor))
    sure = log_likelihood(prediction, Examples(x, prediction.mean, torch.ones(2)))
    assert sure.item() == pytest.approx(-math.log(floor) - 0.919, abs=1e-3)


def test_training_beats_what_knows_no_context_and_stays_below_the_ceiling():
    tasks = GaussianProcess(ragged=True)
    metrics = {"log_likelihood": log_likelihood}
    torch.manual_seed(0)
    learner = ConditionalNeuralProcess(width=64)
    untrained = evaluate(learner, tasks, n_tasks=400, metrics=metrics)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    for _ in train(learner, GaussianProcess(), optimizer, steps=600, meta_batch_size=16):
        pass
    trained = evaluate(learner, tasks, n_tasks=400, metrics=metrics)

    # The best that one normal distribution of all targets can do; the best that can be done.
    test = list(batches(tasks, 50, steps=8, seed=1))
    y = torch.cat([task.query.y[task.query.weight > 0] for task in test])
    marginal = -0.5 * math.log(2 * math.pi * math.e * y.var().item())
    same = [Generator().manual_seed(seeds(1, 0, step)[0]) for step in range(8)]
    best = torch.cat([tasks.ceiling(50, generator) for generator in same]).mean().item()

    value, error = trained.mean("log_likelihood"), trained.interval("log_likelihood")
    assert trained.paired_difference(untrained).mean > 0.3
    assert value - error > marginal + 0.2
    assert value + error < best - 0.5
