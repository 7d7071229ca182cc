"""Conditional neural processes on functions of Gaussian processes.

The tasks and the schedule are those of Lee et al. (2020) and Nguyen & Grover (2022): 16
functions of an RBF kernel at a time, 100,000 steps of Adam from 5e-4 down to 0 on a cosine; the
learner is tested on that kernel and, never having seen them, on two others. The net is the
CNP paper's, a little smaller than theirs.

The number is the mean log-density, in nats, of a target that is not in the context. `PAPER`
has that of CNP by Nguyen & Grover (Lee et al. have 0.448 for "rbf"), and as "ceiling" what the
exact Gaussian process reaches that knows the hyper-parameters of every function
(`GaussianProcess.ceiling`, 9,600 functions).
"""

from typing import Literal

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {
    "rbf": {"log_likelihood": 0.26, "interval": 0.02, "ceiling": 1.53},
    "matern52": {"log_likelihood": 0.04, "interval": 0.02, "ceiling": 1.11},
    "periodic": {"log_likelihood": -1.40, "ceiling": 1.21},
}


def recipe(
    *,
    kernel: Literal["rbf", "matern52", "periodic"] = "rbf",
    width: int = 128,
    steps: int = 100_000,
    meta_batch_size: int = 16,
    lr: float = 5e-4,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        kernel: kernel of the functions in training.
        width: units of the hidden layers.
        steps: meta-training steps.
        meta_batch_size: functions per training step.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    learner = qs.ConditionalNeuralProcess(width=width)
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        qs.tasks.GaussianProcess(kernel),
        qs.tasks.GaussianProcess(kernel, ragged=True),
        {
            "rbf": Benchmark(
                qs.tasks.GaussianProcess("rbf", ragged=True), n_tasks=6000, meta_batch_size=100
            ),
            "matern52": Benchmark(
                qs.tasks.GaussianProcess("matern52", ragged=True),
                n_tasks=6000,
                meta_batch_size=100,
            ),
            "periodic": Benchmark(
                qs.tasks.GaussianProcess("periodic", ragged=True),
                n_tasks=6000,
                meta_batch_size=100,
            ),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        metrics={"log_likelihood": qs.core.log_likelihood},
        validate_every=5000,
        n_validation_tasks=1000,
    )
