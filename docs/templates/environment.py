"""NAME OF THE ENVIRONMENT: a corridor with a goal at an unknown end."""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace, one_hot

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class Corridor(Environment):
    """A corridor (Authors, year, arXiv:0000.00000, section 0). A task is the goal's cell (),
    the first or the last of the corridor.

    An episode begins in the middle and ends at the goal, which pays 1. The observation is the
    agent's cell, as a one-hot row. Actions are left and right.

    Args:
        cells: The length of the corridor, an odd number.
        horizon: H.

    Raises:
        ValueError: The corridor has no middle.

    Examples:
        >>> corridor = Corridor(cells=3)
        >>> noise, right = torch.zeros(1), torch.tensor([0.0, 1.0])
        >>> state, observation = corridor.reset(torch.tensor(2), noise)
        >>> _, observation, reward, done = corridor.step(torch.tensor(2), state, right, noise)
        >>> observation.tolist(), reward.item(), done.item()
        ([0.0, 0.0, 1.0], 1.0, 1.0)
    """

    action_size, discrete, noise_size, can_terminate = 2, True, 1, True

    def __init__(self, cells: int = 7, *, horizon: int = 10):
        if cells < 3 or cells % 2 == 0:
            raise ValueError(f"cells={cells}: give an odd number of at least 3.")
        self.cells, self.horizon, self.observation_size = cells, horizon, cells

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Return goals (T,), on the device of the generator."""
        device = generator.device
        last = torch.randint(2, (size,), generator=generator, device=device)
        return last * (self.cells - 1)

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle cell () and its observation (O,)."""
        cell = torch.full_like(task, self.cells // 2)
        return cell, one_hot(cell, self.cells, noise.dtype)

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise.

        Write a function of one task: no task axis, no Python `if` on values, no assignment to
        `self`.
        """
        move = 2 * action.argmax(-1) - 1
        cell = (state + move).clamp(0, self.cells - 1)
        reward = (cell == task).to(noise.dtype)
        return cell, one_hot(cell, self.cells, noise.dtype), reward, reward

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """Return the cells as points of the plane, for the report's figure of paths."""
        rows = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)

        def point(cell: Tensor) -> Tensor:
            return torch.stack([cell, torch.zeros_like(cell)], -1).to(rows.dtype)

        return PlanarTrace(point(rows.argmax(-1)), point(task), rows.new_zeros(0, 2))
