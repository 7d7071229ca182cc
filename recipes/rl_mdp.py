"""Tabular Markov decision processes by RL² (Duan et al., 2016, arXiv:1611.02779, section 3.2,
table 2) or by the SNAIL policy (Mishra et al., 2018, arXiv:1707.03141, section 5.2, table 4).

A task is a process of 10 states and 5 actions with transitions from a flat Dirichlet
distribution and normal rewards, an episode has 10 steps, and a trial is 10 or 25 episodes in
one process. What counts is the total reward of a trial, on 1,000 processes that were never
seen. Of 10 episodes, at random, one earns 100; for agents that plan see `benchmarks/mdps.py`.
SNAIL's paper has shares of what value iteration earns: 0.766 (10 episodes) and 0.862 (25),
where RL² has 0.752 and 0.859.

As in the papers: advantages decay by 0.3. Differs: Adam on PPO's objective, 4 times over each
batch in 4 parts, not TRPO; a discount of 0.9, not 0.99, with which values are less noisy; a GRU
of 64, not 256, that begins with units of long memory; batches of 128 trials (12,800 steps)
where the papers have 250,000 steps, so that 1,200 of them have 6 % of the steps of their 1,000;
the rate falls by a cosine. The SNAIL policy puts each step beside the last one by a convolution
of 32 filters and attends, twice; the paper has two blocks of convolutions that look back on the
whole trial, and attends once, which costs several times as much. The result of 25 episodes is
of 300 batches (`--steps 300`).
"""

from functools import partial
from typing import Literal, get_args

import torch

import quickstudy as qs
from quickstudy.environments import TabularMDP
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_mdp_{learner}_{episodes}_episodes"
ROW = "new processes"
PAPER = {
    "rl_mdp_rl2_10_episodes": {ROW: {"total reward": 156.2}},
    "rl_mdp_rl2_25_episodes": {ROW: {"total reward": 445.7}},
}
LEARNERS: dict[str, str] = {"rl2": "RL²", "snail": "SNAIL policy"}
Name = Literal["rl2", "snail"]


def recipe(
    *,
    learner: Name = "rl2",
    episodes: int = 10,
    steps: int = 1200,
    meta_batch_size: int = 128,
    hidden: int = 64,
    lr: float = 4e-3,
    discount: float = 0.9,
    entropy: float = 0.1,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        episodes: episodes per trial.
        steps: meta-training steps.
        meta_batch_size: trials per training step.
        hidden: units of the GRU; SNAIL has half of them.
        lr: learning rate of Adam at the start.
        discount: discount per step.
        entropy: weight of the entropy bonus.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    process = TabularMDP()
    length, half = episodes * process.horizon, hidden // 2
    weights = {"discount": discount, "entropy": entropy}
    if learner == "rl2":
        actor = qs.RL2(process, hidden=hidden, timescale=length, **weights)
    else:
        blocks = (half, (half // 2, half)) * 2
        actor = qs.SNAILPolicy(
            process, length=length, width=half, blocks=blocks, reach=2, **weights
        )
    trials = qs.tasks.Rollouts(process, actor, episodes=episodes, trial=True)
    optimizer = qs.training.MultiEpoch(
        torch.optim.Adam(actor.parameters(), lr), 4, minibatches=4
    )
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
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=500),
        validate_every=max(1, steps // 15),
        n_validation_tasks=500,
    )
