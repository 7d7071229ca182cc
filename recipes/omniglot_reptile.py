"""Reptile on Omniglot, 5-way 1-shot (Nichol, Achiam & Schulman, 2018, table 2).

The paper's protocol: characters split at random, the training classes turned by 0, 90, 180 and
270 degrees being classes of their own and the test classes not turned; strided Conv4; in
training 5 steps of Adam without momentum on mini-batches of 10 of 10 shots; at test 50 steps on
batches of 5, which is the whole support set; 5 tasks a step, and an outer rate that falls from
1 to 0 on a line. With transduction the queries, one of each class, are normalised together;
without it each query is normalised with the support set.

Differs: 5,000 steps, what one CPU core does in a quarter of an hour, are 5 % of the paper's
100,000; the inner Adam starts afresh at every task; 100 of the training characters are kept for
validation, which is by 5 inner steps; 1000 tasks are tested instead of 10,000; this Conv4
averages the last 2 x 2 pixels, which the authors' net flattens.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

TRAINING = {"steps": 100_000, "meta_batch_size": 5}
PAPER = {
    "5-way 1-shot": {"accuracy": 0.9539, "interval": 0.0009, **TRAINING},
    "5-way 1-shot, transductive": {"accuracy": 0.9768, "interval": 0.0004, **TRAINING},
}


def recipe(
    *,
    ways: int = 5,
    shots: int = 1,
    train_shots: int = 10,
    steps: int = 5_000,
    meta_batch_size: int = 5,
    inner_lr: float = 1e-3,
    inner_steps: int = 5,
    inner_batch: int = 10,
    test_steps: int = 50,
    test_batch: int = 5,
    lr: float = 1.0,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per task.
        shots: support examples per class at test.
        train_shots: examples per class in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        inner_batch: examples per inner step in training.
        test_steps: inner steps at test.
        test_batch: examples per inner step at test.
        lr: outer learning rate at the start.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="characters")
    net = qs.nets.use_batch_statistics(qs.nets.Conv4(ways, pool="stride"))
    learner = qs.Reptile(net, lr=inner_lr, steps=inner_steps, batch_size=inner_batch)
    optimizer = torch.optim.SGD(learner.parameters(), lr)
    test = qs.FewShot(data.test, ways, shots, 1)
    settings = {"steps": test_steps, "batch": test_batch}
    name = f"{ways}-way {shots}-shot"
    return Experiment(
        learner,
        qs.FewShot(data.train, ways, train_shots, 1, rotations="classes"),
        qs.FewShot(data.validation, ways, shots, 1),
        {
            name: Benchmark(test, {**settings, "transductive": False}, n_tasks=1000),
            f"{name}, transductive": Benchmark(test, settings, n_tasks=1000),
            f"{name}, transductive, {inner_steps} steps": Benchmark(test, n_tasks=1000),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps),
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
