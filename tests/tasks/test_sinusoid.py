"""Sine waves: their parameters, recovered from the examples."""

import math

import pytest
import torch
from torch import Generator, Tensor

from quickstudy.core.task import Task
from quickstudy.tasks.sinusoid import Sinusoid


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def fit(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitude (T,), phase (T,) and worst misfit over all examples, by least squares on
    support alone: y = a sin x + b cos x with a = A cos(phase), b = -A sin(phase)."""

    def basis(x: Tensor) -> Tensor:
        return torch.cat([torch.sin(x), torch.cos(x)], -1).double()

    solution = torch.linalg.lstsq(basis(task.support.x), task.support.y.double()).solution
    residual = torch.stack(
        [(basis(e.x) @ solution - e.y).abs().max() for e in (task.support, task.query)]
    )
    a, b = solution.squeeze(-1).unbind(-1)
    return torch.hypot(a, b), torch.atan2(-b, a), residual.max()


@pytest.mark.parametrize("grid", [False, True])
def test_support_and_query_lie_on_one_wave_of_the_published_parameters(grid: bool):
    task = Sinusoid(shots=20, queries=30, grid=grid).sample(4000, seeded())
    amplitude, phase, residual = fit(task)
    assert residual < 1e-4
    # uniform: the extremes are reached, and the mean is the middle (4 standard errors)
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi)):
        span = high - low
        assert low - 1e-4 <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high + 1e-4
        assert abs(values.mean() - (low + high) / 2) < 4 * span / 12**0.5 / 4000**0.5
    assert -5 <= task.support.x.min() < -4.99 and 4.99 < task.support.x.max() <= 5


def test_a_grid_of_queries_is_even_with_both_ends_and_leaves_waves_and_support_alone():
    drawn = Sinusoid(5, 100).sample(3, seeded())
    even = Sinusoid(5, 100, grid=True).sample(3, seeded())
    torch.testing.assert_close(even.query.x[1, :, 0], torch.linspace(-5, 5, 100))
    assert torch.equal(drawn.support.y, even.support.y)


def test_other_parameters_are_used_and_said():
    tasks = Sinusoid(15, 15, amplitude=(2, 2), phase=(0.5, 0.5), x=(0, 1))
    task = tasks.sample(8, seeded())
    torch.testing.assert_close(task.query.y, 2 * torch.sin(task.query.x - 0.5))
    assert task.query.x.min() >= 0 and task.query.x.max() <= 1
    card = tasks.card()
    assert card["tasks"] == "Sinusoid" and card["shots"] == 15
    assert card["amplitude"] == [2, 2] and card["x"] == [0, 1] and not card["grid"]


@pytest.mark.parametrize("sizes", [(0, 10), (10, 0)])
def test_a_task_needs_shots_and_queries(sizes: tuple[int, int]):
    with pytest.raises(ValueError, match="at least 1 of each"):
        Sinusoid(*sizes)
