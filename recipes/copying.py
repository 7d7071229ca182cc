"""The copy and repeat-copy tasks of neural Turing machines (Graves, Wayne & Danihelka, 2014,
sections 4.1 and 4.2).

`copy`: sequences of 1 to 20 random vectors of 8 bits are shown and then to be recited; tested,
they are up to 120 long. `repeat_copy`: sequences of 1 to 10 vectors are shown, then a number
from 1 to 10: so often are they to be recited, and a ninth bit marks the end. Tested, sequences
are up to twice as long, or twice as often to be repeated, as any in training.

The memory has 128 slots of 20; the controller is an LSTM of 100 (`ntm`) or a hidden layer of
100 (`feed_forward`). `lstm` is the paper's baseline, three layers of 256 and no memory (for
repeat-copy the paper's has layers of 512). `bit_errors` are wrong bits of a whole answer,
which has 8 for each step (repeat-copy: 9): half of them would be wrong by chance.

The paper draws curves, no numbers. After some 100,000 sequences of training its machines cost
next to nothing at lengths up to 20, and little at 120, where its LSTM fails. They learn to
repeat and follow that to longer sequences; with more repeats they go on, but do not find
the end. Its LSTM fails at both.

Differs: the rate of RMSProp (1e-4 with momentum 0.9, as the paper gives the machines; 3e-5 its
LSTM) falls by a cosine, a step is of 16 sequences of one length, and the norm of the gradient
is clipped at 10, not each element. Three quarters of the steps of repeat-copy are of sequences
that are to be recited once. Without them no more than the first three vectors were found again,
in 15,000 steps at 5e-4.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.nets.cells import NTM, FeedForward, RecurrentCell, StackedLSTM
from quickstudy.runs.recipes import Benchmark, Experiment
from quickstudy.tasks import Copy, Mixture, RepeatCopy

RESULT = "{task}_{learner}"

Name = Literal["ntm", "feed_forward", "lstm"]
LEARNERS: dict[Name, Callable[[int, int], RecurrentCell[Any]]] = {
    "ntm": NTM,
    "feed_forward": lambda inputs, outputs: NTM(inputs, outputs, controller=FeedForward),
    "lstm": StackedLSTM,
}
ERRORS = {"bit_errors": qs.learners.memory.bit_errors}


def copy() -> tuple[qs.TaskDistribution, qs.TaskDistribution, dict[str, Benchmark]]:
    """Tasks for training, for validation, and benchmarks."""
    mixed = Copy(length=(1, 20), ragged=True)
    tests = {"lengths 1 to 20": Benchmark(mixed, metrics=ERRORS, n_tasks=2000)}
    for n in (20, 40, 80, 120):
        tests[f"length {n}"] = Benchmark(Copy(length=(n, n)), metrics=ERRORS)
    return Copy(length=(1, 20)), mixed, tests


def repeat_copy() -> tuple[qs.TaskDistribution, qs.TaskDistribution, dict[str, Benchmark]]:
    """Tasks for training, for validation, and benchmarks."""
    mixed = RepeatCopy(length=(1, 10), repeats=(1, 10), ragged=True)
    tests = {"lengths 1 to 10, 1 to 10 times": Benchmark(mixed, metrics=ERRORS, n_tasks=1000)}
    for length, repeats in ((10, 10), (20, 10), (10, 20)):
        exactly = RepeatCopy(length=(length, length), repeats=(repeats, repeats))
        tests[f"length {length}, {repeats} times"] = Benchmark(
            exactly, metrics=ERRORS, n_tasks=400
        )
    once, often = (RepeatCopy(length=(1, 10), repeats=(1, most)) for most in (1, 10))
    return Mixture(once, once, once, often, together=True), mixed, tests


def recipe(
    *,
    task: Literal["copy", "repeat_copy"] = "copy",
    learner: Name = "ntm",
    steps: int | None = None,
    meta_batch_size: int = 16,
    lr: float = 1e-4,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        task: copy once, or as often as a number in the input.
        learner: recurrent cell.
        steps: training steps (default: 8,000; repeat-copy: 20,000).
        meta_batch_size: sequences per training step.
        lr: learning rate of RMSProp at the start.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    once = task == "copy"
    if steps is None:
        steps = 8000 if once else 20_000
    model = qs.SequenceLearner(LEARNERS[learner](*((9, 8) if once else (10, 9))))
    train, validation, tests = copy() if once else repeat_copy()
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr, alpha=0.95, momentum=0.9, eps=1e-4, centered=True
    )
    return Experiment(
        model,
        train,
        validation,
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=10.0,
        # bits first, to choose by: of checkpoints without errors, the surest
        metrics={"bits": qs.learners.memory.bit_cross_entropy, **ERRORS},
        better="min",
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
