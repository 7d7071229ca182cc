"""Meta-SGD on sine waves (Li, Zhou, Chen & Li, 2017, arXiv:1707.09835).

An MLP of two hidden layers of 40 is trained with 10 shots and one inner step, whose rates are
learned. The squared error is the mean over 100 points of an even grid on [-5, 5], as in
`sinusoid_maml`, whose rows of one step these are to be compared with.

The paper's numbers are recalled from memory and were not checked against a copy; nor was that
it trains 60,000 steps of 4 waves. Its own MAML has 0.77 for 10 shots, more than twice what
others and this library measure; so compare how far Meta-SGD is ahead of MAML.

Differs: 25 waves at a time, as MAML has, a meta-learning rate that falls by a cosine, PyTorch's
initial weights, and 6,000 tasks to test on.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {
    "5 shots, 1 step": {"squared_error": 0.88, "interval": 0.14},
    "10 shots, 1 step": {"squared_error": 0.53, "interval": 0.09},
    "20 shots, 1 step": {"squared_error": 0.35, "interval": 0.06},
}


def recipe(
    *,
    shots: int = 10,
    steps: int = 60_000,
    meta_batch_size: int = 25,
    first_rates: tuple[float, float] = (0.005, 0.1),
    inner_steps: int = 1,
    lr: float = 1e-3,
    first_order: bool = False,
    seed: int = 0,
) -> Experiment:
    learner = qs.MetaSGD(
        qs.nets.MLP(1, 1, hidden=(40, 40)),
        lr=first_rates,
        steps=inner_steps,
        first_order=first_order,
        criterion=qs.squared_error,
    )
    tests = {
        f"{k} shots, {inner_steps} step{'s' * (inner_steps > 1)}": Benchmark(
            qs.Sinusoid(k, 100, grid=True), n_tasks=6000
        )
        for k in (5, 10, 20)
    }
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        qs.Sinusoid(shots, shots),
        qs.Sinusoid(shots, 100, grid=True),
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        better="min",
        validate_every=4000,
        n_validation_tasks=600,
    )
