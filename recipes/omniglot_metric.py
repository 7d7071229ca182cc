"""Learners that compare embeddings on Omniglot, trained on episodes (Snell, Swersky & Zemel,
2017, table 1; Vinyals et al., 2016, table 1).

The protocol of prototypical networks, for all: the class lists 1028 / 172 / 423 with every
class in four rotations, Conv4-64 with max-pooling, 60-way episodes of one shot and five queries
in training, fifteen queries of a class at test. Inductive: at test, images are normalised by
running statistics. Differs: the learning rate of Adam falls by a cosine over `steps`, where the
paper halves it every 2,000 episodes and stops by validation; the forward pass is in bfloat16 by
default, which a CPU with AMX does twice as fast.

`matching_plain` and `matching_fce` are matching networks without and with full-context
embeddings (Vinyals et al., 2016). Differs: the paper's softmax of plain cosines does not
reproduce its numbers (an independent implementation reports 92.0 / 93.2 / 75.6 / 77.8 %), so
cosines are multiplied by a learned factor that starts at `scale`; `similarity="distance"` has
minus squared distances instead, with which one shot is a prototypical network. One net serves
all rows, where the paper trains one for each; 1,200 classes were the paper's, in no published
list.

`siamese_pairs`, `siamese_contrastive` and `siamese_triplet` are siamese networks with Koch's
cross-entropy of pairs, with Hadsell's contrastive loss of margin 10, and with FaceNet's loss of
all triplets. The published rows are the few-shot baselines of Vinyals et al.: Koch's network,
trained on pairs and fine-tuned or not (here: not), of 1,200 characters with every class in four
rotations; the paper does not name the characters. Here each step has all pairs (or triplets) of
three images each of 60 classes. Differs from Koch: no affine distortions, no fine-tuning, one
learning rate.

`memory_network` adapts end-to-end memory networks (Sukhbaatar, Szlam, Weston & Fergus, 2015) to
few-shot tasks; a matching network is the same with one hop. There are no published numbers.

`r2d2` (Bertinetto, Henriques, Torr & Vedaldi, 2019, section 4) follows the authors' code: λ
from 50, α from 10, no dropout. No number of the paper is at hand that could be checked, so none
is compared. Differs: every training episode has one shot and five queries, where theirs have
ten images of each class, a random number of them shots; the learning rate starts at 2e-3, not
5e-3; β has no effect, because a softmax follows; 4,000 episodes of their 120,000 at most. The
regression is not in bfloat16.

`meta_opt_net` (Lee et al., 2019) has a support vector machine as the base learner. The paper
has no result on Omniglot. Its settings of meta-training, where they carry over: 8 tasks of 5
ways a step, 5 shots (as on CIFAR-FS) for tests of any number of shots, 6 queries of each class,
C of 0.1. Differs: Adam, not SGD; γ starts at 10, not 1, from where Adam at this rate would take
long to move it; Conv4-64, not ResNet-12; labels are not smoothed, and nothing is augmented or
dropped; 2,000 steps of the paper's 60,000. The support vector machine is not in bfloat16.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_{learner}"
MATCHING = {
    "5-way 1-shot": {"accuracy": 0.981},
    "5-way 5-shot": {"accuracy": 0.989},
    "20-way 1-shot": {"accuracy": 0.938},
    "20-way 5-shot": {"accuracy": 0.985},
}
SIAMESE = {
    "5-way 1-shot": {"accuracy": 0.973},
    "5-way 5-shot": {"accuracy": 0.984},
    "20-way 1-shot": {"accuracy": 0.882},
    "20-way 5-shot": {"accuracy": 0.970},
}
PAPER = {
    "omniglot_protonet": {
        "5-way 1-shot": {"accuracy": 0.988},
        "5-way 5-shot": {"accuracy": 0.997},
        "20-way 1-shot": {"accuracy": 0.960},
        "20-way 5-shot": {"accuracy": 0.989},
    },
    "omniglot_matching_plain": MATCHING,
    "omniglot_matching_fce": MATCHING,
    "omniglot_siamese_pairs": SIAMESE,
    "omniglot_siamese_contrastive": SIAMESE,
    "omniglot_siamese_triplet": SIAMESE,
    "omniglot_r2d2": {"5-way 1-shot": {"steps": 120_000, "meta_batch_size": 1}},
    "omniglot_meta_opt_net": {"5-way 1-shot": {"steps": 60_000, "meta_batch_size": 8}},
}

Name = Literal[
    "protonet", "matching_plain", "matching_fce", "siamese_pairs", "siamese_contrastive",
    "siamese_triplet", "memory_network", "r2d2", "meta_opt_net",
]  # fmt: skip


class Defaults(NamedTuple):
    """Numbers that differ between learners."""

    steps: int
    validate_every: int | None = None
    lr: float = 1e-3
    ways: int = 60
    shots: int = 1
    queries: int = 5
    meta_batch_size: int = 1


LEARNERS: dict[Name, Defaults] = {
    "protonet": Defaults(5_000, 500),
    "matching_plain": Defaults(3_000, 200),
    "matching_fce": Defaults(3_000, 200),
    "siamese_pairs": Defaults(3_500, 250, queries=2),
    "siamese_contrastive": Defaults(3_500, 250, queries=2),
    "siamese_triplet": Defaults(3_500, 250, queries=2),
    "memory_network": Defaults(3_000, 200),
    "r2d2": Defaults(4_000, lr=2e-3),
    "meta_opt_net": Defaults(2_000, lr=2e-3, ways=5, shots=5, queries=6, meta_batch_size=8),
}


def recipe(
    *,
    learner: Name = "protonet",
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    steps: int | None = None,
    meta_batch_size: int | None = None,
    lr: float | None = None,
    similarity: Literal["cosine", "distance"] = "cosine",
    scale: float = 10.0,
    hops: int = 3,
    penalty: float = 50.0,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        ways: classes per training task (default: 60; MetaOptNet: 5).
        shots: support examples per class in training (default: 1; MetaOptNet: 5).
        queries: queries per class in training (default: 5; siamese: 2; MetaOptNet: 6).
        steps: meta-training steps (default: as in `LEARNERS`).
        meta_batch_size: tasks per meta-training step (default: 1; MetaOptNet: 8).
        lr: learning rate of Adam at the start (default: 1e-3; R2-D2 and MetaOptNet: 2e-3).
        similarity: similarity of embeddings (matching networks only).
        scale: first value of the factor of logits (matching networks, R2-D2 and MetaOptNet).
        hops: memory look-ups per query (memory network only).
        penalty: first ridge penalty λ (R2-D2 only).
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    defaults = LEARNERS[learner]
    steps = defaults.steps if steps is None else steps
    ways = defaults.ways if ways is None else ways
    shots = defaults.shots if shots is None else shots
    queries = defaults.queries if queries is None else queries
    meta_batch_size = defaults.meta_batch_size if meta_batch_size is None else meta_batch_size
    data = qs.datasets.omniglot(convention="vinyals")
    embed = qs.nets.Conv4()

    def matching(**context: Any) -> qs.MatchingNetwork:
        scaled = qs.core.ScaledSimilarity(qs.core.cosine_similarity, scale)
        distance = qs.core.negative_squared_distance
        return qs.MatchingNetwork(
            embed, similarity=scaled if similarity == "cosine" else distance, **context
        )

    make: dict[Name, Callable[[], qs.Learner[Any]]] = {
        "protonet": lambda: qs.PrototypicalNetwork(embed),
        "matching_plain": matching,
        "matching_fce": lambda: matching(context=qs.learners.metric.FullContext(embed.width)),
        "siamese_pairs": lambda: qs.SiameseNetwork(
            embed, qs.learners.metric.WeightedL1(embed.width)
        ),
        "siamese_contrastive": lambda: qs.contrastive_siamese(embed, margin=10.0),
        "siamese_triplet": lambda: qs.triplet_siamese(embed, miner=qs.core.losses.all_triplets),
        "memory_network": lambda: qs.few_shot_memory_network(embed, embed.width, hops=hops),
        "r2d2": lambda: qs.R2D2(embed, penalty=penalty, scale=scale),
        "meta_opt_net": lambda: qs.MetaOptNet(embed, scale=scale),
    }
    model = make[learner]()
    if learner not in ("r2d2", "meta_opt_net"):
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.execution = "loop"  # one large episode a step, or convolutions in bfloat16
    optimizer = torch.optim.Adam(model.parameters(), defaults.lr if lr is None else lr)

    def test(ways: int, shots: int) -> Benchmark:
        tasks = qs.FewShot(data.test, ways, shots, 15, rotations="classes")
        return Benchmark(tasks, n_tasks=1000, meta_batch_size=10)

    return Experiment(
        model,
        qs.FewShot(
            data.train,
            ways,
            shots,
            queries,
            rotations="classes",
        ),
        qs.FewShot(data.validation, 20, 1, 5, rotations="classes"),
        {f"{n}-way {k}-shot": test(n, k) for n in (5, 20) for k in (1, 5)},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=defaults.validate_every or max(1, steps // 15),
        n_validation_tasks=200,
    )
