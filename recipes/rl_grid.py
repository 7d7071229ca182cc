"""A goal to be searched on a grid, by VariBAD or by RL² (Zintgraf et al., 2020,
arXiv:1910.08348, section 5.1).

A task is a goal on a grid of 5 by 5 cells that is not seen, an episode has 15 steps, of which
those on the goal pay 1 and others -0.1, and a trial is 4 episodes. The goal has to be searched
on a way that leaves none out, and then be gone to straight. What counts is the return of each
episode, for 1,000 goals. The paper has pictures only.

As in the published code: encoder and decoder, a discount and a decay of 0.95. Differs: a cell
is seen as a one-hot row, not as two numbers; a policy of 128-128, not 32, a latent of 10, not
5, and divergences that count 0.01, not 0.1, with which it learns to use what it knows sooner;
rewards are decoded by their squared errors; batches of 64 trials, 4 times over each in 4 parts;
a clip of 0.2; the rate falls by a cosine; 2.3 million steps in all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.environments import Episodes, HiddenGoal
from quickstudy.evaluation.rollouts import total_reward
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_grid_{learner}"
ROW = "new goals"
Name = Literal["varibad", "rl2"]
LEARNERS: dict[str, str] = {"varibad": "VariBAD", "rl2": "RL²"}


def earned(task: qs.Task[Episodes], *, episode: int) -> Tensor:
    """The return of an episode."""
    return task.query.reward[episode].sum()


def recipe(
    *,
    learner: Name = "varibad",
    episodes: int = 4,
    steps: int = 600,
    meta_batch_size: int = 64,
    lr: float | None = None,
    entropy: float = 0.03,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        episodes: episodes per trial.
        steps: meta-training steps.
        meta_batch_size: trials per training step.
        lr: learning rate of Adam at the start (default: VariBAD 2e-3, RL² 4e-3).
        entropy: weight of the entropy bonus.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    grid = HiddenGoal()
    settings: dict[str, Any] = {"hidden": 64, "timescale": episodes * grid.horizon}
    settings |= {"discount": 0.95, "gae_lambda": 0.95, "clip": 0.2, "entropy_coef": entropy}
    if learner == "varibad":
        settings |= {"latent": 10, "policy": (128, 128), "decoded": 12, "kl": 0.01}
        actor = qs.VariBAD(grid, **settings)
    else:
        actor = qs.RL2(grid, **settings)
    trials = qs.tasks.Rollouts(grid, actor, episodes=episodes, trial=True)
    if lr is None:
        lr = 2e-3 if learner == "varibad" else 4e-3
    adam = torch.optim.Adam(actor.parameters(), lr)
    optimizer = qs.training.MultiEpoch(adam, 4, minibatches=4)
    metrics: dict[str, Callable[[qs.Task[Episodes]], Tensor]]
    metrics = {"total reward": total_reward}
    for episode in range(episodes):
        metrics[f"return of episode {episode + 1}"] = partial(earned, episode=episode)
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
