"""CAVIA against a loop written by hand, finite differences, a closed form and the plain net."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from quickstudy import CAVIA, Examples, Task
from quickstudy.core.criteria import cross_entropy, squared_error
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.learners.gradient import ContextInput, FiLM, film_conv4
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs

LR = 0.7
CONTEXT = 3

pytestmark = pytest.mark.usefixtures("double")


def batch(size: int = 3, shape: tuple[int, ...] = (8,)) -> Task[Examples]:
    drawn = Blobs(shape=shape).sample(size, torch.Generator().manual_seed(0))
    return tree_map(torch.Tensor.double, drawn)


def net() -> ContextInput:
    torch.manual_seed(1)
    return ContextInput(MLP(8 + CONTEXT, 3, hidden=(6,), activation=nn.Tanh))


def film() -> FiLM:
    torch.manual_seed(1)
    before = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
    after = nn.Sequential(nn.Flatten(), nn.Linear(4 * 2 * 2, 3))
    return FiLM(before, after, channels=4, context=CONTEXT)


def shape_of(net: nn.Module) -> tuple[int, ...]:
    return (8,) if isinstance(net, ContextInput) else (1, 4, 4)


def gradients(learner: CAVIA, execution: Execution = "vmap") -> tuple[Tensor, ...]:
    learner.execution = execution
    losses = learner(batch(3, shape_of(learner.net)))
    return torch.autograd.grad(losses.sum(), list(learner.parameters()))


def by_hand(net: nn.Module, *, steps: int, first_order: bool) -> tuple[Tensor, ...]:
    """CAVIA's meta-gradient as a loop over tasks and steps, by `autograd.grad` only."""
    total = torch.zeros(())
    tasks = batch(3, shape_of(net))
    for i in range(3):
        support, query = tree_map(lambda leaf, i=i: leaf[i], tasks)
        context = torch.zeros(CONTEXT, requires_grad=True)
        for _ in range(steps):
            inner_loss = F.cross_entropy(net(support.x, context), support.y)
            (grad,) = torch.autograd.grad(inner_loss, context, create_graph=not first_order)
            context = context - LR * grad
        total = total + F.cross_entropy(net(query.x, context), query.y)
    return torch.autograd.grad(total, list(net.parameters()))


@pytest.mark.parametrize("make", [net, film])
@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_is_that_of_a_loop_by_hand(
    make: Callable[[], nn.Module], execution: Execution, first_order: bool, steps: int
):
    learner = CAVIA(make(), context=CONTEXT, lr=LR, steps=steps, first_order=first_order)
    expected = by_hand(learner.net, steps=steps, first_order=first_order)
    torch.testing.assert_close(gradients(learner, execution), expected, rtol=1e-9, atol=1e-11)


def test_the_two_orders_differ():
    # or the test above would say little
    second, first = (
        gradients(CAVIA(net(), context=CONTEXT, lr=LR, first_order=order))
        for order in (False, True)
    )
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(second, first, strict=True))


@pytest.mark.parametrize("make", [net, film])
def test_meta_gradient_is_that_of_finite_differences(make: Callable[[], nn.Module]):
    learner = CAVIA(make(), context=CONTEXT, lr=LR, steps=2)
    params = dict(learner.named_parameters())
    tasks = batch(1, shape_of(learner.net))

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(params, values, strict=True)), (tasks,))

    assert torch.autograd.gradcheck(loss, tuple(params.values()), fast_mode=True)


@pytest.mark.parametrize("settings", [{"lr": 0.0, "steps": 4}, {"steps": 0}])
def test_without_adaptation_it_is_the_net_with_a_zero_context(settings: dict[str, Any]):
    learner = CAVIA(net(), context=CONTEXT, **settings)
    tasks = batch()
    params = list(learner.parameters())
    losses = learner(tasks)
    plain = torch.stack(
        [
            cross_entropy(learner.net(x, torch.zeros(CONTEXT)), Examples(x, y, weight))
            for x, y, weight in zip(*tasks.query, strict=True)
        ]
    )
    torch.testing.assert_close(losses, plain)
    found = torch.autograd.grad(losses.sum(), params)
    torch.testing.assert_close(found, torch.autograd.grad(plain.sum(), params))


