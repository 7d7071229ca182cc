"""What a policy's net says of an action: one of several, or real numbers."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from quickstudy.environments.environment import Environment, categorical, normal


class ActionDistribution(ABC):
    """How actions (A,) are drawn from what a net says, rows of `outputs` numbers; pure
    functions, with any axes in front."""

    def __init__(self, outputs: int):
        self.outputs = outputs

    @abstractmethod
    def draw(self, says: Tensor, noise: Tensor) -> Tensor:
        """An action (A,), from uniform numbers (A,)."""

    @abstractmethod
    def log_prob(self, says: Tensor, action: Tensor) -> Tensor:
        """The logarithm of its probability, or density (...), in nats."""

    @abstractmethod
    def entropy(self, says: Tensor) -> Tensor:
        """Of the distribution (...), in nats."""

    @abstractmethod
    def divergence(self, says: Tensor, other: Tensor) -> Tensor:
        """KL(p || q) (...), in nats: from p, what `says` says, to q, what `other` says."""


class Categorical(ActionDistribution):
    """One of A actions, as a one-hot row; the net says logits (A,)."""

    def draw(self, says: Tensor, noise: Tensor) -> Tensor:
        """A one-hot row."""
        return categorical(says, noise)

    def log_prob(self, says: Tensor, action: Tensor) -> Tensor:
        """Of the action that is 1."""
        return (says.log_softmax(-1) * action).sum(-1)

    def entropy(self, says: Tensor) -> Tensor:
        """At most log A."""
        return -(says.softmax(-1) * says.log_softmax(-1)).sum(-1)

    def divergence(self, says: Tensor, other: Tensor) -> Tensor:
        """Sum of p log(p / q)."""
        return (says.softmax(-1) * (says.log_softmax(-1) - other.log_softmax(-1))).sum(-1)


class DiagonalGaussian(ActionDistribution):
    """Independent normal numbers; the net says means and logarithms of deviations (2A,)."""

    def draw(self, says: Tensor, noise: Tensor) -> Tensor:
        """Real numbers."""
        mean, log_deviation = says.chunk(2, -1)
        return mean + log_deviation.exp() * normal(noise)

    def log_prob(self, says: Tensor, action: Tensor) -> Tensor:
        """Log-density."""
        mean, log_deviation = says.chunk(2, -1)
        z = (action - mean) * torch.exp(-log_deviation)
        return -(0.5 * z.square() + log_deviation + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, says: Tensor) -> Tensor:
        """Differential entropy."""
        _, log_deviation = says.chunk(2, -1)
        return (log_deviation + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def divergence(self, says: Tensor, other: Tensor) -> Tensor:
        """In closed form, summed over the numbers."""
        (mean, log_deviation), (to, wide) = says.chunk(2, -1), other.chunk(2, -1)
        squares = (2 * (log_deviation - wide)).exp() + ((mean - to) * (-wide).exp()).square()
        return (wide - log_deviation + 0.5 * (squares - 1)).sum(-1)


def action_distribution(environment: Environment) -> ActionDistribution:
    """The kind of actions that an environment takes."""
    size = environment.actions
    return Categorical(size) if environment.discrete else DiagonalGaussian(2 * size)
