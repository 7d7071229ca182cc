"""Bernoulli bandits by RL² (Duan et al., 2016, arXiv:1611.02779, section 3.1, table 1).

A task is a bandit whose arms pay with probabilities drawn uniformly from [0, 1], an episode is
one pull, and a trial is all pulls of one bandit. What counts is the total reward of a trial, on
1,000 bandits that were never seen. Of 10 pulls of 5 arms, at random, one earns 5.0 and the
published RL² 6.7, as the best classical agents do: here UCB1 6.67 and Gittins 6.68 (of 10,000
bandits, ± 0.04; see `benchmarks/results/bandits.json`, for other arms and pulls as well).

As in the paper: a discount of 0.99 and advantages that decay by 0.3. Differs: a GRU of 64, not
256; Adam on PPO's objective, 4 times over each batch, not TRPO; batches of 512 trials (5,120
pulls) where the paper has 250,000 pulls, so that 3,000 of them have 6 % of the pulls of its
1,000; the rate falls by a cosine.
"""

from functools import partial

import torch

import quickstudy as qs
from quickstudy.environments import BernoulliBandit
from quickstudy.recipe import Experiment, Test

RESULT = "rl_bandit_{arms}_arms_{pulls}_pulls"
ROW = "new bandits"
PAPER = {
    "rl_bandit_5_arms_10_pulls": {ROW: {"total reward": 6.7}},
    "rl_bandit_10_arms_10_pulls": {ROW: {"total reward": 6.7}},
    "rl_bandit_5_arms_100_pulls": {ROW: {"total reward": 78.7}},
    "rl_bandit_10_arms_100_pulls": {ROW: {"total reward": 83.5}},
}


def recipe(
    *,
    arms: int = 5,
    pulls: int = 10,
    steps: int = 3000,
    size: int = 512,
    hidden: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
) -> Experiment:
    bandit = BernoulliBandit(arms)
    learner = qs.RL2(bandit, hidden=hidden)
    trials = qs.Rollouts(bandit, learner, episodes=pulls, trial=True)
    optimizer = qs.Epochs(torch.optim.Adam(learner.parameters(), lr), 4)
    return Experiment(
        learner,
        trials,
        trials,
        {ROW: Test(trials, count=1000, size=1000, judge=qs.evaluate_rollouts)},
        optimizer,
        steps,
        size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=1.0,
        judge=partial(qs.evaluate_rollouts, size=2000),
        validate=max(1, steps // 15),
        validation_count=2000,
    )
