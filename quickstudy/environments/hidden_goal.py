"""A hidden goal on an open grid."""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import (
    Environment,
    PlanarTrace,
    cell_centres,
    one_hot,
)

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class HiddenGoal(Environment):
    """The grid world of VariBAD (Zintgraf et al., 2020, arXiv:1910.08348, section 5.1). A task
    is the goal's cell (), any except the first corner and the three cells next to it.

    An observation is the agent's cell, as a one-hot row, without the goal. Actions are stay,
    up, down, left and right, without effect at the border. A step that ends on the goal pays 1,
    any other -0.1. The goal does not end the episode: a good policy stays there, and in the
    next episode of a trial takes the shortest path to it.

    Args:
        size: cells of a side.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> grid, goal = qs.environments.HiddenGoal(), torch.tensor(2)
        >>> right, noise = torch.eye(5)[4], torch.zeros(1)
        >>> state, _, reward, _ = grid.step(goal, torch.tensor(1), right, noise)
        >>> state.item(), reward.item()
        (2, 1.0)
    """

    action_size, discrete, noise_size, can_terminate = 5, True, 1, False

    def __init__(self, size: int = 5, *, horizon: int = 15):
        self.size, self.horizon, self.observation_size = size, horizon, size**2

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample goals (T,), cells counted row by row from above."""
        cells = torch.arange(self.size**2, device=generator.device)
        goals = cells[(cells // self.size > 1) | (cells % self.size > 1)]
        draws = torch.randint(len(goals), (size,), generator=generator, device=goals.device)
        return goals[draws]

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin in the first corner; a state is a cell ()."""
        state = torch.zeros_like(task)
        return state, one_hot(state, self.size**2, noise.dtype)

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise; no step ends the episode."""
        moves = torch.tensor([[0, -1, 1, 0, 0], [0, 0, 0, -1, 1]], device=action.device)
        row, column = ((action * moves).sum(-1).long()).unbind()
        row = (state // self.size + row).clamp(0, self.size - 1)
        state = row * self.size + (state % self.size + column).clamp(0, self.size - 1)
        reward = torch.where(state == task, 1.0, -0.1).to(noise.dtype)
        return state, one_hot(state, self.size**2, noise.dtype), reward, reward * 0

    def best_return(self, task: Tensor) -> Tensor:
        """Return the return () of an episode on the shortest path to the goal."""
        distance = task // self.size + task % self.size
        return self.horizon - 1.1 * (distance - 1)

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """Return the cells as points, for pictures."""
        seen = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)
        path, goal = (cell_centres(cell, self.size) for cell in (seen.argmax(-1), task))
        return PlanarTrace(path, goal, seen.new_zeros(0, 2))
