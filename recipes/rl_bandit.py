"""Bernoulli bandits by RL² (Duan et al., 2016, arXiv:1611.02779, section 3.1, table 1) or by
the SNAIL policy (Mishra et al., 2018, arXiv:1707.03141, section 5.2, table 3).

A task is a bandit whose arms pay with probabilities drawn uniformly from [0, 1], an episode is
one pull, and a trial is all pulls of one bandit. What counts is the total reward of a trial, on
10,000 bandits that were never seen (in the papers 1,000). Of 10 pulls of 5 arms, at random, one
earns 5.0 and the published RL² 6.7, as the best classical agents do: here UCB1 6.67 and Gittins
6.68 (± 0.04; see `benchmarks/results/bandits.json`, for other arms and pulls as well).

As in the papers: a discount of 0.99 and, of RL², advantages that decay by 0.3. Differs: a GRU
of 64, not 256, that begins with units of long memory, or filters, keys and values of 16, not
32; Adam on PPO's objective, 4 times over each batch, not TRPO; batches of about 5,000 pulls
where the papers have 250,000, so that 3,000 of them have 6 % of the pulls of their 1,000; the
rate falls by a cosine. Trials of more than 20 pulls have 600 batches of 256 trials, each 4
times in 4 parts, which are as many pulls in all when a trial has 100. They look ahead little at
first, by a discount of 0.95, with entropy that counts 0.05 (elsewhere 0.01), and far after a
third of the batches, by a discount of 0.99, advantages that decay by 0.9 and entropy of 0.02.
With the settings of short trials, a policy that pulls 100 times settled on one arm for all
bandits before it had learned to look at what was paid.
The result of 100 pulls of 10 arms is of a GRU of 128 (`--hidden 128`), which earns a little
more.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch

import quickstudy as qs
from quickstudy.environments import BernoulliBandit
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "rl_bandit_{learner}_{arms}_arms_{pulls}_pulls"
ROW = "new bandits"
PAPER = {
    "rl_bandit_rl2_5_arms_10_pulls": {ROW: {"total reward": 6.7}},
    "rl_bandit_rl2_10_arms_10_pulls": {ROW: {"total reward": 6.7}},
    "rl_bandit_rl2_5_arms_100_pulls": {ROW: {"total reward": 78.7}},
    "rl_bandit_rl2_10_arms_100_pulls": {ROW: {"total reward": 83.5}},
    "rl_bandit_snail_5_arms_10_pulls": {ROW: {"total reward": 6.6, "interval": 0.1}},
    "rl_bandit_snail_10_arms_10_pulls": {ROW: {"total reward": 6.7, "interval": 0.1}},
    "rl_bandit_snail_5_arms_100_pulls": {ROW: {"total reward": 79.1, "interval": 1.0}},
    "rl_bandit_snail_10_arms_100_pulls": {ROW: {"total reward": 83.5, "interval": 0.8}},
}
LEARNERS: dict[str, str] = {"rl2": "RL²", "snail": "SNAIL policy"}
Name = Literal["rl2", "snail"]


def recipe(
    *,
    learner: Name = "rl2",
    arms: int = 5,
    pulls: int = 10,
    steps: int | None = None,
    meta_batch_size: int | None = None,
    hidden: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm.
        arms: arms per bandit.
        pulls: pulls per trial.
        steps: training steps (default: 3,000; more than 20 pulls: 600).
        meta_batch_size: trials per step (default: 5,120 / pulls; more than 20 pulls: 256).
        hidden: units of the GRU; SNAIL has a quarter of them.
        lr: learning rate of Adam at the start.
        seed: seed of initial parameters and training tasks.
    """
    if learner not in get_args(Name):
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(get_args(Name))}.")
    bandit, few, long = BernoulliBandit(arms), hidden // 4, pulls > 20
    if steps is None:
        steps = 600 if long else 3000
    if meta_batch_size is None:
        meta_batch_size = 256 if long else 5120 // pulls
    credit: dict[str, Any] = {}
    if long:
        ends = steps // 3
        credit["discount"] = lambda done: 0.95 if done < ends else 0.99
        credit["gae_lambda"] = lambda done: 0.3 if done < ends else 0.9
        credit["entropy_coef"] = lambda done: 0.05 if done < ends else 0.02
    if learner == "rl2":
        actor = qs.RL2(bandit, hidden=hidden, timescale=pulls, **credit)
    else:
        blocks = (few, few, (few, few))
        actor = qs.SNAILPolicy(bandit, length=pulls, width=few, blocks=blocks, **credit)
    trials = qs.tasks.Rollouts(bandit, actor, episodes=pulls, trial=True)
    optimizer = qs.training.MultiEpoch(
        torch.optim.Adam(actor.parameters(), lr), 4, minibatches=4 if long else 1
    )
    return Experiment(
        actor,
        trials,
        trials,
        {
            ROW: Benchmark(
                trials,
                n_tasks=10_000,
                meta_batch_size=500,
                evaluate_fn=qs.evaluation.evaluate_rollouts,
            )
        },
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=1.0,
        evaluate_fn=partial(qs.evaluation.evaluate_rollouts, meta_batch_size=1000),
        validate_every=max(1, steps // 15),
        n_validation_tasks=2000,
    )
