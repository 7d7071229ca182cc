"""Baseline++ on Omniglot (Chen, Liu, Kira, Wang & Huang, 2019).

No episodes in training: a Conv4-64 with max-pooling and a head of cosines learn to tell apart
all 4112 training classes, 1028 characters of Vinyals' class lists in four rotations. A new head
is fitted to every test task. Inductive, by running statistics.

The paper has no Omniglot numbers for this protocol. Differs: the default is what one CPU core
does in twelve minutes, 8,000 steps of Adam on batches of 128 (12 epochs), with the rate falling
by a cosine; see the learner's page for its head.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    steps: int = 8_000,
    examples: int = 128,
    lr: float = 3e-3,
    scale: float = 10.0,
    inner_lr: float = 0.01,
    inner_steps: int = 100,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        steps: training steps.
        examples: images per training step.
        lr: learning rate of Adam at the start.
        scale: factor of cosines.
        inner_lr: learning rate of the head at test.
        inner_steps: steps of the head at test.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="vinyals")
    train = qs.tasks.Classification(data.train, examples, rotations="classes")
    embed = qs.nets.Conv4()
    learner = qs.baseline_pp(
        embed, embed.width, train.classes, scale=scale, lr=inner_lr, steps=inner_steps
    )
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"  # one large batch a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(shots: int) -> Benchmark:
        return Benchmark(qs.FewShot(data.test, 5, shots, 15, rotations="classes"), n_tasks=1000)

    return Experiment(
        learner,
        train,
        qs.FewShot(data.validation, 20, 1, 5, rotations="classes"),
        {f"5-way {shots}-shot": test(shots) for shots in (1, 5)},
        optimizer,
        steps,
        meta_batch_size=1,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
