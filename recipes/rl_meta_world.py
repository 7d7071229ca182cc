"""A robot arm that should reach a hidden point: ML1 of reach-v3 (Meta-World; Yu et al.,
2019, arXiv:1910.10897), version 3, by RL² (Duan et al., 2016, arXiv:1611.02779).

A task is a goal, one of 50 to train with or of 50 others to test with. A trial is two episodes
with it, of 100 steps; Meta-World's have 500, but a goal is some 30 steps away from where the
arm begins. The reward of each step, higher when nearer, is all that it observes of the goal. An
episode is a success if the hand was within 5 cm of the goal at one of its steps. What counts is
the share of successes in the second episode, and in the first, of 100 trials with test goals;
acting at random has none. There are no published numbers for version 3.

A GRU of 128 (published: 256), trained by PPO, 10 times over each batch, as in the published
code of version 3; batches of 20 trials, a discount of 0.99, advantages that decay by 0.95. In
150 batches there are 600,000 steps in the environment, which is what some ten minutes of one
core have time for; the published budgets are tens of millions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.environments import Episodes, meta_world
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_meta_world_{task}_{seed}"
ROW = "test goals"
PAPER = {}


def success(task: qs.Task[Episodes], *, episode: int) -> Tensor:
    """Whether the goal was reached at some step of an episode."""
    return task.query.info["success"][episode].amax()


def earned(task: qs.Task[Episodes], *, episode: int) -> Tensor:
    """What an episode paid."""
    return task.query.reward[episode].sum()


METRICS: dict[str, Any] = {
    "success later": partial(success, episode=-1),
    "success first": partial(success, episode=0),
    "return later": partial(earned, episode=-1),
    "return first": partial(earned, episode=0),
}
# goals are few, so that the share of successes is coarse: the return chooses
CHOOSING = {"return later": METRICS["return later"], **METRICS}


def recipe(
    *,
    task: str = "reach-v3",
    steps: int = 150,
    meta_batch_size: int = 20,
    horizon: int = 100,
    episodes: int = 2,
    hidden: int = 128,
    lr: float = 1e-3,
    workers: int = 1,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        task: name of the Meta-World task.
        steps: meta-training steps.
        meta_batch_size: trials per training step.
        horizon: steps per episode.
        episodes: episodes per trial.
        hidden: units of the hidden layers.
        lr: learning rate of Adam at the start.
        workers: processes that simulate; results do not depend on it.
        seed: seed of initial parameters and training tasks.
    """
    arm = meta_world(task, horizon=horizon, workers=workers)
    unseen = meta_world(task, split="test", horizon=horizon, workers=workers)
    learner = qs.RL2(arm, hidden=hidden, timescale=episodes * horizon, gae_lambda=0.95)
    trials = qs.tasks.Rollouts(arm, learner, episodes=episodes, trial=True)
    new = qs.tasks.Rollouts(unseen, learner, episodes=episodes, trial=True)
    return Experiment(
        learner,
        trials,
        trials,
        {
            ROW: Benchmark(
                new,
                {},
                METRICS,
                n_tasks=100,
                meta_batch_size=meta_batch_size,
                evaluate_fn=qs.evaluation.evaluate_rollouts,
            )
        },
        qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), lr), 10),
        steps,
        meta_batch_size,
        clip=1.0,
        metrics=CHOOSING,
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=meta_batch_size),
        validate_every=max(1, steps // 10),
        n_validation_tasks=2 * meta_batch_size,
    )
