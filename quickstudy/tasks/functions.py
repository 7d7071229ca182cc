"""Lines and parabolas; with sine waves, a distribution of several modes.

The ranges are those of the code of Vuorio, Sun, Hu & Lim (2019, arXiv:1910.13616), section 5.1.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

Range = tuple[float, float]  # lowest, highest


class Line(TaskDistribution):
    """A task is one line, `y = slope * x + intercept`, without noise.

    Slope, intercept and inputs are uniform within the given (lowest, highest).

    Args:
        shots: support examples of a task.
        queries: query examples of a task.
        slope: of the lines.
        intercept: of the lines.
        x: where inputs lie.
        grid: spreads the queries evenly over `x`, both ends included, instead of drawing them.

    Raises:
        ValueError: no shots or no queries.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        slope: Range = (-3.0, 3.0),
        intercept: Range = (-3.0, 3.0),
        x: Range = (-5.0, 5.0),
        grid: bool = False,
    ):
        _check(shots, queries)
        self.shots, self.queries, self.grid = shots, queries, grid
        self.slope, self.intercept, self.x = slope, intercept, x

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` lines: x and y (T, N, 1)."""
        slope = _uniform(self.slope, (n_tasks, 1, 1), generator)
        intercept = _uniform(self.intercept, (n_tasks, 1, 1), generator)
        return _points(self, lambda x: slope * x + intercept, n_tasks, generator)

    def card(self) -> dict[str, Json]:
        """The parameters."""
        return {**super().card(), **_facts(self, "slope", "intercept")}


class Parabola(TaskDistribution):
    """A task is one parabola, `y = curvature * (x - centre)**2 + height`, without noise.

    Curvature, centre, height and inputs are uniform within the given (lowest, highest), and
    the curvature's sign is a coin's.

    Args:
        shots: support examples of a task.
        queries: query examples of a task.
        curvature: of the parabolas, but for the sign.
        centre: where they turn.
        height: at the centre.
        x: where inputs lie.
        grid: spreads the queries evenly over `x`, both ends included, instead of drawing them.

    Raises:
        ValueError: no shots or no queries.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        curvature: Range = (0.02, 0.15),
        centre: Range = (-3.0, 3.0),
        height: Range = (-3.0, 3.0),
        x: Range = (-5.0, 5.0),
        grid: bool = False,
    ):
        _check(shots, queries)
        self.shots, self.queries, self.grid = shots, queries, grid
        self.curvature, self.centre, self.height, self.x = curvature, centre, height, x

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` parabolas: x and y (T, N, 1)."""
        sign = 2 * torch.randint(2, (n_tasks, 1, 1), generator=generator) - 1
        curvature = sign * _uniform(self.curvature, (n_tasks, 1, 1), generator)
        centre = _uniform(self.centre, (n_tasks, 1, 1), generator)
        height = _uniform(self.height, (n_tasks, 1, 1), generator)
        return _points(
            self, lambda x: curvature * (x - centre).square() + height, n_tasks, generator
        )

    def card(self) -> dict[str, Json]:
        """The parameters."""
        return {**super().card(), **_facts(self, "curvature", "centre", "height")}


def _check(shots: int, queries: int) -> None:
    if shots < 1 or queries < 1:
        raise ValueError(
            f"A task of {shots} shots and {queries} queries teaches or asks nothing: give at "
            "least 1 of each."
        )


def _uniform(bounds: Range, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.empty(shape).uniform_(*bounds, generator=generator)


def _points(
    tasks: Line | Parabola, y: Callable[[Tensor], Tensor], size: int, generator: Generator
) -> TaskBatch:
    """Points on the functions `y` of all tasks."""

    def examples(x: Tensor) -> Examples:
        return Examples(x, y(x), torch.ones(x.shape[:2]))

    support = examples(_uniform(tasks.x, (size, tasks.shots, 1), generator))
    if tasks.grid:
        grid = torch.linspace(*tasks.x, tasks.queries)[:, None]
        return Task(support, examples(grid.repeat(size, 1, 1)))
    return Task(support, examples(_uniform(tasks.x, (size, tasks.queries, 1), generator)))


def _facts(tasks: Line | Parabola, *ranges: str) -> dict[str, Json]:
    facts = {"shots": tasks.shots, "queries": tasks.queries, "grid": tasks.grid}
    return facts | {name: list(getattr(tasks, name)) for name in (*ranges, "x")}
