"""OML against torch's own SGD, one example at a time, and against finite differences."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import OML, Examples, Task, cross_entropy
from quickstudy.core.tree import tree_map
from quickstudy.learners.lifelong.oml import CHUNK, OMLState
from quickstudy.nets.backbones import MLP
from quickstudy.tasks import OnlineTrajectoryTasks
from tests.zoo import clouds

pytestmark = pytest.mark.usefixtures("double")


def task(ways: int = 1, shots: int = 4, remember: int = 12) -> Task[Examples]:
    """Of the five classes of `clouds`."""
    tasks = OnlineTrajectoryTasks(clouds(), ways, shots, remember)
    drawn = tasks.sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def smooth(outputs: int = 6) -> MLP:
    return MLP(8, outputs, hidden=(7,), activation=nn.Tanh)


def by_torch(net: nn.Module, adapted: nn.Module, examples: Examples, lr: float) -> None:
    """Steps of SGD on `adapted`, a part of `net`, one for each example that counts."""
    optimizer = torch.optim.SGD(adapted.parameters(), lr)
    for x, y, weight in zip(*examples, strict=True):
        if weight > 0:
            optimizer.zero_grad()
            F.cross_entropy(net(x[None]), y[None]).backward()
            optimizer.step()


def started(learner: OML, seen: Tensor) -> OMLState:
    """The head of meta-training, without what it knows of the classes `seen`."""
    weight, bias = learner.head.weight.clone(), learner.head.bias.clone()
    weight[seen], bias[seen] = 0, 0
    return OMLState(weight, bias)


def slopes_by_differences(learner: OML, task: Task[Examples], eps: float = 1e-5) -> Tensor:
    """Of the loss along a few random directions in the space of all parameters."""
    found, before = [], [p.detach().clone() for p in learner.parameters()]
    for direction in directions(learner):
        values = []
        for sign in (1, -1):
            for p, old, d in zip(learner.parameters(), before, direction, strict=True):
                p.data = old + sign * eps * d
            values.append(learner.loss(task).detach())
        found.append((values[0] - values[1]) / (2 * eps))
    for p, old in zip(learner.parameters(), before, strict=True):
        p.data = old
    return torch.stack(found)


def directions(learner: OML) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        [torch.randn(p.shape, generator=generator) for p in learner.parameters()]
        for _ in range(5)
    ]


def slopes_by_autograd(learner: OML, task: Task[Examples]) -> Tensor:
    found = torch.autograd.grad(learner.loss(task), list(learner.parameters()))
    return torch.stack(
        [
            torch.stack([(g * d).sum() for g, d in zip(found, direction, strict=True)]).sum()
            for direction in directions(learner)
        ]
    )


@pytest.mark.parametrize("size", [7, CHUNK + 3])
def test_a_stream_is_learned_as_by_torchs_sgd(size: int):
    y = torch.eye(9)[torch.arange(size) * 9 // size]  # class after class
    support = Examples(torch.randn(size, 8), y, (torch.rand(size) < 0.8).double())
    learner = OML(smooth(), 6, 5, lr=0.3)
    found = learner.adapt(support)
    head = nn.Linear(6, 9)
    for p in head.parameters():
        nn.init.zeros_(p)
    by_torch(nn.Sequential(learner.embed, head), head, support, 0.3)
    torch.testing.assert_close(found, OMLState(head.weight, head.bias))
    queries = torch.randn(4, 8)
    expected = head(learner.embed(queries))
    torch.testing.assert_close(learner.predict(found, queries), expected)


@pytest.mark.parametrize("adapt_parameters", [(), None, ["head"]])
def test_the_meta_loss_is_that_of_torchs_sgd(adapt_parameters: Any):
    learner, one = OML(smooth(), 6, 5, lr=0.3, adapt_parameters=adapt_parameters), task()
    other = copy.deepcopy(learner)
    seen = one.support.y.any(0)
    assert seen.sum() == 1
    other.head.weight.data, other.head.bias.data = started(learner, seen)
    net = nn.Sequential(other.embed, other.head)
    parts: list[nn.Module] = [other.head]
    if adapt_parameters is None:
        parts = [net]
    elif adapt_parameters:
        parts.append(other.embed.head)  # pyright: ignore[reportArgumentType]
    by_torch(net, nn.ModuleList(parts), one.support, 0.3)
    expected = cross_entropy(net(one.query.x), one.query)
    torch.testing.assert_close(learner.loss(one), expected)


@pytest.mark.parametrize("adapt_parameters", [(), None])
def test_the_meta_gradient_is_the_derivative(adapt_parameters: Any):
    learner, one = OML(smooth(), 6, 5, lr=0.5, adapt_parameters=adapt_parameters), task(ways=2)
    expected = slopes_by_differences(learner, one)
    torch.testing.assert_close(slopes_by_autograd(learner, one), expected, rtol=1e-6, atol=1e-8)
    learner.first_order = True
    assert not torch.allclose(slopes_by_autograd(learner, one), expected, rtol=1e-3)


@pytest.mark.parametrize("adapt_parameters", [(), None])
def test_steps_are_constants_to_the_first_order(adapt_parameters: Any):
    learner, one = (
        OML(smooth(), 6, 5, lr=0.5, adapt_parameters=adapt_parameters, first_order=True),
        task(),
    )
    found = torch.autograd.grad(learner.loss(one), list(learner.parameters()))
    other = copy.deepcopy(learner)
    seen = one.support.y.any(0)
    other.head.weight.data, other.head.bias.data = started(learner, seen)
    net = nn.Sequential(other.embed, other.head)
    by_torch(net, net if adapt_parameters is None else other.head, one.support, 0.5)
    # the adapted net's gradient, handed on to where it started from
    loss = cross_entropy(net(one.query.x), one.query)
    expected = torch.autograd.grad(loss, list(other.parameters()))
    for (name, _), f, e in zip(learner.named_parameters(), found, expected, strict=True):
        if name.startswith("head."):
            e[seen] = 0
        torch.testing.assert_close(f, e)


def test_without_a_rate_the_head_stays():
    learner, one = OML(smooth(), 6, 5, lr=0.0), task()
    head = OMLState(torch.randn(5, 6), torch.randn(5))
    torch.testing.assert_close(learner.adapt(one.support, head), head, rtol=0, atol=0)
    start = started(learner, one.support.y.any(0))
    expected = cross_entropy(learner.predict(start, one.query.x), one.query)
    torch.testing.assert_close(learner.loss(one), expected)


def test_a_head_is_trained_but_for_the_rows_that_start_anew():
    learner, one = OML(smooth(), 6, 5), task(ways=2)
    grad = torch.autograd.grad(learner.loss(one), learner.head.weight)[0]
    assert ((grad == 0).all(1) == one.support.y.any(0)).all()


def test_weights_are_of_steps():
    one = task().support
    twice = OML(smooth(), 6, 5, lr=0.2)
    once = copy.deepcopy(twice)
    once.lr = 0.4
    heavy = one._replace(weight=2 * one.weight)
    torch.testing.assert_close(twice.adapt(heavy), once.adapt(one))
