"""Lake's official one-shot test: 20 runs of 20 characters of one alphabet (Lake, Salakhutdinov
& Tenenbaum, Science 350, 2015). An error is what an accuracy lacks of 100 %.

In each run one person drew each of 20 characters and another person drew them once more: 400
questions in all, of which people miss 4.5 % and Bayesian program learning 3.3 %. As the test
demands, training sees the 30 background alphabets only: their 964 characters, each in four
rotations as classes of their own, 60 of them in an episode, one in the support set and five
queries. Conv4-64 with max-pooling on 28 x 28 pixels, by Adam at a rate that falls by a cosine,
in bfloat16 by default. Inductive: images are normalised by running statistics. Validation
episodes are of five of the background alphabets, which are trained on too, so that the last
checkpoint or one near it is chosen.

400 questions leave an interval of about 3 %. A second row has 1,000 tasks of random characters
and drawings, each task within one evaluation alphabet; they are harder than the official ones.

Published: the convolutional Siamese network 8.0 % error (Koch, Zemel & Salakhutdinov, 2015), by
affine distortions and a larger net on 105 x 105 pixels, tested on ten of the alphabets;
prototypical networks 13.7 % (as Lake, Salakhutdinov & Tenenbaum, 2019, report). `learner` is
one of `LEARNERS`.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_lake_{learner}"
RUNS, OTHERS = "20 official runs", "20-way 1-shot, within an alphabet"
PAPER = {
    "omniglot_lake_prototypical": {RUNS: {"accuracy": 0.863}},
    "omniglot_lake_siamese": {RUNS: {"accuracy": 0.92}},
}

Name = Literal["prototypical", "matching", "siamese"]


def siamese() -> qs.SiameseNetwork:
    net = qs.nets.Conv4()
    return qs.SiameseNetwork(net, qs.learners.metric.WeightedL1(net.width))


LEARNERS: dict[Name, Callable[[], qs.Learner[Any]]] = {
    "prototypical": lambda: qs.PrototypicalNetwork(qs.nets.Conv4()),
    "matching": lambda: qs.MatchingNetwork(
        qs.nets.Conv4(), similarity=qs.core.ScaledSimilarity()
    ),
    "siamese": siamese,
}


def recipe(
    *,
    learner: Name = "prototypical",
    ways: int = 60,
    queries: int = 5,
    steps: int = 3_000,
    meta_batch_size: int = 1,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        ways: classes per training task.
        queries: queries per class in training.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        lr: learning rate of Adam at the start.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    data = qs.datasets.omniglot(convention="lake")
    background = qs.datasets.merge(data.train, data.validation)
    model = LEARNERS[learner]()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.execution = "loop"  # one large episode a step: nothing to batch over
    optimizer = torch.optim.Adam(model.parameters(), lr)
    runs = qs.tasks.Fixed(qs.datasets.omniglot_runs(), "Lake's official runs")
    others = qs.FewShot(data.test, 20, 1, 1, within_groups=True)
    return Experiment(
        model,
        qs.FewShot(background, ways, 1, queries, rotations="classes"),
        qs.FewShot(data.validation, 20, 1, 1, within_groups=True),
        {
            RUNS: Benchmark(runs, n_tasks=20, meta_batch_size=20),
            OTHERS: Benchmark(others, n_tasks=1000),
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
