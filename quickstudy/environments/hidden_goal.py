"""A goal to be searched on an open grid."""

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace, cell_centres, one_hot

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class HiddenGoal(Environment):
    """The grid world of VariBAD (Zintgraf et al., 2020, arXiv:1910.08348, section 5.1). A task
    is the goal's cell (), any but the corner where episodes begin and the three beside it.

    What is seen is one's own cell, as a one-hot row, and of the goal nothing. Actions are to
    stay, and up, down, left and right, without effect at the border. A step that ends on the
    goal pays 1, any other -0.1, and it is no end: who has found the goal stays there, and in
    the next episode of a trial goes there straight.

    Args:
        size: cells of a side.
        horizon: H.
    """

    action_size, discrete, noise_size, can_terminate = 5, True, 1, False

    def __init__(self, size: int = 5, *, horizon: int = 15):
        self.size, self.horizon, self.observation_size = size, horizon, size**2

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Goals (T,), cells counted row by row from above."""
        cells = torch.arange(self.size**2, device=generator.device)
        goals = cells[(cells // self.size > 1) | (cells % self.size > 1)]
        return goals[
            torch.randint(len(goals), (size,), generator=generator, device=goals.device)
        ]

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The first corner; a state is a cell ()."""
        state = torch.zeros_like(task)
        return state, one_hot(state, self.size**2, noise.dtype)

    def step(
        self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moves, without noise; never ends."""
        moves = torch.tensor([[0, -1, 1, 0, 0], [0, 0, 0, -1, 1]], device=action.device)
        row, column = ((action * moves).sum(-1).long()).unbind()
        row = (state // self.size + row).clamp(0, self.size - 1)
        state = row * self.size + (state % self.size + column).clamp(0, self.size - 1)
        reward = torch.where(state == task, 1.0, -0.1).to(noise.dtype)
        return state, one_hot(state, self.size**2, noise.dtype), reward, reward * 0

    def best_return(self, task: Tensor) -> Tensor:
        """Of an episode (), by who knows the goal and goes there straight."""
        return self.horizon - 1.1 * (task // self.size + task % self.size - 1)

    def planar_trace(self, task: Tensor, episodes: "Episodes") -> PlanarTrace:
        """The cells, to be drawn."""
        seen = torch.cat([episodes.observation[:, :1], episodes.next_observation], 1)
        return PlanarTrace(
            cell_centres(seen.argmax(-1), self.size),
            cell_centres(task, self.size),
            seen.new_zeros(0, 2),
        )
