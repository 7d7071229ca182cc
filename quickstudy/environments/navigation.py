"""2-D navigation (Finn, Abbeel & Levine, 2017, arXiv:1703.03400, section 5.3)."""

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment


class Navigation2D(Environment):
    """A point in the plane, to be moved to a goal that is not seen. A task is the goal (2,),
    uniform in [-0.5, 0.5]².

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

    observations, actions, discrete, noise = 2, 2, False, 1

    def __init__(self, *, squared: bool = False, horizon: int = 100):
        self.squared, self.horizon = squared, horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Goals (T, 2)."""
        return torch.rand(size, 2, generator=generator, device=generator.device) - 0.5

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The origin."""
        position = torch.zeros_like(task)
        return position, position

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moves, without noise."""
        position = state + action.clamp(-0.1, 0.1)
        away = position - task
        squares = away.square().sum(-1)
        reward = -squares if self.squared else -squares.sqrt()
        done = (away.abs() < 0.01).all(-1).to(reward.dtype)
        return position, position, reward, done
