"""Distances and votes of many rows: values and derivatives are those of the naive forms, and
neither time nor memory has the factor that these have."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import hessian, jvp, vmap
from torch.nn import functional as F

import quickstudy as qs
from benchmarks.scale import operations
from quickstudy.core import squared_distance
from quickstudy.core.attention import log_votes
from quickstudy.execution.batching import Execution
from quickstudy.execution.ram import peak
from quickstudy.testing.learners import Blobs

A, B, D = 40, 50, 80  # differences (A, B, D) that are too many to be made


def in_numpy(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, by differences in extended precision."""
    rows, others = (x.detach().double().numpy().astype(np.longdouble) for x in (a, b))
    return torch.tensor(np.square(rows[:, None] - others).sum(-1).astype(np.float64))


def relative_error(a: Tensor, b: Tensor) -> float:
    expected, result = in_numpy(a, b), squared_distance(a, b).double()
    assert (result[expected == 0] == 0).all()
    return ((result - expected).abs() / expected.clamp_min(1e-300)).max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("origin", [0.0, 1e2, 1e6])
@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-6])
def test_distances_of_near_duplicates_are_exact(
    dtype: torch.dtype, origin: float, apart: float
):
    a = torch.randn(A, D, dtype=dtype) + origin
    b = torch.randn(B, D, dtype=dtype) + origin
    b[:20] = a[:20] + apart * torch.randn(20, D, dtype=dtype)  # in the dtype's own steps
    b[20] = a[20]
    assert relative_error(a, b) < (1e-12 if dtype == torch.float64 else 3e-7)


def test_distances_in_clusters_that_are_far_apart_are_exact():
    centre = 1e4 * torch.randn(5, D)
    a = centre.repeat(8, 1) + 1e-2 * torch.randn(A, D)
    assert relative_error(a, a) < 3e-7


def test_infinite_rows_are_as_far_as_differences_find_them():
    a, b = torch.randn(A, D), torch.randn(B, D)
    a[1, 0], a[2, 0], b[3, 0] = torch.inf, torch.nan, torch.inf
    expected = (a[:, None] - b).square().sum(-1)
    torch.testing.assert_close(squared_distance(a, b), expected, equal_nan=True)
    huge = torch.full((A, D), 1e200, dtype=torch.float64)
    assert (squared_distance(huge, -huge) == torch.inf).all()
    assert (squared_distance(huge, huge) == 0).all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # of torch.func.jvp
@pytest.mark.parametrize("batched", [False, True])
def test_derivatives_of_distances_are_those_of_differences(batched: bool):
    """First and second ones, and of forward mode, of one task and of several."""
    tasks = 3 if batched else 1
    a = torch.randn(tasks, A, D, dtype=torch.float64) + 5
    b = torch.randn(B, D, dtype=torch.float64) + 5  # of all tasks
    b[:9] = a[0, :9]
    weight = torch.randn(tasks, A, B, dtype=torch.float64)

    def derivatives(distance: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        square = vmap(distance, (0, None))(x, y) if batched else distance(x[0], y)[None]
        grads = torch.autograd.grad(
            ((1 + square).log() * weight).sum(), [x, y], create_graph=True
        )
        products = [(grad * grad.detach().roll(1, -1)).sum() for grad in grads]
        loss = torch.stack(products).sum()
        seconds = torch.autograd.grad(loss, [x, y])
        forward = jvp(lambda z: distance(z[0], b), (a,), (a.roll(1, 1),))[1]
        return [square, *grads, *seconds, forward]

    def naive(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] - y).square().sum(-1)

    for result, expected in zip(derivatives(squared_distance), derivatives(naive), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # of torch.func.jvp
def test_derivatives_of_distances_are_finite_differences():
    a = torch.randn(A, D, dtype=torch.float64)
    b = torch.cat([a[:10] + 1e-3, torch.randn(B - 10, D, dtype=torch.float64)])
    direction, weight = torch.randn_like(a), torch.randn(A, B, dtype=torch.float64)

    def loss(t: Tensor) -> Tensor:
        return ((1 + squared_distance(a + t * direction, b)).log() * weight).sum()

    def slope(t: Tensor) -> Tensor:
        return torch.func.grad(loss)(t)

    t, step = torch.tensor(0.3, dtype=torch.float64), 1e-5
    first = (loss(t + step) - loss(t - step)) / (2 * step)
    torch.testing.assert_close(slope(t), first, rtol=1e-7, atol=1e-7)
    second = (slope(t + step) - slope(t - step)) / (2 * step)
    torch.testing.assert_close(hessian(loss)(t), second, rtol=1e-6, atol=1e-6)


def test_near_duplicates_in_tasks_at_once():
    """Of two vmaps, one over rows that all tasks share."""
    a = torch.randn(2, 3, A, D) + 1e3
    b = a[:, 0, :].roll(1, 1)[:, :30] + 1e-3
    result = vmap(vmap(squared_distance, (0, None)))(a, b)
    for x, y, square in zip(a, b, result, strict=True):
        for one, other in zip(x, square, strict=True):
            torch.testing.assert_close(other.double(), in_numpy(one, y), rtol=3e-7, atol=0)


def test_distances_under_autocast_and_in_bfloat16():
    a, b = torch.randn(A, D), torch.randn(B, D)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(squared_distance(a, b), in_numpy(a, b).float())
    low = squared_distance(a.bfloat16(), b.bfloat16())
    expected = in_numpy(a.bfloat16(), b.bfloat16())
    torch.testing.assert_close(low, expected.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=str)
def test_losses_of_many_ways_are_the_same_at_once_and_one_by_one(precision: torch.dtype | None):
    tasks = Blobs(ways=40, shots=1, queries=2, shape=(64,))
    batch = tasks.sample(2, torch.Generator().manual_seed(0))
    learner = qs.PrototypicalNetwork(torch.nn.Linear(64, 64))

    def gradient(execution: Execution) -> Tensor:
        learner.execution = execution
        with torch.autocast("cpu", precision, enabled=precision is not None):
            loss = learner(batch).sum()
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, [*learner.parameters()])]
        )

    together, apart = gradient("vmap"), gradient("loop")
    eps = torch.finfo(precision or torch.float32).eps
    assert (together - apart).norm() < 4 * eps * apart.norm()


