"""MAML with a memory of tasks, on waves, lines and parabolas.

MAML is trained on a mixture of three kinds of functions, in equal parts: sine waves as in
Finn, Abbeel & Levine (2017), and lines and parabolas in the ranges of Vuorio, Sun, Hu & Lim
(2019). It has an MLP of two hidden layers of 40, 10 shots and one inner step of 0.01, and sees
25 tasks at a time. Then it remembers 256 more tasks, each learned by ten steps from its 10
shots, and starts new ones from the past ones that fit them best. With and without a memory the
weights are the same, and so are the 2,000 tasks of the test: mean squared error over 100 points
of an even grid on [-5, 5], after one and five inner steps. "No memory" is MAML with its one
shared start.

Nothing is published by this protocol.
"""

import torch

import quickstudy as qs
from quickstudy.core.task import batches
from quickstudy.runs.recipes import Benchmark, Experiment

PAPER = {}


def recipe(
    *,
    shots: int = 10,
    steps: int = 20_000,
    meta_batch_size: int = 25,
    inner_lr: float = 0.01,
    inner_steps: int = 1,
    lr: float = 1e-3,
    past: int = 256,
    past_steps: int = 10,
    temperature: float = 0.1,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        shots: support examples per task, and queries per task.
        steps: meta-training steps.
        meta_batch_size: tasks per meta-training step.
        inner_lr: learning rate of inner steps.
        inner_steps: inner steps in training.
        lr: learning rate of Adam at the start.
        past: tasks in the memory.
        past_steps: inner steps on each task of the memory.
        temperature: temperature of the softmax over tasks in the memory.
        seed: seed of initial parameters and training tasks.
    """

    def functions(queries: int, *, grid: bool = False) -> qs.tasks.Mixture:
        kinds = qs.Sinusoid, qs.tasks.Line, qs.tasks.Parabola
        return qs.tasks.Mixture(*(kind(shots, queries, grid=grid) for kind in kinds))

    maml = qs.MAML(
        qs.nets.MLP(1, 1, hidden=(40, 40)),
        lr=inner_lr,
        steps=inner_steps,
        criterion=qs.squared_error,
    )
    learner = qs.TaskMemory(maml, capacity=past, temperature=temperature)
    train, queries = functions(shots), functions(100, grid=True)

    def remember() -> None:
        learner.steps = past_steps
        learner.remember(next(batches(train, past, steps=1, seed=seed + 1)))
        learner.steps = inner_steps

    memories = {f"memory of {past} tasks": None, "memory of 64 tasks": 64, "no memory": 0}
    tests = {
        f"{s} step{'s' * (s > 1)}, {description}": Benchmark(
            queries, {"steps": s, "limit": limit}, n_tasks=2000
        )
        for s in (1, 5)
        for description, limit in memories.items()
    }
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    return Experiment(
        learner,
        train,
        queries,
        tests,
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        better="min",
        validate_every=max(1, steps // 15),
        n_validation_tasks=600,
        on_reopen=remember,
    )
