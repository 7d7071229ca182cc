"""Reptile on sine waves, with the net, the waves and the tests of `sinusoid`.

As in the example that the authors published, a start is trained on 50 points of a wave in
random mini-batches of 10 by SGD, with an outer rate that falls to 0 on a line. The squared
error is the mean over 100 points of an even grid on [-5, 5]. There are no published numbers.

Differs from that example: 25 waves a step and an outer rate of 1 (there one wave and 0.1); two
passes at an inner rate of 0.01 (there one at 0.02, which is so stiff that ten steps on 5 points
diverge now and then); MAML's net of two layers of 40 with ReLU, and MAML's range of phases.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    train_shots: int = 50,
    steps: int = 15_000,
    meta_batch_size: int = 25,
    inner_lr: float = 0.01,
    inner_steps: int = 10,
    inner_batch: int = 10,
    lr: float = 1.0,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        train_shots: examples per task in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        inner_batch: examples per inner step in training.
        lr: outer learning rate at the start.
        seed: seed of initial parameters and training tasks.
    """
    learner = qs.Reptile(
        qs.nets.MLP(1, 1, hidden=(40, 40)),
        lr=inner_lr,
        steps=inner_steps,
        batch_size=inner_batch,
        optimizer=qs.inner_loop.steepest_descent,
        criterion=qs.squared_error,
    )
    tests = {
        f"{k} shots, {s} step{'s' * (s > 1)}": Benchmark(
            qs.Sinusoid(k, 100, grid=True), {"steps": s, "batch": None}, n_tasks=6000
        )
        for k in (5, 10, 20)
        for s in (1, 10)
    }
    optimizer = torch.optim.SGD(learner.parameters(), lr)
    return Experiment(
        learner,
        qs.Sinusoid(train_shots, 10),
        qs.Sinusoid(10, 100, grid=True),
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps),
        better="min",
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
