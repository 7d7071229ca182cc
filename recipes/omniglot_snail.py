"""SNAIL on Omniglot, 5-way (Mishra, Rohaninejad, Chen & Abbeel, 2018, table 1).

The protocol that it shares with others: the class lists 1028 / 172 / 423 with every class in
four rotations; the paper's net, which is Conv4-64 with max-pooling, a linear layer of 64, and
five blocks, attention and temporal convolutions in turn; fifteen queries of a class at test,
images normalised by running statistics (inductive). With `blocks` "temporal" there are only
convolutions, no attention.

Differs: the paper's classes are 1,200 and 423, in no published list; its sequences end in one
query, here a support set has three queries of each class; the learning rate falls by a cosine;
in training images are normalised by all of a step; the forward pass is in bfloat16 by default,
which a CPU with AMX does twice as fast. The default is what one CPU core does in about half an
hour.
"""

from typing import Literal

import torch

import quickstudy as qs
from quickstudy.learners.amortised.snail import BLOCKS
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_snail_{blocks}"
PAPER = {"omniglot_snail_all": {"5-way 1-shot": {"accuracy": 0.9907, "interval": 0.0016}}}


def recipe(
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 3,
    blocks: Literal["all", "temporal"] = "all",
    steps: int = 7_000,
    meta_batch_size: int = 16,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        ways: classes per task.
        shots: support examples per class.
        queries: queries per class in training.
        blocks: blocks of the net: all, or temporal convolutions only.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        lr: learning rate of Adam at the start.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    if blocks not in ("all", "temporal"):
        raise ValueError(f"blocks={blocks!r} is neither 'all' nor 'temporal'.")
    data = qs.datasets.omniglot(convention="vinyals")
    chosen = [block for block in BLOCKS if blocks == "all" or isinstance(block, int)]
    length = ways * shots + 1
    learner = qs.SNAIL(qs.nets.Conv4(64), 64, ways, length=length, blocks=chosen)
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def tasks(part: qs.datasets.Labelled, queries: int) -> qs.FewShot:
        return qs.FewShot(part, ways, shots, queries, rotations="classes")

    return Experiment(
        learner,
        tasks(data.train, queries),
        tasks(data.validation, 5),
        {f"{ways}-way {shots}-shot": Benchmark(tasks(data.test, 15), n_tasks=1000)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        clip=10.0,
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
        embed_together=True,
    )
