"""CAVIA on sine waves (Zintgraf et al., 2019).

The paper's protocol: an MLP of two hidden layers of 40, whose input has a vector of `context`
numbers appended, is trained with 10 shots, as many queries and one inner step of 1.0, on 25
waves at a time, for 50,000 steps of Adam at 1e-3. The squared error is the mean over 100 points
of an even grid on [-5, 5]. A wave is an amplitude and a phase, too much for one number.

The published numbers are given from memory of the paper's table. Differs: the meta-learning
rate falls by a cosine; the norm of the meta-gradient is clipped at 10, where the released code
clips each entry of each task's gradient at 10; 6,000 tasks are tested instead of 100.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "sinusoid_cavia_{context}"
PAPER = {
    "context of 1": {"squared_error": 0.84, "interval": 0.06},
    "context of 2": {"squared_error": 0.21, "interval": 0.02},
    "context of 3": {"squared_error": 0.20, "interval": 0.02},
    "context of 4": {"squared_error": 0.19, "interval": 0.02},
    "context of 5": {"squared_error": 0.19, "interval": 0.02},
    "context of 50": {"squared_error": 0.19, "interval": 0.02},
}


def recipe(
    *,
    context: int = 5,
    shots: int = 10,
    steps: int = 50_000,
    meta_batch_size: int = 25,
    inner_lr: float = 1.0,
    inner_steps: int = 1,
    lr: float = 1e-3,
    first_order: bool = False,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        context: context parameters.
        shots: support examples and queries in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        lr: learning rate of Adam at the start.
        first_order: treat the inner gradient as a constant.
        seed: seed of initial parameters and training tasks.
    """
    learner = qs.CAVIA(
        qs.learners.gradient.ContextInput(qs.nets.MLP(1 + context, 1, hidden=(40, 40))),
        context=context,
        lr=inner_lr,
        steps=inner_steps,
        first_order=first_order,
        criterion=qs.squared_error,
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    tasks = qs.Sinusoid(shots, 100, grid=True)
    return Experiment(
        learner,
        qs.Sinusoid(shots, shots),
        tasks,
        {f"context of {context}": Benchmark(tasks, n_tasks=6000)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=10.0,
        better="min",
        validate_every=steps // 15,
        n_validation_tasks=600,
    )
