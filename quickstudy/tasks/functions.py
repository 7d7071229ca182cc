"""Lines and parabolas; with sine waves, a distribution of several modes.

The ranges are those of the code of Vuorio, Sun, Hu & Lim (2019, arXiv:1910.13616), section 5.1.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

Range: TypeAlias = tuple[float, float]  # lowest, highest
Function: TypeAlias = Callable[[Tensor], Tensor]  # x (T, N, 1) -> y (T, N, 1)


class FunctionTasks(TaskDistribution):
    """Regression tasks, each a random function without noise, observed at uniform inputs.

    Args:
        shots: support examples per task.
        queries: query examples per task.
        x: lowest and highest input.
        grid: spread the queries evenly over `x`, both ends included, instead of drawing them.
        ranges: lowest and highest value of every parameter, for the card.

    Raises:
        ValueError: no shots or no queries.

    Examples:
        >>> import quickstudy as qs
        >>> isinstance(qs.tasks.Line(), FunctionTasks)
        True
    """

    def __init__(self, shots: int, queries: int, x: Range, grid: bool, **ranges: Range):
        if shots < 1 or queries < 1:
            raise ValueError(
                f"A task of {shots} shots and {queries} queries teaches or asks nothing: give "
                "at least 1 of each."
            )
        self.shots, self.queries, self.grid = shots, queries, grid
        self.x, self.ranges = x, ranges

    @abstractmethod
    def draw(self, n_tasks: int, generator: Generator) -> Function:
        """Draw a function for every task."""

    def parameters(self, n_tasks: int, generator: Generator) -> list[Tensor]:
        """Draw every parameter (T, 1, 1) uniformly from its range."""
        return [_uniform(bounds, (n_tasks, 1, 1), generator) for bounds in self.ranges.values()]

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` functions: x and y (T, N, 1)."""
        function = self.draw(n_tasks, generator)
        support = _uniform(self.x, (n_tasks, self.shots, 1), generator)
        if self.grid:
            query = torch.linspace(*self.x, self.queries)[:, None].repeat(n_tasks, 1, 1)
        else:
            query = _uniform(self.x, (n_tasks, self.queries, 1), generator)
        return Task(
            *(Examples(x, function(x), torch.ones(x.shape[:2])) for x in (support, query))
        )

    def card(self) -> dict[str, Json]:
        """Return the parameters."""
        return {
            **super().card(),
            "shots": self.shots,
            "queries": self.queries,
            "grid": self.grid,
            **{name: list(bounds) for name, bounds in self.ranges.items()},
            "x": list(self.x),
        }


class Line(FunctionTasks):
    """A task is one line, `y = slope * x + intercept`, without noise.

    Slope, intercept and inputs are uniform in the ranges (lowest, highest).

    Args:
        shots: support examples per task.
        queries: query examples per task.
        slope: range of slopes.
        intercept: range of intercepts.
        x: range of inputs.
        grid: spread the queries evenly over `x`, both ends included, instead of drawing them.

    Raises:
        ValueError: no shots or no queries.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> task = qs.tasks.Line(shots=3, slope=(2, 2), intercept=(1, 1)).sample(
        ...     1, torch.Generator().manual_seed(0)
        ... )
        >>> torch.allclose(task.support.y, 2 * task.support.x + 1)
        True
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
        super().__init__(shots, queries, x, grid, slope=slope, intercept=intercept)

    def draw(self, n_tasks: int, generator: Generator) -> Function:
        """Draw a line for every task."""
        slope, intercept = self.parameters(n_tasks, generator)
        return lambda x: slope * x + intercept


class Parabola(FunctionTasks):
    """A task is one parabola, `y = curvature * (x - centre)**2 + height`, without noise.

    Curvature, centre, height and inputs are uniform in the ranges (lowest, highest). The
    curvature is positive or negative with equal probability.

    Args:
        shots: support examples per task.
        queries: query examples per task.
        curvature: range of absolute curvatures.
        centre: range of the turning point.
        height: range of y at the centre.
        x: range of inputs.
        grid: spread the queries evenly over `x`, both ends included, instead of drawing them.

    Raises:
        ValueError: no shots or no queries.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> qs.tasks.Parabola(5).sample(2, torch.Generator().manual_seed(0)).support.y.shape
        torch.Size([2, 5, 1])
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
        super().__init__(
            shots, queries, x, grid, curvature=curvature, centre=centre, height=height
        )

    def draw(self, n_tasks: int, generator: Generator) -> Function:
        """Draw a parabola for every task."""
        sign = 2 * torch.randint(2, (n_tasks, 1, 1), generator=generator) - 1
        curvature, centre, height = self.parameters(n_tasks, generator)
        return lambda x: sign * curvature * (x - centre).square() + height


def _uniform(bounds: Range, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.empty(shape).uniform_(*bounds, generator=generator)
