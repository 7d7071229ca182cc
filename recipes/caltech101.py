"""Learners on Caltech-101 of 32 x 32 pixels, 5-way, 1-shot or 5-shot, on equal terms.

Of the 100 classes, 64 are for training, 16 choose the checkpoint, 20 are for the test: a split
made for this library, so no published number compares. Every learner has the same net, a Conv4
of 32 channels with strides that always normalises by the batch at hand (so that predictions
are transductive), sees the same training tasks, 1,000 steps of 4, in the same order, and is
tested on the same 1,000 tasks of 15 queries of each class, so that results are compared task by
task (`quickstudy compare`, `docs/tables.py`). What is equal is the number of tasks, not the
time: what that cost is stored beside each result.

`LEARNERS` has the settings that differ. The outer rate and the inner rate of 0.4 are the best
for MAML, by validation after 300 steps, of 1e-3 and 3e-3 and of 0.05, 0.2 and 0.4; nothing was
tuned for another learner, so the table flatters MAML if anything. CAVIA's net also has FiLM and
no adapted weight; what compares embeddings has no head of its own; the relation network has a
net that keeps maps of features. Reptile learns from all but one image of each class of a
training task, takes 50 steps at test, and its outer optimiser is SGD of rate 1. Learners that
first train a classifier are given as many images at each step, in mini-batches of all classes.
SNAIL's blocks are of sequences of up to 26, without attention in `snail_temporal`; of MetaNet
the convolutions have no fast weights.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "caltech101_{learner}_{shots}shot"
WAYS, QUERIES = 5, 15
CLASSES, WIDTH = 64, 32  # of training; of an embedding
NET: dict[str, Any] = {"channels": 32, "inputs": 3, "size": 32, "pool": "stride"}
INNER: dict[str, Any] = {"lr": 0.4, "steps": 3}  # of those that MAML's can be compared with

Name = Literal[
    "maml", "fomaml", "anil", "boil", "meta_sgd", "meta_curvature", "maml_pp", "reptile",
    "imaml", "cavia", "proto_maml", "prototypical", "cosine_prototypical", "matching",
    "siamese", "relation", "relation_reasoning", "feat", "r2d2", "meta_opt_net", "baseline",
    "baseline_pp", "simple_shot", "tim", "transductive_fine_tuning", "lr_d2", "snail",
    "snail_temporal", "matching_fce",
    "life_long_memory", "mann", "memory_network", "meta_net",
]  # fmt: skip


def net() -> qs.nets.Conv4:
    return qs.nets.use_batch_statistics(qs.nets.Conv4(WAYS, **NET))


def embedding() -> qs.nets.Conv4:
    return qs.nets.use_batch_statistics(qs.nets.Conv4(**NET))


def cavia() -> qs.CAVIA:
    film = qs.nets.use_batch_statistics(
        qs.learners.gradient.film_conv4(WAYS, context=100, **NET)
    )
    return qs.CAVIA(film, context=100, lr=1.0, steps=2)


def relation() -> qs.RelationNetwork:
    maps = qs.nets.use_batch_statistics(
        qs.learners.metric.relation_embedding(WIDTH, inputs=NET["inputs"])
    )
    return qs.RelationNetwork(
        maps, qs.nets.use_batch_statistics(qs.learners.metric.relation_module(WIDTH, size=6))
    )


def tim() -> qs.TIM:
    learner = qs.TIM(embedding(), torch.nn.Linear(WIDTH, CLASSES))
    learner.chunk = 50  # a thousand steps for every task, of many tasks at once
    return learner


def transductive_fine_tuning() -> qs.TransductiveFineTuning:
    head = torch.nn.Linear(WIDTH, CLASSES)
    return qs.TransductiveFineTuning(torch.nn.Sequential(embedding(), head))


LEARNERS: dict[Name, Callable[[int], qs.Learner[Any]]] = {  # of the number of meta-steps
    "maml": lambda _: qs.MAML(net(), **INNER),
    "fomaml": lambda _: qs.fomaml(net(), **INNER),
    "anil": lambda _: qs.anil(net(), **INNER),
    "boil": lambda _: qs.boil(net(), **INNER),
    "meta_sgd": lambda _: qs.MetaSGD(net(), lr=(INNER["lr"],) * 2, steps=INNER["steps"]),
    "meta_curvature": lambda _: qs.MetaCurvature(net(), **INNER),
    "maml_pp": lambda steps: qs.MAMLPlusPlus(net(), **INNER, multi_step_until=steps // 10),
    "reptile": lambda _: qs.Reptile(net(), lr=1e-3, steps=8, batch_size=10),
    "imaml": lambda _: qs.IMAML(net(), lr=0.1, steps=8, strength=0.5, cg_steps=3),
    "cavia": lambda _: cavia(),
    "proto_maml": lambda _: qs.ProtoMAML(embedding(), lr=0.1, steps=3),
    "prototypical": lambda _: qs.PrototypicalNetwork(embedding()),
    "cosine_prototypical": lambda _: qs.cosine_prototypical(embedding()),
    "matching": lambda _: qs.MatchingNetwork(
        embedding(), similarity=qs.core.ScaledSimilarity()
    ),
    "siamese": lambda _: qs.SiameseNetwork(embedding(), qs.learners.metric.WeightedL1(WIDTH)),
    "relation": lambda _: relation(),
    "relation_reasoning": lambda _: qs.RelationReasoning(embedding(), WIDTH),
    "feat": lambda _: qs.FEAT(embedding(), WIDTH),
    "r2d2": lambda _: qs.R2D2(embedding()),
    "meta_opt_net": lambda _: qs.MetaOptNet(embedding()),
    "baseline": lambda _: qs.baseline(embedding(), WIDTH, CLASSES),
    "baseline_pp": lambda _: qs.baseline_pp(embedding(), WIDTH, CLASSES),
    "simple_shot": lambda _: qs.SimpleShot(embedding(), torch.nn.Linear(WIDTH, CLASSES)),
    "tim": lambda _: tim(),
    "transductive_fine_tuning": lambda _: transductive_fine_tuning(),
    "lr_d2": lambda _: qs.LRD2(embedding()),
    "snail": lambda _: qs.SNAIL(embedding(), WIDTH, WAYS, length=26),
    "snail_temporal": lambda _: qs.SNAIL(
        embedding(), WIDTH, WAYS, length=26, blocks=[128, 128]
    ),
    "matching_fce": lambda _: qs.MatchingNetwork(
        embedding(),
        similarity=qs.core.ScaledSimilarity(),
        context=qs.learners.metric.FullContext(WIDTH),
    ),
    "life_long_memory": lambda _: qs.LifeLongMemory(embedding(), memory_size=128),
    "mann": lambda _: qs.MANN(embedding(), qs.learners.memory.LRUA(WIDTH + WAYS, WAYS)),
    "memory_network": lambda _: qs.few_shot_memory_network(embedding(), WIDTH),
    "meta_net": lambda _: qs.MetaNet(embedding(), embedding(), WIDTH, WAYS),
}
FROM_A_CLASSIFIER = {
    "baseline", "baseline_pp", "simple_shot", "tim", "transductive_fine_tuning",
}  # fmt: skip
AT_TEST: dict[Name, dict[str, Any]] = {"reptile": {"steps": 50, "batch": None}}


def recipe(
    *,
    learner: Name = "maml",
    shots: int = 1,
    steps: int = 1_000,
    meta_batch_size: int = 4,
    lr: float = 3e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        shots: support examples per class.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    data = qs.datasets.caltech101()
    model = LEARNERS[learner](steps)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr)
    train = qs.FewShot(data.train, WAYS, shots, QUERIES)
    if (
        learner == "reptile"
    ):  # the same images: one of each class as query, all others as support
        train = qs.FewShot(data.train, WAYS, shots + QUERIES - 1, 1)
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
    if learner in FROM_A_CLASSIFIER:
        train, meta_batch_size = (
            qs.tasks.Classification(data.train, meta_batch_size * WAYS * (shots + QUERIES)),
            1,
        )
    test = qs.FewShot(data.test, WAYS, shots, QUERIES)
    return Experiment(
        model,
        train,
        qs.FewShot(data.validation, WAYS, shots, QUERIES),
        {f"{WAYS}-way {shots}-shot": Benchmark(test, AT_TEST.get(learner, {}), n_tasks=1000)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        validate_every=max(1, steps // 10),
        n_validation_tasks=200,
    )
