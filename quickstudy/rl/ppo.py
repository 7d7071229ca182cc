"""Proximal policy optimisation, PPO (Schulman et al., 2017, arXiv:1707.06347), on trials."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.criteria import weighted_mean
from quickstudy.environments.actions import ActionDistribution
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.rl.advantages import clipped_surrogate, gae
from quickstudy.rl.trials import flatten_episodes, real_steps_first

Schedule: TypeAlias = Callable[[int], float]
"""A setting that changes in training: a function of the number of meta-steps done."""


class StepRecord(NamedTuple):
    """What the loss needs of a step: the policy's input and its outputs.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=2)
        >>> trials = qs.tasks.Rollouts(bandit, qs.RL2(bandit, hidden=4), episodes=5, trial=True)
        >>> trials.sample(3, torch.Generator()).query.extras.dist_params.shape
        torch.Size([3, 5, 1, 2])
    """

    policy_input: PolicyInput
    dist_params: Tensor  # of the action, see `environments.ActionDistribution`
    normalized_value: Tensor  # ()  see `ppo`


class PPOSettings(NamedTuple):
    """The settings of `ppo`.

    Examples:
        >>> schedules = 0.99, 0.3, 0.2, 0.5, lambda step: 0.1 if step < 10 else 0.01
        >>> PPOSettings.at_step(50, schedules).entropy_coef
        0.01
    """

    discount: float  # γ, of the rewards of a whole trial
    gae_lambda: float  # λ in [0, 1], see `advantages.gae`
    clip: float  # ε, see `advantages.clipped_surrogate`
    value_coef: float  # weight of the squared error of normalised values
    entropy_coef: float  # weight of the entropy bonus

    @classmethod
    def at_step(cls, step: int, schedules: Iterable[float | Schedule]) -> Self:
        """Return settings after `step` meta-steps: numbers, and schedules at that step."""
        return cls(*(value(step) if callable(value) else value for value in schedules))


def ppo(
    actions: ActionDistribution,
    dist_params: Tensor,
    normalized_value: Tensor,
    trial: Episodes,
    settings: PPOSettings,
) -> Tensor:
    """The PPO loss () of one trial: clipped surrogate, value loss and entropy bonus, averaged
    over the real steps.

    The critic predicts a *normalised* value: the value divided by the discounted number of
    steps that are left in the trial. So the net need not count the steps. A trial counts as one
    episode, so that what an early episode reveals is credited in later ones.

    Args:
        actions: the distribution that `dist_params` parametrise.
        dist_params: (N, ·) of the current policy, at the steps of `flatten_episodes`.
        normalized_value: (N,) of the current critic, at the same steps.
        trial: the episodes (E, H); `extras` are the `StepRecord` of the policy that acted.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=2)
        >>> learner = qs.RL2(bandit, hidden=4)
        >>> trials = qs.tasks.Rollouts(bandit, learner, episodes=5, trial=True)
        >>> learner(trials.sample(3, torch.Generator().manual_seed(0))).shape
        torch.Size([3])
    """
    discount, gae_lambda, clip, value_coef, entropy_coef = settings
    steps = flatten_episodes(trial)
    old: StepRecord = steps.extras
    steps_left = _discounted_steps_left(trial, discount)  # (N,)
    value = old.normalized_value * steps_left * steps.weight
    advantage = gae(steps.reward, value, discount=discount, gae_lambda=gae_lambda)
    log_prob = actions.log_prob(dist_params, steps.action)
    log_ratio = log_prob - actions.log_prob(old.dist_params, steps.action)
    loss = (
        -clipped_surrogate(log_ratio, advantage, clip)
        + value_coef * (normalized_value - (value + advantage) / steps_left).square()
        - entropy_coef * actions.entropy(dist_params)
    )
    return weighted_mean(loss, steps.weight)


def _discounted_steps_left(trial: Episodes, discount: float) -> Tensor:
    """The largest number of steps (N,) that can be left of a trial (E, H) before each step, the
    step itself included, the k-th counting γ^k; in the order of `flatten_episodes`."""
    weights = discount ** torch.arange(trial.reward.numel(), device=trial.reward.device)
    return weights.to(trial.reward).cumsum(0).flip(0)[real_steps_first(trial)]
