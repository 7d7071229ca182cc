"""Learners on sine waves that have no recipe of their own, by the protocol of `sinusoid_maml`.

An MLP of two hidden layers of 40 is trained with 10 shots and one inner step of 0.01, on 25
waves at a time, by Adam with a rate that falls by a cosine, and tested on the same 6,000 waves:
mean squared error over 100 points of an even grid on [-5, 5], after one and ten inner steps.

`fomaml` takes the inner gradient for a constant; `anil` adapts the last layer alone and `boil`
all but that; `meta_curvature` and `maml_pp` begin as MAML and learn a transformation of the
gradient, or a rate for every layer: with one step and no normalisation this is all that is left
of MAML++. The tenth step of a learner that was trained for one has the first one's rates.

Differs from `sinusoid_maml`: 40,000 steps instead of 70,000. No paper has numbers for these.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "sinusoid_{learner}"

Name = Literal["fomaml", "anil", "boil", "maml_pp", "meta_curvature"]
LEARNERS: dict[Name, Callable[..., qs.Learner[Any]]] = {
    "fomaml": qs.fomaml,
    "anil": qs.anil,
    "boil": qs.boil,
    "maml_pp": lambda net, **settings: qs.MAMLPlusPlus(net, multi_step_until=0, **settings),
    "meta_curvature": qs.MetaCurvature,
}


def recipe(
    *,
    learner: Name = "fomaml",
    shots: int = 10,
    steps: int = 40_000,
    meta_batch_size: int = 25,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    lr: float = 1e-3,
    seed: int = 0,
) -> Experiment:
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    net = qs.nets.MLP(1, 1, hidden=(40, 40))
    model = LEARNERS[learner](net, lr=inner_lr, steps=inner_steps, criterion=qs.squared_error)
    tests = {
        f"{k} shots, {s} step{'s' * (s > 1)}": Benchmark(
            qs.Sinusoid(k, 100, grid=True), {"steps": s}, n_tasks=6000
        )
        for k in (5, 10, 20)
        for s in (1, 10)
    }
    optimizer = torch.optim.Adam(model.parameters(), lr)
    return Experiment(
        model,
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
