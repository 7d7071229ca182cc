"""Prototypical networks on the letters that come with quickstudy, in a minute on two cores.

Meta-trained on Latin, Cyrillic, Canadian syllabics and Coptic, every letter in four rotations;
chosen by Armenian, Lao, Lisu and Old Italic; reported on Greek, Georgian, Hebrew and Arabic,
unturned. A strided Conv4-32; inductive: at test, images are normalised by running statistics.
Made for this library: no paper has numbers for it.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment


def recipe(
    *,
    ways: int = 60,
    shots: int = 1,
    queries: int = 5,
    steps: int = 1_000,
    lr: float = 3e-3,
    channels: int = 32,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per training task.
        shots: support examples per class.
        queries: queries per class in training.
        steps: meta-training steps.
        lr: learning rate of Adam at the start.
        channels: channels of each convolution.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.glyphs()
    learner = qs.PrototypicalNetwork(qs.nets.Conv4(channels=channels, pool="stride"))
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"  # one large episode a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        qs.FewShot(data.train, ways, shots, queries, rotations="classes"),
        qs.FewShot(data.validation, 10, 1, 5),
        {
            f"10-way {k}-shot": Benchmark(qs.FewShot(data.test, 10, k, 5), meta_batch_size=20)
            for k in (1, 5)
        },
        optimizer,
        steps,
        meta_batch_size=1,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=100,
        n_validation_tasks=100,
    )
