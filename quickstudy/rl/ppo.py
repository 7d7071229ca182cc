"""Trials: several episodes of one task, one after the other, in which a policy learns by its
memory; and how it is trained."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.tree import tree_map
from quickstudy.environments.actions import ActionDistribution
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.rl.advantages import clipped, gae

Schedule: TypeAlias = Callable[[int], float]
"""A number that changes in training: a function of the meta-steps that are done."""


class Moment(NamedTuple):
    """What training needs of a step: what the policy was told, and what it said."""

    percept: PolicyInput
    says: Tensor  # of the action, see `environments.ActionDistribution`
    rate: Tensor  # ()  what it expected a step to pay from here on, see `ppo`


def ppo(
    actions: ActionDistribution,
    says: Tensor,
    rate: Tensor,
    trial: Episodes,
    *,
    discount: float,
    decay: float,
    clip: float,
    value_weight: float,
    entropy_weight: float,
) -> Tensor:
    """What PPO makes small in a trial, a mean over its steps, with values and entropy; of a
    policy that says `says` (N, ·) and expects `rate` (N,) at the steps `in_order`.

    A rate is what a step will pay from here on, in the discounted mean of all steps that are
    left of the trial, so that a net need not count them; a value is the rate times their
    discounted number. The trial is one episode to the advantages: what an episode taught counts
    in later ones.
    """
    seen = in_order(trial)
    then: Moment = seen.extras
    left = _discounted_steps_left(trial, discount)
    expected = then.rate * left * seen.weight
    advantage = gae(seen.reward, expected, discount=discount, decay=decay)
    likelier = actions.log_prob(says, seen.action)
    likelier = likelier - actions.log_prob(then.says, seen.action)
    each = (
        -clipped(likelier, advantage, clip)
        + value_weight * (rate - (expected + advantage) / left).square()
        - entropy_weight * actions.entropy(says)
    )
    return weighted_mean(each, seen.weight)


def at(done: int, settings: Mapping[str, float | Schedule]) -> dict[str, float]:
    """Settings after `done` meta-steps: numbers, and functions of these steps, as numbers."""
    return {k: value(done) if callable(value) else value for k, value in settings.items()}


def _discounted_steps_left(trial: Episodes, discount: float) -> Tensor:
    """Of a trial (E, H), the most that can be left before each step, itself among them, where
    the k-th counts γ^k; as `in_order`."""
    weights = discount ** torch.arange(trial.reward.numel(), device=trial.reward.device)
    left = weights.to(trial.reward).cumsum(0).flip(0)
    return left[_order(trial)]


def told(percepts: PolicyInput) -> Tensor:
    """What a net is fed, (N, O + A + 2), of percepts of N steps."""
    now, last, paid, done = percepts
    return torch.cat([now, last, paid[:, None], done[:, None]], -1)


def in_order(episodes: Episodes) -> Episodes:
    """The steps of episodes (E, H) one after the other (E · H,), and then all padding, so that
    whoever goes through them need not step over it."""
    order = _order(episodes)
    return tree_map(lambda leaf: leaf.flatten(0, 1)[order], episodes)


def _order(episodes: Episodes) -> Tensor:
    return (1 - episodes.weight.flatten()).argsort(stable=True)
