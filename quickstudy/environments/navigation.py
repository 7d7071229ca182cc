"""A point to be moved to a goal in the plane that is not seen."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class _Plane(Environment):
    observation_size, action_size, discrete, noise_size = 2, 2, False, 1

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The origin."""
        position = torch.zeros_like(task)
        return position, position

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """What is seen, to be drawn."""
        path = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)
        return PlanarTrace(path, task, task.new_zeros(0, 2))


class Navigation2D(_Plane):
    """2-D navigation (Finn, Abbeel & Levine, 2017, arXiv:1703.03400, section 5.3). A task is
    the goal (2,), uniform in [-0.5, 0.5]².

    An episode begins at the origin. What is seen is the position, an action is the velocity,
    clipped to ±0.1 in each direction, and the episode ends where the point is within 0.01 of
    the goal in both.

    Differs from the paper: the reward is minus the distance, as in the code that the published
    returns (about -20 after adaptation) were measured with; the text says minus the squared
    distance.

    Args:
        squared: the reward is as in the paper's text.
        horizon: H.
    """

    def __init__(self, *, squared: bool = False, horizon: int = 100):
        self.squared, self.horizon = squared, horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Goals (T, 2)."""
        return torch.rand(size, 2, generator=generator, device=generator.device) - 0.5

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moves, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        away = position - task
        squares = away.square().sum(-1)
        reward = -squares if self.squared else -squares.sqrt()
        return position, position, reward, (away.abs() < 0.01).all(-1).to(reward.dtype)


class PointRobot(_Plane):
    """A goal on the half circle of radius 1 above the origin (Rakelly et al., 2019,
    arXiv:1903.08254, section 6.3). A task is the goal (2,).

    An episode begins at the origin and never ends by itself. What is seen is the position, an
    action is the velocity, clipped to ±0.1 in each direction, and the reward minus the
    distance; `near_goal` makes the sparse one of it.
    """

    can_terminate = False

    def __init__(self, *, horizon: int = 20):
        self.horizon = horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Goals (T, 2), at uniform angles."""
        angle = math.pi * torch.rand(size, generator=generator, device=generator.device)
        return torch.stack([angle.cos(), angle.sin()], -1)

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moves, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        reward = -(position - task).square().sum(-1).sqrt()
        return position, position, reward, torch.zeros_like(reward)


def near_goal(reward: Tensor, radius: float = 0.2) -> Tensor:
    """What is paid where only the surroundings of a goal pay, of rewards that are minus the
    distance: 1 less the distance within `radius`, else 0."""
    return torch.where(reward >= -radius, 1 + reward, 0)
