"""Mazes to be remembered, by RL² (Duan et al., 2016, arXiv:1611.02779) or by the SNAIL policy
(Mishra et al., 2018, arXiv:1707.03141): what section 3.3 of the one and 5.4 of the other ask of
mazes that are seen through a camera, here on a grid of which the nine cells around are seen.

A task is a maze, and a trial is two episodes in it: the goal has to be looked for in the first,
and remembered in the second. What counts are the steps to the goal, or the horizon where it was
not found, and how often it was found, in each episode of 1,000 mazes that were never seen. In
the papers' small mazes of 250 steps RL² needs 52.4 steps and then 39.1, SNAIL 50.3 and 34.8,
and 188.6 are needed at random; ours are others, and these numbers not to be compared.

As in the papers: rewards, a discount of 0.99, two episodes. Differs: mazes of 4 by 4 cells and
30 steps; PPO, 4 times over each batch, not TRPO; advantages decay by 0.95; batches of 128
trials; a GRU of 64, or filters, keys and values of 16, and convolutions of a step and the last
one only; the rate falls by a cosine.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.environments import Episodes, GridMaze
from quickstudy.evaluation.rollouts import total_reward
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_maze_{learner}"
ROW = "new mazes"
LEARNERS: dict[str, str] = {"rl2": "RL²", "snail": "SNAIL policy"}
Name = Literal["rl2", "snail"]


def found(task: qs.Task[Episodes], *, episode: int) -> Tensor:
    """1 where the goal was found."""
    return task.query.done[episode].sum()


def length(task: qs.Task[Episodes], *, episode: int) -> Tensor:
    """Steps to the goal, or the horizon."""
    return task.query.weight[episode].sum()


def recipe(
    *,
    learner: Name = "rl2",
    episodes: int = 2,
    steps: int = 800,
    meta_batch_size: int = 128,
    hidden: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        episodes: episodes per trial.
        steps: meta-training steps.
        meta_batch_size: trials per training step.
        hidden: units of the GRU; SNAIL has a quarter of them.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    maze = GridMaze(4, horizon=30)
    most, few, decay = episodes * maze.horizon, hidden // 4, 0.95
    if learner == "rl2":
        actor = qs.RL2(maze, hidden=hidden, timescale=most, decay=decay)
    else:
        blocks = (few, (few, few), few, (few, few))  # as in the paper's section 5.4, narrower
        actor = qs.SNAILPolicy(
            maze, length=most, width=few, blocks=blocks, reach=2, decay=decay
        )
    actor.chunk = 64  # which stays in a processor's cache
    trials = qs.tasks.Rollouts(maze, actor, episodes=episodes, trial=True)
    optimizer = qs.training.MultiEpoch(torch.optim.Adam(actor.parameters(), lr), 4)
    metrics: dict[str, Callable[[qs.Task[Episodes]], Tensor]]
    metrics = {"total reward": total_reward}
    for episode in range(episodes):
        metrics[f"success in episode {episode + 1}"] = partial(found, episode=episode)
        metrics[f"steps in episode {episode + 1}"] = partial(length, episode=episode)
    return Experiment(
        actor,
        trials,
        trials,
        {
            ROW: Benchmark(
                trials,
                n_tasks=1000,
                meta_batch_size=500,
                evaluate_fn=qs.evaluation.evaluate_rollouts,
            )
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=1.0,
        metrics=metrics,  # pyright: ignore[reportArgumentType]
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=500),
        validate_every=max(1, steps // 15),
        n_validation_tasks=500,
    )
