"""The repeat-copy task of neural Turing machines (Graves, Wayne & Danihelka, 2014,
section 4.2).

Sequences of 1 to 10 random vectors of 8 bits are shown, then a number from 1 to 10: so often
are they to be recited, and then the end is to be said in a ninth bit. Tested, sequences are up
to twice as long, or twice as often to be repeated, as any in training. The learners are those
of `copy_ntm` (the paper's rival has layers of 512 here). `bit_errors` are wrong bits of a whole
answer, which has 9 for each step.

The paper draws curves, no numbers: its machines learn the task and follow it to longer
sequences; asked for more repeats they go on, but cannot tell when to end. Its LSTM fails at
both.

Differs: as `copy_ntm` does, and three quarters of the steps of training are of sequences that
are to be recited once. Without them no more than the first three vectors were found again, in
15,000 steps at 5e-4.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.nets.cells import NTM, FeedForward, RecurrentCell, StackedLSTM
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "repeat_copy_{learner}"

Name = Literal["ntm", "feed_forward", "lstm"]
LEARNERS: dict[Name, Callable[[int, int], RecurrentCell[Any]]] = {
    "ntm": NTM,
    "feed_forward": lambda inputs, outputs: NTM(inputs, outputs, controller=FeedForward),
    "lstm": StackedLSTM,
}


def recipe(
    *,
    learner: Name = "ntm",
    steps: int = 20_000,
    meta_batch_size: int = 16,
    lr: float = 1e-4,
    seed: int = 0,
) -> Experiment:
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    model = qs.SequenceLearner(LEARNERS[learner](10, 9))
    errors = {"bit_errors": qs.learners.memory.bit_errors}
    mixed = qs.tasks.RepeatCopy(length=(1, 10), repeats=(1, 10), ragged=True)
    tests = {"lengths 1 to 10, 1 to 10 times": Benchmark(mixed, metrics=errors, n_tasks=1000)}
    for length, repeats in ((10, 10), (20, 10), (10, 20)):
        exactly = qs.tasks.RepeatCopy(length=(length, length), repeats=(repeats, repeats))
        tests[f"length {length}, {repeats} times"] = Benchmark(
            exactly, metrics=errors, n_tasks=400
        )
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr, alpha=0.95, momentum=0.9, eps=1e-4, centered=True
    )
    once, often = (qs.tasks.RepeatCopy(length=(1, 10), repeats=(1, most)) for most in (1, 10))
    return Experiment(
        model,
        qs.tasks.Mixture(once, once, once, often, together=True),
        mixed,
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=10.0,
        metrics={"bits": qs.learners.memory.bit_cross_entropy, **errors},
        better="min",
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
