"""Distributions of actions, parametrised by the outputs of a policy's net."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from quickstudy.environments.environment import Environment, categorical, normal


class ActionDistribution(ABC):
    """A family of distributions of actions (A,), with parameters in rows of `outputs` numbers.
    Its methods are pure functions, with any axes in front.

    Examples:
        >>> logits = torch.tensor([0.0, 0.0])
        >>> actions = Categorical(2)
        >>> actions.log_prob(logits, torch.tensor([1.0, 0.0])).exp().item()
        0.5
    """

    def __init__(self, outputs: int):
        self.outputs = outputs

    @abstractmethod
    def sample(self, dist_params: Tensor, noise: Tensor) -> Tensor:
        """Sample an action (A,), from uniform numbers (A,)."""

    @abstractmethod
    def log_prob(self, dist_params: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability, or log-density, of an action (...), in nats."""

    @abstractmethod
    def entropy(self, dist_params: Tensor) -> Tensor:
        """Return the entropy (...), in nats."""

    @abstractmethod
    def kl_divergence(self, dist_params: Tensor, other: Tensor) -> Tensor:
        """Return KL(p || q) (...), in nats, where p has `dist_params` and q has `other`."""


class Categorical(ActionDistribution):
    """One of A actions, as a one-hot row; the parameters are logits (A,).

    Examples:
        >>> actions = Categorical(3)
        >>> actions.sample(torch.tensor([0.0, 50.0, 0.0]), torch.full((3,), 0.5)).tolist()
        [0.0, 1.0, 0.0]
    """

    def sample(self, dist_params: Tensor, noise: Tensor) -> Tensor:
        """Sample a one-hot row."""
        return categorical(dist_params, noise)

    def log_prob(self, dist_params: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability of the action that is 1."""
        return (dist_params.log_softmax(-1) * action).sum(-1)

    def entropy(self, dist_params: Tensor) -> Tensor:
        """Return the entropy, at most log A."""
        return -(dist_params.softmax(-1) * dist_params.log_softmax(-1)).sum(-1)

    def kl_divergence(self, dist_params: Tensor, other: Tensor) -> Tensor:
        """Return the sum of p log(p / q)."""
        log_p, log_q = dist_params.log_softmax(-1), other.log_softmax(-1)
        return (dist_params.softmax(-1) * (log_p - log_q)).sum(-1)


class DiagonalGaussian(ActionDistribution):
    """Independent normal numbers; the parameters are means and log standard deviations (2A,).

    Examples:
        >>> actions = DiagonalGaussian(2)
        >>> mean_and_log_std = torch.tensor([3.0, 0.0])
        >>> actions.sample(mean_and_log_std, torch.tensor([0.5])).tolist()
        [3.0]
    """

    def sample(self, dist_params: Tensor, noise: Tensor) -> Tensor:
        """Sample real numbers."""
        mean, log_std = dist_params.chunk(2, -1)
        return mean + log_std.exp() * normal(noise)

    def log_prob(self, dist_params: Tensor, action: Tensor) -> Tensor:
        """Return the log-density."""
        mean, log_std = dist_params.chunk(2, -1)
        eps = (action - mean) * torch.exp(-log_std)
        return -(0.5 * eps.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, dist_params: Tensor) -> Tensor:
        """Return the differential entropy."""
        _, log_std = dist_params.chunk(2, -1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl_divergence(self, dist_params: Tensor, other: Tensor) -> Tensor:
        """Return the closed form, summed over the numbers."""
        (mean, log_std), (other_mean, other_log_std) = (
            dist_params.chunk(2, -1),
            other.chunk(2, -1),
        )
        distance = ((mean - other_mean) * (-other_log_std).exp()).square()
        squares = (2 * (log_std - other_log_std)).exp() + distance
        return (other_log_std - log_std + 0.5 * (squares - 1)).sum(-1)


def action_distribution(environment: Environment) -> ActionDistribution:
    """Return the kind of distribution that fits the actions of an environment.

    Examples:
        >>> from quickstudy.environments import BernoulliBandit
        >>> type(action_distribution(BernoulliBandit(arms=3))).__name__
        'Categorical'
    """
    size = environment.action_size
    return Categorical(size) if environment.discrete else DiagonalGaussian(2 * size)
