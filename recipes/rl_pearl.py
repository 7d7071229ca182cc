"""Goals to be found by PEARL (Rakelly et al., 2019, arXiv:1903.08254).

`navigation` is MAML's 2-D navigation: goals in a square, and a return that is minus the sum of
100 distances. `point_robot` is that of PEARL's section 6.3: goals on a half circle, with a
reward only within 0.2, in 20 steps; the critic is trained with distances, as there.
What counts is the return of an episode with a goal that was never seen, with a context drawn
from the posterior after some episodes (4 or 5) with contexts drawn from the prior, and before,
of those. The paper has plots, and no numbers to compare with; MAML's published return on
`navigation` is about -20, after 20 episodes, and 40 million steps of training.

As in the paper: a context of 5 numbers, an encoder of three layers, steps kept of each training
task, and new ones of 5 tasks at a time; for point robots a discount of 0.9, rewards that count
100 times, and likeliest actions in evaluation. Differs: nets of 64, not 300; 8 tasks and 128
steps a batch, not 16 and 256; 100 gradient steps from one collection to the next, and 30,000 in
all, far fewer than theirs, with rates of 1e-3 and 0.01; for `navigation` the same discount, and
rewards that count 20 times. That is about 1.3 million steps in the environment (point robots:
0.3 million, which may be too few: rewards are seldom found at first).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.core.task import Task
from quickstudy.environments import Environment, Navigation2D, PointRobot, near_goal
from quickstudy.evaluation.rollouts import return_after, return_before
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_pearl_{environment}"
ROW = "new goals"
PAPER = {}


def sparse_after(task: Task[Any]) -> Tensor:
    """Mean return of a query episode, where only the surroundings of the goal pay."""
    return (task.query.weight * near_goal(task.query.reward)).sum(-1).mean()


def sparse_before(task: Task[Any]) -> Tensor:
    """Of a support episode."""
    return (task.support.weight * near_goal(task.support.reward)).sum(-1).mean()


class Family(NamedTuple):
    """Where to act, and what depends on it."""

    environment: Callable[[], Environment]
    settings: Mapping[str, Any]  # of the learner
    episodes: int  # of exploration
    metrics: Mapping[str, Any]  # of one task
    sparse: bool = False


FAMILIES = {
    "navigation": Family(
        Navigation2D,
        {"bound": 0.1, "discount": 0.9, "tau": 0.01, "reward_scale": 20.0},
        4,
        {"return after": return_after, "return before": return_before},
    ),
    "point_robot": Family(
        PointRobot,
        {
            "bound": 0.1,
            "discount": 0.9,
            "tau": 0.01,
            "reward_scale": 100.0,
            "kl": 1.0,
            "reward_transform": near_goal,
        },
        5,
        {"return after": sparse_after, "return before": sparse_before},
        sparse=True,
    ),
}


def recipe(
    *,
    environment: Literal["navigation", "point_robot"] = "navigation",
    steps: int = 30_000,
    meta_batch_size: int = 8,
    tasks: int = 100,
    every: int = 100,
    hidden: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        environment: environment to act in.
        steps: training steps.
        meta_batch_size: tasks per meta-training step.
        tasks: tasks in training.
        every: training steps between collections.
        hidden: units of the hidden layers.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    family = FAMILIES[environment]
    world = family.environment()
    layers = (hidden,) * 3
    learner = qs.PEARL(world, hidden=layers, encoder=layers, **family.settings)
    rollouts = qs.tasks.Rollouts(world, learner, episodes=family.episodes)
    replayed = qs.tasks.OffPolicyTasks(
        rollouts, tasks=tasks, every=every, support=128, query=128, adapted=family.sparse
    )
    test = Benchmark(
        rollouts,
        {"greedy": family.sparse},
        family.metrics,
        n_tasks=600,
        meta_batch_size=200,
        evaluate_fn=qs.evaluation.evaluate_rollouts,
    )
    return Experiment(
        learner,
        replayed,
        rollouts,
        {ROW: test},
        torch.optim.Adam(learner.parameters(), lr),
        steps,
        meta_batch_size,
        metrics=family.metrics,
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=200),
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
    )
