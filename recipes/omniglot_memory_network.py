"""Memory networks as few-shot learners on Omniglot: an adaptation of end-to-end memory networks
(Sukhbaatar, Szlam, Weston & Fergus, 2015), for which there are no published numbers.

The protocol of `omniglot_matching`, a matching network being the same with one hop: the class
lists 1028 / 172 / 423 with every class in four rotations, Conv4-64 with max-pooling, 60-way
episodes of one shot and five queries for training, fifteen queries of a class at test, images
normalised by running statistics (inductive), cosines times a learned factor from 10. The
learning rate falls by a cosine; the forward pass is in bfloat16 by default, which a CPU with
AMX does twice as fast.
"""

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    hops: int = 3,
    ways: int = 60,
    shots: int = 1,
    queries: int = 5,
    steps: int = 3_000,
    meta_batch_size: int = 1,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="vinyals")
    embed = qs.nets.Conv4()
    learner = qs.few_shot_memory_network(embed, embed.width, hops=hops)
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
        validate_every=200,
        n_validation_tasks=200,
    )
