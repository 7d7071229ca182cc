"""Meta-Curvature on Omniglot, 5-way 1-shot (Park & Oliva, 2019, arXiv:1902.03356).

By the protocol of `omniglot_maml`: characters split at random 1100 / 100 / 423, each class of a
task turned by a random multiple of 90 degrees in training and at test, strided Conv4 normalised
by the batch at hand (so that predictions are transductive), as many queries as shots, one inner
step of 0.4 in training. The paper has results on Omniglot; we had no copy to quote them from.

Differs from that protocol: the meta-learning rate falls by a cosine; and the default of 3,500
steps of 16 tasks, about twelve minutes of one CPU core, has 3 % of the tasks of MAML's 60,000
steps of 32.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    ways: int = 5,
    shots: int = 1,
    steps: int = 3500,
    meta_batch_size: int = 16,
    inner_lr: float = 0.4,
    inner_steps: int = 1,
    lr: float = 1e-3,
    first_order: bool = False,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, shots, shots, rotations="random")

    net = qs.nets.use_batch_statistics(qs.nets.Conv4(ways, pool="stride"))
    learner = qs.MetaCurvature(net, lr=inner_lr, steps=inner_steps, first_order=first_order)
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    test = tasks(data.test)
    return Experiment(
        learner,
        tasks(data.train),
        tasks(data.validation),
        {
            f"{ways}-way {shots}-shot": Benchmark(test, {"steps": 3}, n_tasks=2000),
            f"{ways}-way {shots}-shot, {inner_steps} step": Benchmark(test, n_tasks=2000),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
    )
