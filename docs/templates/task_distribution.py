r"""NAME OF THE TASKS (Authors, year, arXiv:0000.00000, section 0).

Say what a task is. In this template a task is a line through the origin of the plane, at a
random angle, and the class of a point is its side of the line:

$$y = [\, x_1 \cos \phi + x_2 \sin \phi > 0 \,], \qquad \phi \sim U(0, 2\pi), \quad
  x \sim N(0, I)$$
"""

import torch
from torch import Generator, Tensor

from quickstudy import Examples, Task, TaskDistribution
from quickstudy.core.task import Json, TaskBatch


class HalfPlanes(TaskDistribution):
    """Two classes of points on both sides of a random line through the origin.

    Args:
        shots: support examples per task.
        queries: document every argument, with its unit and the paper's value.

    Raises:
        ValueError: no shots or no queries.

    Examples:
        >>> tasks = HalfPlanes(shots=5).sample(25, torch.Generator().manual_seed(0))
        >>> tasks.support.x.shape, tasks.support.y.shape
        (torch.Size([25, 5, 2]), torch.Size([25, 5, 2]))
    """

    def __init__(self, shots: int = 10, queries: int = 10):
        if shots < 1 or queries < 1:
            raise ValueError(f"shots={shots}, queries={queries}: give at least 1 of each.")
        self.shots, self.queries = shots, queries

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` tasks: x (T, N, 2), y (T, N, 2) one-hot, weight (T, N).

        All randomness comes from `generator`. Tasks of unequal sizes are padded with
        examples of `weight` 0.
        """
        angle = 2 * torch.pi * torch.rand(n_tasks, 1, generator=generator)
        normal = torch.stack([angle.cos(), angle.sin()], -1)  # (T, 1, 2)

        def examples(size: int) -> Examples:
            x = torch.randn(n_tasks, size, 2, generator=generator)
            side: Tensor = ((x * normal).sum(-1) > 0).long()  # (T, N)
            return Examples(x, torch.eye(2)[side], torch.ones(n_tasks, size))

        return Task(examples(self.shots), examples(self.queries))

    def card(self) -> dict[str, Json]:
        """Return every setting, as results are compared by it."""
        return {**super().card(), "shots": self.shots, "queries": self.queries}
