"""Siamese networks on Omniglot, as few-shot baselines of Vinyals et al. (2016, table 1).

The published rows are of Koch's network, trained on pairs and fine-tuned or not (here: not), of
1,200 characters with every class in four rotations; which characters is not said. Here: the
class lists 1028 / 172 / 423, Conv4-64 with max-pooling, and in each step all pairs (or
triplets) of three images each of 60 classes, by Adam at a rate that falls by a cosine.
Inductive: at test, images are normalised by running statistics. `loss` is "pairs" for Koch's
cross-entropy, "contrastive" for Hadsell's with a margin of 10, or "triplet" for FaceNet's over
all triplets. Differs from Koch: no affine distortions, no fine-tuning, one learning rate.
"""

from typing import Literal

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {
    "5-way 1-shot": {"accuracy": 0.973},
    "5-way 5-shot": {"accuracy": 0.984},
    "20-way 1-shot": {"accuracy": 0.882},
    "20-way 5-shot": {"accuracy": 0.970},
}
RESULT = "omniglot_siamese_{loss}"


def recipe(
    *,
    loss: Literal["pairs", "contrastive", "triplet"] = "pairs",
    ways: int = 60,
    shots: int = 1,
    queries: int = 2,
    steps: int = 3_500,
    meta_batch_size: int = 1,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="vinyals")
    net = qs.nets.Conv4()
    learner = {
        "pairs": lambda: qs.SiameseNetwork(net, qs.learners.metric.WeightedL1(net.width)),
        "contrastive": lambda: qs.contrastive_siamese(net, margin=10.0),
        "triplet": lambda: qs.triplet_siamese(net, miner=qs.core.losses.all_triplets),
    }[loss]()
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    learner.execution = "loop"  # one large episode a step: nothing to batch over
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(ways: int, shots: int) -> Benchmark:
        tasks = qs.FewShot(data.test, ways, shots, 15, rotations="classes")
        return Benchmark(tasks, n_tasks=1000, meta_batch_size=10)

    return Experiment(
        learner,
        qs.FewShot(data.train, ways, shots, queries, rotations="classes"),
        qs.FewShot(data.validation, 20, 1, 5, rotations="classes"),
        {f"{n}-way {k}-shot": test(n, k) for n in (5, 20) for k in (1, 5)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=250,
        n_validation_tasks=200,
    )
