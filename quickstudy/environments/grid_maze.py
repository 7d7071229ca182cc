"""Mazes on a grid, for policies with a memory."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, PlanarTrace, cell_centres

if TYPE_CHECKING:
    from quickstudy.environments.rollout import Episodes


class Maze(NamedTuple):
    """One maze, with a border of walls: W = size + 2.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> maze = qs.environments.GridMaze(size=2, walls=0.0).tasks(1, torch.Generator())
        >>> maze.walls.view(4, 4)
        tensor([[1., 1., 1., 1.],
                [1., 0., 0., 1.],
                [1., 0., 0., 1.],
                [1., 1., 1., 1.]])
    """

    walls: Tensor  # (W * W,)  1 is a wall; row by row
    goal: Tensor  # ()  its cell


class GridMaze(Environment):
    """Random walls and a goal that is not observed. The episode ends at the goal.

    An observation holds the walls of a cell and the eight around it, 1 or 0. Many places look
    alike, so a policy must remember its path. Every episode of a trial begins in the same
    corner, so a policy can remember the goal. Actions are up, down, left and right. Rewards are
    those of the mazes of RL² (Duan et al., 2016, arXiv:1611.02779, section 3.3): 1 at the goal,
    -0.04 for each step, and -0.001 for a step into a wall. Every goal can be reached.

    Args:
        size: cells of a side.
        walls: the share of cells that are walls.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> maze = qs.environments.GridMaze(size=3)
        >>> task = maze.tasks(1, torch.Generator().manual_seed(0))
        >>> _, observation = maze.reset(type(task)(*(leaf[0] for leaf in task)), torch.zeros(1))
        >>> observation.view(3, 3)  # the border, and open cells
        tensor([[1., 1., 1.],
                [1., 0., 0.],
                [1., 0., 0.]])
    """

    observation_size, action_size, discrete, noise_size = 9, 4, True, 1

    def __init__(self, size: int = 5, *, walls: float = 0.3, horizon: int = 50):
        self.size, self.walls, self.horizon = size, walls, horizon

    def tasks(self, size: int, generator: Generator) -> Maze:
        """Sample mazes, as a `Maze` of tensors with axis T in front. The cells next to the
        first are open. The goal is any other cell that can be reached."""
        device = generator.device
        walls = torch.ones(size, self.size + 2, self.size + 2, device=device)
        drawn = torch.rand(size, self.size, self.size, generator=generator, device=device)
        walls[:, 1:-1, 1:-1] = (drawn < self.walls).float()
        walls[:, 1, 1] = walls[:, 1, 2] = walls[:, 2, 1] = 0
        reached = torch.zeros_like(walls)
        reached[:, 1, 1] = 1
        for _ in range(self.size**2):  # no way is longer
            around = [reached.roll(by, axis) for by in (-1, 1) for axis in (1, 2)]
            reached = torch.stack([reached, *around]).amax(0) * (1 - walls)
        reached[:, 1, 1] = 0
        return Maze(
            walls.flatten(1),
            torch.multinomial(reached.flatten(1), 1, generator=generator)[:, 0],
        )

    def reset(self, task: Maze, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin in the first corner; a state is a cell ()."""
        state = torch.full_like(task.goal, self.size + 3)
        return state, self._around(task, state)

    def step(
        self, task: Maze, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move, without noise, unless a wall is in the way."""
        width = self.size + 2
        moves = torch.tensor([-width, width, -1, 1], device=action.device)
        next_cell = state + (action * moves).sum(-1).long()
        wall = task.walls.gather(0, next_cell[None])[0]
        state = torch.where(wall > 0, state, next_cell)
        done = (state == task.goal).to(wall.dtype)
        return state, self._around(task, state), done - 0.04 - 0.001 * wall, done

    def planar_trace(self, task: Maze, episodes: "Episodes") -> PlanarTrace:
        """Return the cells as points, row by row from above, for pictures."""
        zero = episodes.reward.new_zeros(1)
        state, _ = self.reset(task, zero)
        cells = [state.expand(len(episodes.reward))]
        for actions in episodes.action.nan_to_num(0.0).unbind(1):
            cells.append(
                torch.stack(
                    [
                        self.step(task, state, action, zero)[0]
                        for state, action in zip(cells[-1], actions, strict=True)
                    ]
                )
            )
        walls = task.walls.nonzero()[:, 0]
        return PlanarTrace(
            *(cell_centres(c, self.size + 2) for c in (torch.stack(cells, 1), task.goal, walls))
        )

    def _around(self, task: Maze, state: Tensor) -> Tensor:
        near = torch.arange(-1, 2, device=state.device)
        cells = (near[:, None] * (self.size + 2) + near).flatten() + state
        return task.walls.gather(0, cells)
