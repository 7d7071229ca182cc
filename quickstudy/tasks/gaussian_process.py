"""Functions drawn from Gaussian processes, the regression tasks of the neural-process papers.

The numbers are those of the code of Lee et al. (2020, arXiv:2008.02956), which Nguyen & Grover
(2022, arXiv:2207.04179) and others kept: published log-likelihoods are of these tasks.
"""

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

Range = tuple[float, float]  # lowest, highest


def rbf(gap: Tensor, length: Tensor, period: Tensor) -> Tensor:
    """Return the squared-exponential correlation of values whose inputs lie `gap` apart.

    Examples:
        >>> rbf(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0))
        tensor([1.0000, 0.6065])
    """
    return torch.exp(-0.5 * (gap / length).square())


def matern52(gap: Tensor, length: Tensor, period: Tensor) -> Tensor:
    """Return Matérn's correlation of smoothness 5/2.

    Examples:
        >>> matern52(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0))
        tensor([1.0000, 0.5240])
    """
    r = 5**0.5 * gap.abs() / length
    return (1 + r + r.square() / 3) * torch.exp(-r)


def periodic(gap: Tensor, length: Tensor, period: Tensor) -> Tensor:
    """Return the exponential of the squared sine, which repeats every `period`.

    Examples:
        >>> periodic(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(2.0))
        tensor([1.0000, 0.1353])
    """
    return torch.exp(-2 * (torch.sin(torch.pi * gap / period) / length).square())


KERNELS = {"rbf": rbf, "matern52": matern52, "periodic": periodic}


class GaussianProcess(TaskDistribution):
    """A task is one function, drawn from a Gaussian process of its own hyper-parameters and
    observed with noise at random inputs.

    Support (context) and query (target) inputs are disjoint draws. The number of context
    points is uniform within `context`, that of targets from `targets` to what is left of
    `points`. Every (lowest, highest) is drawn from uniformly, for each task.

    Args:
        kernel: "rbf", "matern52" or "periodic".
        context: fewest and most context points.
        targets: fewest target points.
        points: most points of a task, context and targets together.
        x: where inputs lie.
        length: length scale of the kernel, in units of x.
        scale: standard deviation of the function.
        period: of the periodic kernel, in units of x.
        noise: standard deviation of the noise in y; it also keeps covariances well
            conditioned.
        ragged: if False, the tasks of a batch share one number of context and of target points,
            as in the published code, and training wastes no computation. If True, every task
            has its own numbers and is padded to the largest by `weight` 0; tasks are then
            independent, as the interval of an evaluation assumes.

    Raises:
        ValueError: an unknown kernel, sizes that do not fit into `points`, or no noise.

    Examples:
        >>> import quickstudy as qs
        >>> tasks = qs.tasks.GaussianProcess("rbf", context=(5, 5))
        >>> tasks.sample(2, torch.Generator().manual_seed(0)).support.x.shape
        torch.Size([2, 5, 1])
    """

    def __init__(
        self,
        kernel: Literal["rbf", "matern52", "periodic"] = "rbf",
        *,
        context: tuple[int, int] = (3, 46),
        targets: int = 3,
        points: int = 49,
        x: Range = (-2.0, 2.0),
        length: Range = (0.1, 0.6),
        scale: Range = (0.1, 1.0),
        period: Range = (0.1, 0.5),
        noise: float = 0.02,
        ragged: bool = False,
    ):
        if kernel not in KERNELS:
            raise ValueError(f"No kernel is called {kernel!r}: use {', '.join(KERNELS)}.")
        if not 0 <= context[0] <= context[1] <= points - targets:
            raise ValueError(
                f"Context sizes {context} and at least {targets} targets do not fit into "
                f"{points} points: raise `points`, or give `context` as (fewest, most)."
            )
        if noise <= 0:
            raise ValueError(f"The noise is {noise}: give a standard deviation above 0.")
        self.kernel, self.noise, self.ragged = kernel, noise, ragged
        self.context, self.targets, self.points = context, targets, points
        self.x, self.length, self.scale, self.period = x, length, scale, period

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` functions: x and y (T, N, 1)."""
        return self._draw(n_tasks, generator)[0]

    def ceiling(self, size: int, generator: Generator) -> Tensor:
        """Return the best possible log-likelihood of each task (T,).

        It is the mean log-density, in nats, of a target of each task that `sample` draws with
        the same generator, under the posterior of the Gaussian process that made the task. A
        learner's `log_likelihood` is higher by chance only.
        """
        task, mean, scale = self._draw(size, generator)
        density = Normal(mean, scale).log_prob(task.query.y.squeeze(-1).to(mean))
        return torch.vmap(weighted_mean)(density, task.query.weight.to(mean))

    def _draw(self, size: int, generator: Generator) -> tuple[TaskBatch, Tensor, Tensor]:
        """Draw tasks, and the exact mean and standard deviation of their targets (T, Q)."""
        sizes = size if self.ragged else 1
        context = torch.randint(
            self.context[0], self.context[1] + 1, (sizes, 1), generator=generator
        )
        choices = self.points - context - self.targets + 1
        targets = self.targets + (torch.rand(sizes, 1, generator=generator) * choices).long()
        s, q = int(context.max()), int(targets.max())
        real = torch.cat([torch.arange(s) < context, torch.arange(q) < targets], -1)
        weight = real.double().expand(size, -1)[..., None]  # (T, N, 1)

        def uniform(bounds: Range, points: int = 1) -> Tensor:
            return torch.empty(size, points, 1, dtype=torch.double).uniform_(
                *bounds, generator=generator
            )

        length, scale, period = map(uniform, (self.length, self.scale, self.period))
        x = uniform(self.x, s + q)
        covariance = scale.square() * KERNELS[self.kernel](x - x.mT, length, period)
        covariance = covariance * weight * weight.mT  # padding is independent of all points
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.noise**2)
        root = torch.linalg.cholesky(covariance)
        z = torch.randn(size, s + q, 1, dtype=torch.double, generator=generator)
        y = root @ z
        # Context comes first: given the context's z, the random part of a target is its row of
        # the root right of the context.
        mean = root[:, s:, :s] @ z[:, :s]
        std = root[:, s:, s:].square().sum(-1).sqrt()

        columns = [
            column.to(torch.get_default_dtype())
            for column in (x * weight, y * weight, weight.squeeze(-1))
        ]
        task = Task(
            Examples(*(column[:, :s] for column in columns)),
            Examples(*(column[:, s:] for column in columns)),
        )
        return task, mean.squeeze(-1), std

    def card(self) -> dict[str, Json]:
        """Return the parameters."""
        return {
            **super().card(),
            "kernel": self.kernel,
            "context": list(self.context),
            "targets": [self.targets, self.points - self.context[0]],
            "points": self.points,
            "x": list(self.x),
            "length": list(self.length),
            "scale": list(self.scale),
            **({"period": list(self.period)} if self.kernel == "periodic" else {}),
            "noise": self.noise,
            "ragged": self.ragged,
        }
