"""CAVIA on Omniglot, 5-way 1-shot (Zintgraf et al., 2019, who have no number for it).

The paper's settings for miniImageNet: a Conv4 whose third layer is scaled and shifted by 100
context parameters, two inner steps of 1.0 in training and at test, 16 tasks a step. The rest is
the protocol of `omniglot_gradient`: characters split at random 1100 / 100 / 423, every class of
a task turned by a random multiple of 90 degrees in training and at test, strided Conv4
normalised by the batch at hand (so that predictions are transductive), as many queries as
shots.

Differs from the settings for miniImageNet: there Conv4 has max-pooling and 32 to 512 channels,
the rate falls by a tenth every 5,000 steps, and training takes 60,000 steps; the default here
is what one CPU core does in twelve minutes, 5,000 steps (8 %), with the rate falling by a
cosine.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    ways: int = 5,
    shots: int = 1,
    context: int = 100,
    channels: int = 64,
    steps: int = 5_000,
    meta_batch_size: int = 16,
    inner_lr: float = 1.0,
    inner_steps: int = 2,
    lr: float = 1e-3,
    first_order: bool = False,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per task.
        shots: support examples per class, and queries per class.
        context: context parameters.
        channels: channels of each convolution.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training and at test.
        lr: learning rate of Adam at the start.
        first_order: treat the inner gradient as a constant.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, shots, shots, rotations="random")

    net = qs.learners.gradient.film_conv4(
        ways, context=context, channels=channels, pool="stride"
    )
    learner = qs.CAVIA(
        qs.nets.use_batch_statistics(net),
        context=context,
        lr=inner_lr,
        steps=inner_steps,
        first_order=first_order,
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        tasks(data.train),
        tasks(data.validation),
        {f"{ways}-way {shots}-shot": Benchmark(tasks(data.test), n_tasks=2000)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
