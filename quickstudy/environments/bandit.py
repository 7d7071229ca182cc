"""Bandits: arms that pay, and nothing to see."""

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, normal

Step = tuple[tuple[()], Tensor, Tensor, Tensor]


class BernoulliBandit(Environment):
    """Arms that pay 1 or 0, with probabilities drawn uniformly from [0, 1] for each task, as in
    RL² (Duan et al., 2016, arXiv:1611.02779, section 3.1). A task is the probabilities (A,).

    Args:
        arms: A, 2 or more.
        horizon: pulls of an episode. In RL² a pull is an episode, and a trial has many.
    """

    observations, discrete, noise, ends = 1, True, 1, False

    def __init__(self, arms: int = 5, *, horizon: int = 1):
        self.actions, self.horizon = _several(arms), horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Probabilities (T, A)."""
        device = generator.device
        return torch.rand(size, self.actions, generator=generator, device=device)

    def reset(self, task: Tensor, noise: Tensor) -> tuple[tuple[()], Tensor]:
        """Nothing changes; what is seen is always 1."""
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: tuple[()], action: Tensor, noise: Tensor) -> Step:
        """Pays 1 or 0."""
        reward = (noise[0] < (action * task).sum(-1)).to(task.dtype)
        return (), torch.ones_like(noise), reward, torch.zeros_like(reward)


class GaussianBandit(Environment):
    """Arms that pay normal numbers, with means drawn from N(0, 1) for each task. A task is the
    means (A,).

    Args:
        arms: A, 2 or more.
        deviation: the standard deviation of what an arm pays.
        horizon: pulls of an episode.
    """

    observations, discrete, noise, ends = 1, True, 1, False

    def __init__(self, arms: int = 5, *, deviation: float = 1.0, horizon: int = 1):
        self.actions, self.deviation, self.horizon = _several(arms), deviation, horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Means (T, A)."""
        device = generator.device
        return torch.randn(size, self.actions, generator=generator, device=device)

    def reset(self, task: Tensor, noise: Tensor) -> tuple[tuple[()], Tensor]:
        """Nothing changes; what is seen is always 1."""
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: tuple[()], action: Tensor, noise: Tensor) -> Step:
        """Pays the arm's mean and noise."""
        reward = (action * task).sum(-1) + self.deviation * normal(noise[0])
        return (), torch.ones_like(noise), reward, torch.zeros_like(reward)


def _several(arms: int) -> int:
    if arms < 2:
        raise ValueError(f"arms={arms}: there is nothing to choose, give at least 2.")
    return arms
