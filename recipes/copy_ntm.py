"""The copy task of neural Turing machines (Graves, Wayne & Danihelka, 2014, section 4.1).

Sequences of 1 to 20 random vectors of 8 bits are shown and then to be recited; tested, they are
up to 120 long. The memory has 128 slots of 20; the controller is an LSTM of 100 ("ntm") or a
hidden layer of 100 ("feed_forward"). "lstm" is the paper's rival, three layers of 256 and no
memory. `bit_errors` are wrong bits of a whole answer, which has 8 for each step: half of
them would be wrong by chance.

The paper draws curves, no numbers: after some 100,000 sequences of training its machines cost
next to nothing at lengths up to 20, and little at 120, where its LSTM fails.

Differs: the rate of RMSProp (1e-4 with momentum 0.9, as the paper gives the machines; 3e-5 its
LSTM) falls by a cosine, a step is of 16 sequences of one length, and the norm of the gradient
is clipped at 10, not each element.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.nets.cells import NTM, FeedForward, RecurrentCell, StackedLSTM
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "copy_{learner}"

Name = Literal["ntm", "feed_forward", "lstm"]
LEARNERS: dict[Name, Callable[[int, int], RecurrentCell[Any]]] = {
    "ntm": NTM,
    "feed_forward": lambda inputs, outputs: NTM(inputs, outputs, controller=FeedForward),
    "lstm": StackedLSTM,
}


def recipe(
    *,
    learner: Name = "ntm",
    steps: int = 8000,
    meta_batch_size: int = 16,
    lr: float = 1e-4,
    seed: int = 0,
) -> Experiment:
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    model = qs.SequenceLearner(LEARNERS[learner](9, 8))
    mixed = qs.tasks.Copy(length=(1, 20), ragged=True)
    tests = {
        "lengths 1 to 20": Benchmark(
            mixed, metrics={"bit_errors": qs.learners.memory.bit_errors}, n_tasks=2000
        )
    }
    for n in (20, 40, 80, 120):
        exactly = qs.tasks.Copy(length=(n, n))
        tests[f"length {n}"] = Benchmark(
            exactly, metrics={"bit_errors": qs.learners.memory.bit_errors}
        )
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr, alpha=0.95, momentum=0.9, eps=1e-4, centered=True
    )
    return Experiment(
        model,
        qs.tasks.Copy(length=(1, 20)),
        mixed,
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=10.0,
        # bits first, to choose by: of checkpoints without errors, the surest
        metrics={
            "bits": qs.learners.memory.bit_cross_entropy,
            "bit_errors": qs.learners.memory.bit_errors,
        },
        better="min",
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
