"""MAML and its relatives on Omniglot, 5-way 1-shot (Finn, Abbeel & Levine, 2017, table 1).

MAML's protocol: characters split at random 1100 / 100 / 423, every class of a task turned by a
random multiple of 90 degrees in training and at test, strided Conv4 normalised by the batch at
hand (so that predictions are transductive), one inner step of 0.4 in training, three at test,
as many queries as shots. The paper trains 60,000 steps of 32 tasks at a constant rate. Here a
step has 16 tasks and the rate falls by a cosine. The default number of steps takes one CPU core
an hour for `maml` (18,000) and twelve minutes for the others (3,500 to 8,000).

`fomaml` treats the inner gradient as a constant. MAML's paper has no row for it; the published
number is that of Nichol, Achiam & Schulman (2018). `anil` (Raghu, Raghu, Bengio & Vinyals,
2020) adapts the head alone; its paper has numbers for 20 ways only. `boil` (Oh, Yoo, Kim & Yun,
2021) adapts everything but the head; its paper has no number for this protocol.

`meta_sgd` (Li, Zhou, Chen & Li, 2017, arXiv:1707.09835) takes one step in training and at test,
with learned rates; its accuracy is as later papers quote it. Differs: the rates start at 0.4,
the fixed rate of MAML, and not in the paper's range of 0.005 to 0.1, because a short training
does not get far from its start.

`meta_curvature` (Park & Oliva, 2019, arXiv:1902.03356) has results on Omniglot in its paper; we
had no copy to quote them from.

`proto_maml` (Triantafillou et al., 2020) starts the head from prototypes; its paper has no
number for this protocol. Without a step it is a prototypical network; the rows show what steps
add. Differs: one inner step of 0.1, where the paper's search for natural images found six of
0.0054, and the exact gradient, not the first-order one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch

import quickstudy as qs
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_{learner}"
TRAINING = {"steps": 60_000, "meta_batch_size": 32}
PAPER = {
    "omniglot_maml": {"5-way 1-shot": {"accuracy": 0.987, "interval": 0.004, **TRAINING}},
    "omniglot_fomaml": {"5-way 1-shot": {"accuracy": 0.983, "interval": 0.005, **TRAINING}},
    "omniglot_meta_sgd": {"5-way 1-shot": {"accuracy": 0.9953, "interval": 0.0026}},
}

Name = Literal["maml", "fomaml", "anil", "boil", "meta_sgd", "meta_curvature", "proto_maml"]
ONE_STEP = ", {inner_steps} step"
MAML_ROWS = {"": {"steps": 3}, ONE_STEP: {}, ", 10 steps": {"steps": 10}}


class Choice(NamedTuple):
    """A learner with the numbers that differ between learners."""

    make: Callable[..., qs.Learner[Any]]
    steps: int
    rows: Mapping[str, Mapping[str, int]]  # suffix of a benchmark's name -> settings at test
    inner_lr: float = 0.4
    validate_every: int | None = None


LEARNERS: dict[Name, Choice] = {
    "maml": Choice(qs.MAML, 18_000, MAML_ROWS, validate_every=1000),
    "fomaml": Choice(qs.MAML, 6_000, MAML_ROWS, validate_every=1000),
    "anil": Choice(qs.anil, 8_000, MAML_ROWS, validate_every=1000),
    "boil": Choice(qs.boil, 4_500, MAML_ROWS, validate_every=1000),
    "meta_sgd": Choice(qs.MetaSGD, 4_000, {"": {}}),
    "meta_curvature": Choice(qs.MetaCurvature, 3_500, {"": {"steps": 3}, ONE_STEP: {}}),
    "proto_maml": Choice(
        qs.ProtoMAML,
        4_000,
        {"": {}, ", no step": {"steps": 0}, ", 3 steps": {"steps": 3}},
        inner_lr=0.1,
    ),
}


def recipe(
    *,
    learner: Name = "maml",
    ways: int = 5,
    shots: int = 1,
    steps: int | None = None,
    meta_batch_size: int = 16,
    inner_lr: float | None = None,
    first_rates: tuple[float, float] = (0.4, 0.4),
    inner_steps: int = 1,
    lr: float = 1e-3,
    first_order: bool = False,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        ways: classes per task.
        shots: support examples per class, and queries per class.
        steps: meta-training steps (default: as in `LEARNERS`).
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps (default: 0.4; ProtoMAML: 0.1).
        first_rates: range from which Meta-SGD draws its first learning rate.
        inner_steps: inner steps in training.
        lr: learning rate of Adam at the start.
        first_order: treat the inner gradient as a constant (FOMAML always does).
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    choice = LEARNERS[learner]
    steps = choice.steps if steps is None else steps
    inner_lr = choice.inner_lr if inner_lr is None else inner_lr
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, shots, shots, rotations="random")

    net = qs.nets.Conv4(None if learner == "proto_maml" else ways, pool="stride")
    model = choice.make(
        qs.nets.use_batch_statistics(net),
        lr=first_rates if learner == "meta_sgd" else inner_lr,
        steps=inner_steps,
        first_order=first_order or learner == "fomaml",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr)
    test = tasks(data.test)
    return Experiment(
        model,
        tasks(data.train),
        tasks(data.validation),
        {
            f"{ways}-way {shots}-shot{suffix.format(inner_steps=inner_steps)}": Benchmark(
                test, settings, n_tasks=2000
            )
            for suffix, settings in choice.rows.items()
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        validate_every=choice.validate_every or max(1, steps // 15),
        n_validation_tasks=600,
    )
