"""Sine waves (Finn, Abbeel & Levine, 2017, arXiv:1703.03400, section 5.1)."""

import torch
from torch import Generator

from quickstudy.tasks.functions import Function, FunctionTasks, Range


class Sinusoid(FunctionTasks):
    """A task is one wave, `y = amplitude * sin(x - phase)`, without noise.

    Amplitude, phase and inputs are uniform in the ranges (lowest, highest).

    Args:
        shots: support examples per task.
        queries: query examples per task.
        amplitude: range of amplitudes.
        phase: range of phases, in radians.
        x: range of inputs.
        grid: spread the queries evenly over `x`, both ends included, instead of drawing them.
            The usual test has 100 such queries.

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
        amplitude: Range = (0.1, 5.0),
        phase: Range = (0.0, torch.pi),
        x: Range = (-5.0, 5.0),
        grid: bool = False,
    ):
        super().__init__(shots, queries, x, grid, amplitude=amplitude, phase=phase)

    def draw(self, n_tasks: int, generator: Generator) -> Function:
        """Draw a wave for every task."""
        amplitude, phase = self.parameters(n_tasks, generator)
        return lambda x: amplitude * torch.sin(x - phase)
