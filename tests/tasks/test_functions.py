"""Lines and parabolas: their parameters, recovered from the examples."""

import pytest
import torch
from torch import Generator, Tensor

from quickstudy import Task, TaskDistribution
from quickstudy.tasks import Line, Parabola


def fit(task: Task, degree: int) -> tuple[Tensor, float]:
    """Coefficients (T, degree + 1) by least squares on the support, and the worst misfit."""

    def powers(x: Tensor) -> Tensor:
        return x.double() ** torch.arange(degree + 1)

    found = torch.linalg.lstsq(powers(task.support.x), task.support.y.double()).solution
    residuals = [(powers(e.x) @ found - e.y).abs().max().item() for e in task]
    return found[..., 0], max(residuals)


def check_uniform(values: Tensor, low: float, high: float) -> None:
    span = high - low
    assert low - 1e-3 <= values.min() < low + 0.01 * span
    assert high - 0.01 * span < values.max() <= high + 1e-3
    error = span / 12**0.5 / len(values) ** 0.5
    assert abs(values.mean() - (low + high) / 2) < 4 * error


@pytest.mark.parametrize("grid", [False, True])
def test_lines_have_the_published_ranges(grid: bool):
    task = Line(20, 30, grid=grid).sample(4000, Generator().manual_seed(0))
    (intercept, slope), residual = fit(task, 1)[0].T, fit(task, 1)[1]
    assert residual < 1e-4
    check_uniform(slope, -3, 3)
    check_uniform(intercept, -3, 3)
    check_uniform(task.support.x.flatten(), -5, 5)


@pytest.mark.parametrize("grid", [False, True])
def test_parabolas_have_the_published_ranges(grid: bool):
    task = Parabola(20, 30, grid=grid).sample(4000, Generator().manual_seed(0))
    found, residual = fit(task, 2)
    constant, linear, curvature = found.T
    assert residual < 1e-4
    check_uniform(curvature.abs(), 0.02, 0.15)
    assert abs((curvature > 0).double().mean() - 0.5) < 4 * 0.5 / 4000**0.5
    centre = -linear / (2 * curvature)
    check_uniform(centre, -3, 3)
    check_uniform(constant - curvature * centre**2, -3, 3)


@pytest.mark.parametrize("kind", [Line, Parabola])
def test_shapes_grid_and_card(kind: type[Line] | type[Parabola]):
    tasks = kind(3, 11, grid=True)
    task = tasks.sample(5, Generator().manual_seed(0))
    assert task.support.x.shape == task.support.y.shape == (5, 3, 1)
    assert task.query.weight.shape == (5, 11) and task.query.weight.all()
    torch.testing.assert_close(task.query.x[2, :, 0], torch.linspace(-5, 5, 11))
    card = tasks.card()
    assert card["tasks"] == kind.__name__ and card["shots"] == 3 and card["x"] == [-5, 5]


def test_other_ranges_are_used_and_said():
    line: TaskDistribution = Line(slope=(2, 2), intercept=(1, 1), x=(0, 1))
    task = line.sample(4, Generator())
    torch.testing.assert_close(task.query.y, 2 * task.query.x + 1)
    assert line.card()["slope"] == [2, 2]
    parabola = Parabola(curvature=(1, 1), centre=(2, 2), height=(3, 3))
    task = parabola.sample(4, Generator())
    away = (task.query.y - 3).abs()
    torch.testing.assert_close(away, (task.query.x - 2).square(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at least 1 of each"):
        Parabola(0)
