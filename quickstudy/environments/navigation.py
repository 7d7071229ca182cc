"""A point in the plane that moves to a hidden goal."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class Navigation2D(Environment):
    """2-D navigation (Finn, Abbeel & Levine, 2017, arXiv:1703.03400, section 5.3). A task is
    the goal (2,), uniform in [-0.5, 0.5]².

    An episode begins at the origin. An observation is the position. An action is the velocity,
    clipped to ±0.1 in each direction. The episode ends within 0.01 of the goal in both
    directions.

    Differs from the paper: the reward is minus the distance, as in the authors' code, which
    measured the published returns (about -20 after adaptation). In the paper it is minus the
    squared distance.

    Args:
        squared: whether the reward is that of the paper's text.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> plane, goal = qs.environments.Navigation2D(), torch.tensor([0.1, 0.0])
        >>> start, _ = plane.reset(goal, torch.zeros(1))
        >>> action = torch.tensor([9.0, 0.0])  # clipped to 0.1
        >>> _, observation, _, done = plane.step(goal, start, action, torch.zeros(1))
        >>> observation, done
        (tensor([0.1000, 0.0000]), tensor(1.))
    """

    observation_size, action_size, discrete, noise_size = 2, 2, False, 1

    def __init__(self, *, squared: bool = False, horizon: int = 100):
        self.squared, self.horizon = squared, horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample goals (T, 2)."""
        return torch.rand(size, 2, generator=generator, device=generator.device) - 0.5

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin at the origin."""
        position = torch.zeros_like(task)
        return position, position

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        offset = position - task
        squares = offset.square().sum(-1)
        reward = -squares if self.squared else -squares.sqrt()
        done = (offset.abs() < 0.01).all(-1).to(reward.dtype)
        return position, position, reward, done

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """Return the positions, for pictures."""
        return _places(task, episodes)


class PointRobot(Environment):
    """A goal on the half circle of radius 1 above the origin (Rakelly et al., 2019,
    arXiv:1903.08254, section 6.3). A task is the goal (2,).

    An episode begins at the origin and never ends by itself. An observation is the position. An
    action is the velocity, clipped to ±0.1 in each direction. The reward is minus the distance;
    `near_goal` turns it into the sparse reward.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> plane, goal = qs.environments.PointRobot(), torch.tensor([0.0, 1.0])
        >>> start, _ = plane.reset(goal, torch.zeros(1))
        >>> _, _, reward, _ = plane.step(goal, start, torch.tensor([0.0, 0.1]), torch.zeros(1))
        >>> reward
        tensor(-0.9000)
    """

    observation_size, action_size, discrete, noise_size, can_terminate = 2, 2, False, 1, False

    def __init__(self, *, horizon: int = 20):
        self.horizon = horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample goals (T, 2), at uniform angles."""
        angle = math.pi * torch.rand(size, generator=generator, device=generator.device)
        return torch.stack([angle.cos(), angle.sin()], -1)

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin at the origin."""
        position = torch.zeros_like(task)
        return position, position

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        reward = -(position - task).square().sum(-1).sqrt()
        return position, position, reward, torch.zeros_like(reward)

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """Return the positions, for pictures."""
        return _places(task, episodes)


def near_goal(reward: Tensor, radius: float = 0.2) -> Tensor:
    """Return sparse rewards from rewards that are minus the distance: 1 minus the distance
    within `radius` of the goal, else 0.

    Examples:
        >>> near_goal(torch.tensor([-0.1, -1.0]))
        tensor([0.9000, 0.0000])
    """
    return torch.where(reward >= -radius, 1 + reward, 0)


def _places(goal: Tensor, episodes: "Episodes") -> PlanarTrace:
    path = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)
    return PlanarTrace(path, goal, goal.new_zeros(0, 2))