class Offset(nn.Module):
    """A net that says its context of every input, and a parameter that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return (self.bias + context).expand(len(x), -1)


def test_a_context_that_is_the_prediction_goes_to_the_mean_of_the_targets():
    # each step of rate a takes the share 1 - 2a of what is missing
    learner = CAVIA(Offset(), context=2, lr=0.2, steps=3, criterion=squared_error)
    y = torch.randn(5, 2)
    state = learner.adapt(Examples(torch.zeros(5, 1), y, torch.ones(5)))
    torch.testing.assert_close(state, (1 - 0.6**3) * (y.mean(0) - 1))


def test_a_state_is_the_context_and_the_net_stays_as_it_was():
    learner = CAVIA(net(), context=CONTEXT, lr=LR)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    assert learner.state_dict().keys() == {
        f"net.{name}" for name, _ in net().named_parameters()
    }
    support = tree_map(lambda leaf: leaf[0], batch()).support
    state = learner.adapt(support)
    assert isinstance(state, Tensor) and state.shape == (CONTEXT,) and state.all()
    torch.testing.assert_close(dict(learner.state_dict()), before, rtol=0, atol=0)


def test_adapting_goes_on_from_a_state():
    support = tree_map(lambda leaf: leaf[0], batch()).support
    two, four = (CAVIA(net(), context=CONTEXT, lr=LR, steps=steps) for steps in (2, 4))
    torch.testing.assert_close(two.adapt(support, two.adapt(support)), four.adapt(support))


def test_padding_does_not_shorten_the_inner_step():
    support = tree_map(lambda leaf: leaf[0], batch()).support
    twice = Examples.cat(support, support)
    padded = twice._replace(weight=torch.cat([support.weight, 0 * support.weight]))
    learner = CAVIA(net(), context=CONTEXT, lr=LR)
    torch.testing.assert_close(learner.adapt(padded), learner.adapt(support))


@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 5)])
def test_a_context_at_the_input_stands_beside_every_input(shape: tuple[int, ...]):
    x, context = torch.randn(shape), torch.randn(CONTEXT)
    beside = ContextInput(nn.Identity())(x, context)
    assert beside.shape == (*shape[:-1], 5 + CONTEXT)
    assert torch.equal(beside[..., :5], x)
    assert (beside[..., 5:] == context).all()


def test_film_scales_and_shifts_channels():
    net = FiLM(nn.Identity(), nn.Identity(), channels=4, context=CONTEXT)
    context, x = torch.randn(CONTEXT), torch.randn(2, 4, 3, 5)
    amounts = net.film.weight @ context + net.film.bias
    for channel in range(4):
        expected = amounts[channel] * x[:, channel] + amounts[4 + channel]
        torch.testing.assert_close(net(x, context)[:, channel], expected)
    flat = net(x[..., 0, 0], context)
    torch.testing.assert_close(flat, net(x, context)[..., 0, 0])


@pytest.mark.parametrize("pool", ["max", "stride"])
@pytest.mark.parametrize("layer", [1, 3, 4])
def test_a_film_conv4_that_does_not_modulate_is_a_conv4(layer: int, pool: str):
    settings: dict[str, Any] = {"channels": 4, "size": 16, "pool": pool}
    net = use_batch_statistics(film_conv4(5, context=7, layer=layer, **settings))
    assert net.film.weight.shape == (8, 7)
    assert sum(isinstance(m, nn.Conv2d) for m in net.before.modules()) == layer
    assert isinstance(next(net.after.children()), nn.MaxPool2d | nn.ReLU)
    with torch.no_grad():
        net.film.bias.copy_(torch.tensor([1.0] * 4 + [0.0] * 4))
    plain = use_batch_statistics(Conv4(5, **settings))
    values = [p for name, p in net.state_dict().items() if "film" not in name]
    plain.load_state_dict(dict(zip(plain.state_dict(), values, strict=True)))
    x = torch.randn(6, 1, 16, 16)
    torch.testing.assert_close(net(x, torch.zeros(7)), plain(x))


def test_a_layer_that_a_conv4_has_not_is_an_error():
    with pytest.raises(ValueError, match="layer=5: choose one of the four"):
        film_conv4(5, layer=5)