def naive_votes(score: Tensor, votes: Tensor) -> Tensor:
    columns = [
        (score[:, votes[:, c] > 0] + votes[votes[:, c] > 0, c].log()).logsumexp(1)
        for c in range(votes.shape[1])
    ]
    return torch.stack(columns, 1)


def some_votes(kind: str, n: int = 30, classes: int = 8) -> Tensor:
    if kind == "one-hot":
        votes = F.one_hot(torch.randint(classes - 1, (n,)), classes).double()
        votes[:5] *= 0.3  # of other weights
    else:
        votes = torch.rand(n, classes, dtype=torch.float64) * (torch.rand(n, classes) > 0.5)
        votes[:, -1] = 0
    votes[7] = 0  # padding
    return votes


@pytest.mark.parametrize("kind", ["one-hot", "several classes"])
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_votes_and_their_derivatives_are_those_of_a_sum_for_each_class(kind: str, scale: float):
    score = scale * torch.randn(6, 30, dtype=torch.float64)
    votes, weight = some_votes(kind), torch.randn(6, 8, dtype=torch.float64)

    def derivatives(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        x, v = score.clone().requires_grad_(), votes.clone().requires_grad_()
        logs = function(x, v)
        finite = torch.where(logs.isfinite(), logs, 0)
        grads = torch.autograd.grad((finite * weight).sum(), [x, v], create_graph=True)
        loss = (grads[0] * score.roll(1, 1) / scale).sum()
        return [logs, *grads, *torch.autograd.grad(loss, [x])]

    for result, expected in zip(derivatives(log_votes), derivatives(naive_votes), strict=True):
        torch.testing.assert_close(result, expected)


def test_votes_of_tasks_at_once_are_those_of_each():
    score = torch.randn(3, 6, 30, dtype=torch.float64)
    votes = torch.stack(
        [some_votes(kind) for kind in ("one-hot", "several classes", "one-hot")]
    )
    expected = [naive_votes(s, v) for s, v in zip(score, votes, strict=True)]
    torch.testing.assert_close(vmap(log_votes)(score, votes), torch.stack(expected))
    shared = [naive_votes(s, votes[1]) for s in score]
    torch.testing.assert_close(vmap(log_votes, (0, None))(score, votes[1]), torch.stack(shared))


def test_a_class_without_votes_is_minus_infinity_and_has_a_finite_gradient():
    score = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    votes = torch.tensor([[1.0, 0, 0], [0.0, 1, 0], [0, 0, 0]])
    logs = log_votes(score, votes)
    assert logs.tolist() == [[1000.0, -1000.0, -math.inf]]
    (grad,) = torch.autograd.grad(logs[0, :2].sum(), score)
    assert grad.tolist() == [[1.0, 1.0, 0.0]]
    assert log_votes(score, 0 * votes).tolist() == [[-math.inf] * 3]


def test_infinite_and_undefined_scores_stay_with_their_class():
    score = torch.tensor([[torch.inf, 1.0, torch.nan, -torch.inf]])
    logs = log_votes(score, torch.eye(4)[[0, 1, 2, 3]])[0]
    assert logs[0] == torch.inf and logs[1] == 1 and logs[2].isnan()
    assert logs[3] < -1e38


def test_votes_in_bfloat16_are_summed_in_float32():
    score, votes = torch.zeros(1, 1000, dtype=torch.bfloat16), torch.eye(2)[[0] * 1000]
    logs = log_votes(score, votes.bfloat16())
    assert logs.dtype == torch.bfloat16 and logs[0, 0].item() == pytest.approx(
        math.log(1000), rel=4e-3
    )


def test_memory_of_distances_is_that_of_the_distances():
    a, b = torch.randn(200, 256), torch.randn(300, 256)

    def work() -> None:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        squared_distance(x, y).logsumexp(1).sum().backward()

    assert peak(work, "cpu") < 200 * 300 * 8 * 16  # differences: 256 times, several times


def test_memory_of_votes_is_that_of_scores_and_votes():
    score, votes = (
        torch.randn(50, 400, requires_grad=True),
        torch.eye(300)[torch.arange(400) % 300],
    )

    def work() -> None:
        log_votes(score, votes).clamp_min(-9).sum().backward()

    assert peak(work, "cpu") < 50 * 400 * 300  # a sixteenth of what (Q, S, C) once took
    assert operations(work) < 50 * 400 * 300 / 4


def test_distances_are_one_multiplication_for_each_pair_and_feature():
    a, b = torch.randn(100, 64), torch.randn(300, 64)
    assert operations(lambda: squared_distance(a, b)) <= 1.5 * 100 * 300 * 64
