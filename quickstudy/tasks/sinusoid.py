"""Sine waves (Finn, Abbeel & Levine, 2017, arXiv:1703.03400, section 5.1)."""

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution


class Sinusoid(TaskDistribution):
    """A task is one wave, `y = amplitude * sin(x - phase)`, without noise.

    Amplitude, phase and inputs are uniform within the given (lowest, highest).

    Args:
        shots: support examples of a task.
        queries: query examples of a task.
        amplitude: of the waves.
        phase: of the waves, in radians.
        x: where inputs lie.
        grid: spreads the queries evenly over `x`, both ends included, instead of drawing
            them. 100 such queries are the usual test.

    Raises:
        ValueError: no shots or no queries.

    Examples:
        >>> tasks = Sinusoid(shots=5).sample(25, torch.Generator().manual_seed(0))
        >>> tasks.support.x.shape
        torch.Size([25, 5, 1])
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, torch.pi),
        x: tuple[float, float] = (-5.0, 5.0),
        grid: bool = False,
    ):
        if shots < 1 or queries < 1:
            raise ValueError(
                f"A task of {shots} shots and {queries} queries teaches or asks nothing: "
                "give at least 1 of each."
            )
        self.shots, self.queries, self.grid = shots, queries, grid
        self.amplitude, self.phase, self.x = amplitude, phase, x

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` waves: x and y (T, N, 1)."""

        def uniform(bounds: tuple[float, float], points: int) -> Tensor:
            return torch.empty(n_tasks, points, 1).uniform_(*bounds, generator=generator)

        amplitude, phase = uniform(self.amplitude, 1), uniform(self.phase, 1)

        def examples(x: Tensor) -> Examples:
            return Examples(x, amplitude * torch.sin(x - phase), torch.ones(x.shape[:2]))

        support = examples(uniform(self.x, self.shots))
        if self.grid:
            line = torch.linspace(*self.x, self.queries)[:, None]
            return Task(support, examples(line.repeat(n_tasks, 1, 1)))
        return Task(support, examples(uniform(self.x, self.queries)))

    def card(self) -> dict[str, Json]:
        """The parameters."""
        return {
            **super().card(),
            "shots": self.shots,
            "queries": self.queries,
            "grid": self.grid,
            "amplitude": list(self.amplitude),
            "phase": list(self.phase),
            "x": list(self.x),
        }
