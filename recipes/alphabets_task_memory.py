"""ANIL with a memory of tasks, on characters of alphabets that come again.

Training is as usual: 5 characters of one alphabet at a time, of 25 background alphabets of
Omniglot, one drawing of each, classes in random order. Testing is on the 20 evaluation
alphabets, none of which was in training. A task has the first 5 characters of one of them, one
drawing of each in the support set and 5 in the query set; which alphabet it is, is not given.
The memory holds 256 tasks of drawers 1 to 10, each learned by ten steps from its 5
drawings. Tests are on tasks of drawers 11 to 20. With and without a memory the weights are
the same, and so are the 2,000 tasks of the test: accuracy after one and five inner steps. "No
memory" is the one shared start that was learned; "mean" is one that has seen the same past
tasks: the plain mean of what was learned of them, whatever the new task is.

With `labels="fixed"` a character has the same label whenever its alphabet comes: what was
learned of it is of use again, once it is known which alphabet this is. With "shuffled" the
order of the five is random in every task, past ones too: the control, where a past head fits
by chance only (one of 120 orders).

The net is a strided Conv4 of 32 channels, normalised by the batch at hand (so that predictions
are transductive). Nothing is published by this protocol.
"""

from dataclasses import replace
from typing import Literal

import torch

import quickstudy as qs
from quickstudy.core.task import batches
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}
RESULT = "alphabets_task_memory_{labels}"


def drawn_by(data: qs.datasets.Labelled, first: int, last: int) -> qs.datasets.Labelled:
    """What some of the 20 drawers of each character drew, who count from 1."""
    drawer = torch.arange(len(data)) % 20 + 1
    rows = ((drawer >= first) & (drawer <= last)).nonzero().flatten()
    split = f"{data.split}, drawers {first} to {last}"
    return replace(data, x=data.x[rows], y=data.y[rows], split=split)


def first_characters(data: qs.datasets.Labelled, count: int) -> qs.datasets.Labelled:
    """The first `count` classes of each alphabet."""
    assert data.groups is not None
    groups = data.groups.tolist()
    chosen = [c for c, group in enumerate(groups) if groups[:c].count(group) < count]
    return data.select(chosen, f"{data.split}, {count} characters of each alphabet")


def recipe(
    *,
    labels: Literal["fixed", "shuffled"] = "fixed",
    ways: int = 5,
    shots: int = 1,
    steps: int = 4_000,
    meta_batch_size: int = 16,
    inner_lr: float = 0.4,
    inner_steps: int = 1,
    lr: float = 1e-3,
    channels: int = 32,
    past: int = 256,
    past_steps: int = 10,
    temperature: float = 0.1,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        labels: order of the five classes of an alphabet in each task.
        ways: classes per task, all of one alphabet.
        shots: support examples per class, and queries per class.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        lr: learning rate of Adam at the start.
        channels: channels of each convolution.
        past: tasks in the memory.
        past_steps: inner steps on each task of the memory.
        temperature: temperature of the softmax over tasks in the memory.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="lake")

    def usual(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, shots, 3, within_groups=True)

    def returning(first: int, last: int) -> qs.FewShot:
        drawn = drawn_by(first_characters(data.test, ways), first, last)
        ordered = labels == "fixed"
        return qs.FewShot(drawn, ways, shots, 5, within_groups=True, ordered=ordered)

    net = qs.nets.use_batch_statistics(qs.nets.Conv4(ways, channels=channels, pool="stride"))
    anil = qs.anil(net, lr=inner_lr, steps=inner_steps)
    learner = qs.TaskMemory(anil, capacity=past, temperature=temperature)
    before, queries = returning(1, 10), returning(11, 20)

    def remember() -> None:
        learner.steps = past_steps
        learner.remember(next(batches(before, past, steps=1, seed=seed + 1)))
        learner.steps = inner_steps

    memories = {
        f"memory of {past} tasks": {"limit": None},
        "memory of 64 tasks": {"limit": 64},
        f"mean of {past} tasks": {"limit": None, "temperature": 1e6},
        "no memory": {"limit": 0},
    }
    tests = {
        f"{s} step{'s' * (s > 1)}, {description}": Benchmark(
            queries, {"steps": s, **settings}, n_tasks=2000
        )
        for s in (1, 5)
        for description, settings in memories.items()
    }
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        usual(data.train),
        usual(data.validation),
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        validate_every=max(1, steps // 10),
        n_validation_tasks=600,
        on_reopen=remember,
    )
