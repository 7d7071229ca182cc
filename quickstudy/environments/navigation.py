"""A point in the plane that moves to a hidden goal."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace, uniform

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class _Plane(Environment):
    observation_size, action_size, discrete, noise_size = 2, 2, False, 1

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin at the origin."""
        position = torch.zeros_like(task)
        return position, position

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        return position, position, *self._reward_and_done(position - task)

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """Return the positions, for pictures."""
        path = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)
        return PlanarTrace(path, task, task.new_zeros(0, 2))

    @abstractmethod
    def _reward_and_done(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The reward () and `done` (), from the offset of the position from the goal (2,)."""


class Navigation2D(_Plane):
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

    def __init__(self, *, squared: bool = False, horizon: int = 100):
        self.squared, self.horizon = squared, horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample goals (T, 2)."""
        return uniform((-0.5, 0.5), (size, 2), generator)

    def _reward_and_done(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        squares = offset.square().sum(-1)
        reward = -squares if self.squared else -squares.sqrt()
        return reward, (offset.abs() < 0.01).all(-1).to(reward.dtype)


class PointRobot(_Plane):
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

    can_terminate = False

    def __init__(self, *, horizon: int = 20):
        self.horizon = horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample goals (T, 2), at uniform angles."""
        angle = uniform((0.0, torch.pi), (size,), generator)
        return torch.stack([angle.cos(), angle.sin()], -1)

    def _reward_and_done(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        reward = -offset.square().sum(-1).sqrt()
        return reward, torch.zeros_like(reward)


def near_goal(reward: Tensor, radius: float = 0.2) -> Tensor:
    """Return sparse rewards from rewards that are minus the distance: 1 minus the distance
    within `radius` of the goal, else 0.

    Examples:
        >>> near_goal(torch.tensor([-0.1, -1.0]))
        tensor([0.9000, 0.0000])
    """
    return torch.where(reward >= -radius, 1 + reward, 0)
