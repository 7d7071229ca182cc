"""iMAML on sine waves, with the net, the waves and the tests of `sinusoid`.

The authors' code has sine waves, but no published numbers. A start is trained with 10
shots and 32 inner steps of 0.002, on 25 waves at a time, with the pull and the damped conjugate
gradients of that code. The squared error is the mean over 100 points of an even grid on
[-5, 5]. At test there is no pull, as in that code, and the number of steps is that of the row.

Why so small a rate: an implicit gradient does not know by which steps the minimum is reached,
so nothing keeps the start where a rate is stable. The largest curvature of the support loss
there rises through training; with the 16 steps of 0.01 that MAML would take, it passes the
limit of 2 / rate - strength = 198 within a thousand meta-steps, inner descent diverges for some
task, and the loss is not a number from then on.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    shots: int = 10,
    steps: int = 6_000,
    meta_batch_size: int = 25,
    inner_lr: float = 0.002,
    inner_steps: int = 32,
    strength: float = 2.0,
    cg_steps: int = 5,
    cg_damping: float = 1.0,
    strength_damping: float = 10.0,
    lr: float = 1e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        shots: support examples and queries in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        strength: strength λ of the proximal term.
        cg_steps: steps of conjugate gradients.
        cg_damping: damping of conjugate gradients.
        strength_damping: second damping, relative to λ, of the authors' code.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    learner = qs.IMAML(
        qs.nets.MLP(1, 1, hidden=(40, 40)),
        lr=inner_lr,
        steps=inner_steps,
        strength=strength,
        cg_steps=cg_steps,
        cg_damping=cg_damping,
        strength_damping=strength_damping,
        criterion=qs.squared_error,
    )
    tests = {
        f"{k} shots, {s} step{'s' * (s > 1)}": Benchmark(
            qs.Sinusoid(k, 100, grid=True), {"steps": s, "strength": 0.0}, n_tasks=6000
        )
        for k in (5, 10, 20)
        for s in (1, 10, inner_steps)
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
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
