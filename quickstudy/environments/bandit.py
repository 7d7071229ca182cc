"""Bandits: arms with random rewards; observations carry no information."""

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, normal

Step = tuple[tuple[()], Tensor, Tensor, Tensor]


class _Bandit(Environment):
    observation_size, discrete, noise_size, can_terminate = 1, True, 1, False

    def __init__(self, arms: int = 5, *, horizon: int = 1):
        if arms < 2:
            raise ValueError(f"arms={arms}: there is nothing to choose, give at least 2.")
        self.action_size, self.horizon = arms, horizon

    def reset(self, task: Tensor, noise: Tensor) -> tuple[tuple[()], Tensor]:
        """Return no state, and an observation that is always 1."""
        return (), torch.ones_like(noise)


class BernoulliBandit(_Bandit):
    """Arms with rewards of 1 or 0, whose probabilities are uniform in [0, 1] for each task, as
    in RL² (Duan et al., 2016, arXiv:1611.02779, section 3.1). A task is the probabilities (A,).

    Args:
        arms: A, 2 or more.
        horizon: pulls of an episode. In RL² a pull is an episode, and a trial has many.

    Examples:
        >>> bandit = BernoulliBandit(arms=3)
        >>> bandit.tasks(4, Generator().manual_seed(0)).shape
        torch.Size([4, 3])
    """

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample probabilities (T, A)."""
        return torch.rand(size, self.action_size, generator=generator, device=generator.device)

    def step(self, task: Tensor, state: tuple[()], action: Tensor, noise: Tensor) -> Step:
        """Reward 1 or 0."""
        reward = (noise[0] < (action * task).sum(-1)).to(task.dtype)
        return (), torch.ones_like(noise), reward, torch.zeros_like(reward)


class GaussianBandit(_Bandit):
    """Arms with normal rewards, with means from N(0, 1) for each task. A task is the
    means (A,).

    Args:
        arms: A, 2 or more.
        std: the standard deviation of an arm's rewards.
        horizon: pulls of an episode.

    Examples:
        >>> bandit, arm = GaussianBandit(arms=2), torch.tensor([0.0, 1.0])
        >>> means, noise = torch.tensor([5.0, 3.0]), torch.tensor([0.5])  # no deviation
        >>> bandit.step(means, (), arm, noise)[2].item()
        3.0
    """

    def __init__(self, arms: int = 5, *, std: float = 1.0, horizon: int = 1):
        super().__init__(arms, horizon=horizon)
        self.std = std

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample means (T, A)."""
        return torch.randn(size, self.action_size, generator=generator, device=generator.device)

    def step(self, task: Tensor, state: tuple[()], action: Tensor, noise: Tensor) -> Step:
        """Reward the arm's mean plus noise."""
        reward = (action * task).sum(-1) + self.std * normal(noise[0])
        return (), torch.ones_like(noise), reward, torch.zeros_like(reward)
