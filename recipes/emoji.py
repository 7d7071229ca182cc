"""Emoji, 5-way: the same picture as another set of artists draws it, by seven learners.

678 emoji are for training, 157 choose the checkpoint, 209 are for the test: a split made for
this library, so no published number compares. There are 8 to 11 drawings of each, 32 x 32
pixels. Training is by one shot and seven queries; tests are of one shot and of five, each with
three queries and no more training. As in the recipe `caltech101`, every learner has a Conv4 of
32 channels with strides that always normalises by the batch at hand (so that predictions are
transductive), sees the same training tasks in the same order, and is tested on the same tasks,
so that results are compared task by task. Relation networks have the paper's nets instead, of
32 channels, which compare feature maps, and are not tested on five shots: a class is the sum of
its maps, five times what was learned. Rates are those of `caltech101`; nothing was tuned.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "emoji_{learner}"
WAYS, ASKED = 5, 3  # with five shots, all drawings that there are of some emoji
NET: dict[str, Any] = {"channels": 32, "inputs": 3, "size": 32, "pool": "stride"}

Name = Literal[
    "maml", "proto_maml", "prototypical", "matching", "siamese", "relation", "r2d2"
]  # fmt: skip


def embedding() -> qs.nets.Conv4:
    return qs.nets.use_batch_statistics(qs.nets.Conv4(**NET))


def relation() -> qs.RelationNetwork:
    maps, relate = (
        qs.learners.metric.relation_embedding(32, inputs=3),
        qs.learners.metric.relation_module(32, size=6),
    )
    return qs.RelationNetwork(
        qs.nets.use_batch_statistics(maps), qs.nets.use_batch_statistics(relate)
    )


LEARNERS: dict[Name, Callable[[], qs.Learner[Any]]] = {
    "maml": lambda: qs.MAML(
        qs.nets.use_batch_statistics(qs.nets.Conv4(WAYS, **NET)), lr=0.4, steps=3
    ),
    "proto_maml": lambda: qs.ProtoMAML(embedding(), lr=0.1, steps=3),
    "prototypical": lambda: qs.PrototypicalNetwork(embedding()),
    "matching": lambda: qs.MatchingNetwork(embedding(), similarity=qs.core.ScaledSimilarity()),
    "siamese": lambda: qs.SiameseNetwork(
        embedding(), qs.learners.metric.WeightedL1(NET["channels"])
    ),
    "relation": relation,
    "r2d2": lambda: qs.R2D2(embedding()),
}


def recipe(
    *,
    learner: Name = "prototypical",
    queries: int = 7,
    steps: int = 2_000,
    meta_batch_size: int = 4,
    lr: float = 3e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        queries: queries per class in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    data = qs.datasets.emoji()
    model = LEARNERS[learner]()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    tests = {
        f"{WAYS}-way {shots}-shot": Benchmark(
            qs.FewShot(data.test, WAYS, shots, ASKED), n_tasks=2000
        )
        for shots in ((1,) if learner == "relation" else (1, 5))
    }
    return Experiment(
        model,
        qs.FewShot(data.train, WAYS, 1, queries),
        qs.FewShot(data.validation, WAYS, 1, ASKED),
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        validate_every=max(1, steps // 15),
        n_validation_tasks=400,
    )
