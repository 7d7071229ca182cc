"""Pooled batch statistics of tasks at once, against formulas, PyTorch's plain loop and finite
differences, in double precision; and what follows a convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from quickstudy import MAML, Examples, Task
from quickstudy.core.pooled_statistics import max_pool, normalise
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import unstack
from quickstudy.execution.batching import Execution, over_tasks
from quickstudy.nets import use_batch_statistics
from quickstudy.nets.backbones import Conv4

T = 3


def derivatives(fn: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The value of `fn`, its first, second and third derivatives in some directions."""
    results: list[Tensor] = []
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    total = fn(*inputs)
    for _ in range(3):
        results.append(total)
        directions = [torch.linspace(-1, 1, v.numel()).view(v.shape).sin() for v in (total,)]
        total = (total.sin() * directions[0]).sum() if total.ndim else total
        grads = torch.autograd.grad(total, inputs, create_graph=True, materialize_grads=True)
        results += grads
        total = torch.cat([g.flatten() for g in grads])
    return [v.detach() for v in results]


def assert_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= 1e-12 * b.norm() + 1e-12


POOLS = {
    "2x2": (2,),
    "overlapping": (3, 2, 1),
    "dilated": ((2, 1), 1, 0, (2, 1)),
    "ceil": (3, 3, 0, 1, True),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("shared", [True, False])
def test_pooled_batch_statistics_have_the_derivatives_of_torch(
    name: str, shared: bool, double: None
) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 2, 2, 4, 5), torch.randn(2, 2), torch.randn(2, 2)
    inputs = [x, weight[0], bias[0]] if shared else [x, weight, bias]
    dims = (0, None, None) if shared else (0, 0, 0)

    def one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return max_pool(normalise(x, weight, bias), *POOLS[name])

    def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # PyTorch's own third derivative of batch_norm takes the mean for a constant
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        y = (x - mean) * (var + 1e-5).rsqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
        return F.max_pool2d(y, *POOLS[name])

    def in_turn(*inputs: Tensor) -> Tensor:
        each = [
            v if dim is not None else v.expand(2, -1)
            for v, dim in zip(inputs, dims, strict=True)
        ]
        return torch.stack([by_torch(*task) for task in zip(*each, strict=True)])

    at_once = vmap(one, dims)
    assert_equal(derivatives(at_once, inputs), derivatives(in_turn, inputs))
    inputs = [v.requires_grad_() for v in inputs]
    assert torch.autograd.gradgradcheck(at_once, inputs)


class Block(nn.Module):
    def __init__(self, after: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.after, self.head = after, nn.Linear(40 * 9, 3)
        self.pool = nn.MaxPool2d(2)  # by which the net is known to pool

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.norm(self.conv(x))).flatten(1))


def changed(y: Tensor) -> Tensor:
    y.mul_(2)
    return F.max_pool2d(y, 2)


AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum, ReLU": lambda y: F.max_pool2d(y, 2).relu(),
    "ReLU, maximum": lambda y: F.max_pool2d(y.relu(), 2),
    "F.relu, maximum": lambda y: F.max_pool2d(F.relu(y), kernel_size=2, stride=[2, 2]),
    "ReLU in place": lambda y: F.max_pool2d(F.relu(y, inplace=True), 2),
    "changed in place": changed,
    "indices": lambda y: F.max_pool2d(y, 2, return_indices=True)[0],
    "both": lambda y: F.max_pool2d(y, 2) + F.max_pool2d(y.sin(), 2),
    "of another": lambda y: F.max_pool2d(y.sin(), 2),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_net_of_the_users_has_the_meta_gradient_of_the_plain_loop(
    name: str, double: None
) -> None:
    torch.manual_seed(0)
    net = use_batch_statistics(Block(AFTER[name]))
    tasks = images(6, 6)
    assert_meta_gradient(net, tasks)


def test_conv4_has_the_meta_gradient_of_the_plain_loop(double: None) -> None:
    torch.manual_seed(0)
    net = use_batch_statistics(Conv4(3, channels=8, inputs=3, size=16))
    assert_meta_gradient(net, images(16, 16, channels=3))
    net.body[0].requires_grad_(False)
    assert_meta_gradient(net, images(16, 16, channels=3))
    with torch.inference_mode():
        tasks = images(16, 16, channels=3)
        learner, losses = MAML(net, lr=0.1, steps=2), []
        ways: tuple[Execution, ...] = ("vmap", "loop")
        for learner.execution in ways:
            losses.append(learner(tasks))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def images(*size: int, channels: int = 1) -> TaskBatch:
    def examples() -> Examples:
        y = torch.eye(3).expand(T, 3, 3)
        return Examples(torch.randn(T, 3, channels, *size), y, torch.ones(T, 3))

    return Task(examples(), examples())


def assert_meta_gradient(net: Any, tasks: TaskBatch) -> None:
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    names, leaves = list(params), list(params.values())
    total = torch.zeros(())
    for support, query in unstack(tasks):
        fast = list(leaves)
        for _ in range(2):
            logits = functional_call(net, dict(zip(names, fast, strict=True)), (support.x,))
            loss = F.cross_entropy(logits, support.y)
            grads = torch.autograd.grad(loss, fast, create_graph=True)
            fast = [p - 0.1 * g for p, g in zip(fast, grads, strict=True)]
        logits = functional_call(net, dict(zip(names, fast, strict=True)), (query.x,))
        total = total + F.cross_entropy(logits, query.y) / T
    expected = torch.autograd.grad(total, leaves)
    learner = MAML(net, lr=0.1, steps=2)
    ways: tuple[tuple[Execution, int | None], ...] = (
        ("vmap", None),
        ("vmap", 2),
        ("loop", None),
    )
    for learner.execution, learner.chunk in ways:
        actual = torch.autograd.grad(learner(tasks).mean(), leaves)
        off, size = (
            torch.cat([v.flatten() for v in vs]).norm()
            for vs in ([a - b for a, b in zip(actual, expected, strict=True)], expected)
        )
        assert off <= 1e-12 * size


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (1, 2, 4, 4), (2, 3, 4, 4), (3, 1, 2, 2)])
@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_batches_of_any_layout(
    shape: tuple[int, ...], layout: torch.memory_format, execution: Any
) -> None:
    """Against the formula: a batch of one example has several layouts at once."""
    torch.manual_seed(0)
    tasks = torch.randn(2, *shape, dtype=torch.float64)
    tasks = torch.stack([x.to(memory_format=layout) for x in tasks])
    weight, bias = torch.randn(2, shape[1], 1, 1, dtype=torch.float64)
    norm = nn.BatchNorm2d(shape[1], track_running_stats=False).double()
    params = {"weight": weight.flatten(), "bias": bias.flatten()}

    def loss(x: Tensor) -> Tensor:
        return functional_call(norm, params, x).sin().sum()

    def formula(x: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).sin().sum()

    for x in (tasks.clone().requires_grad_(), tasks):
        found = over_tasks(loss, execution)(x)
        torch.testing.assert_close(found, torch.stack([formula(one) for one in x]))
        if x.requires_grad:
            expected = torch.stack([torch.func.grad(formula)(one) for one in tasks])
            torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], expected)


AFTER_A_CONVOLUTION: list[Callable[[], nn.Module]] = [
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.InstanceNorm2d(4, affine=True),
    lambda: nn.BatchNorm2d(4, track_running_stats=False),
    lambda: nn.PixelShuffle(2),
    lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    lambda: nn.AdaptiveAvgPool2d(2),
    lambda: nn.AdaptiveMaxPool2d(2),
    lambda: nn.AvgPool2d(2),
    lambda: nn.MaxPool2d(2),
    lambda: nn.ConvTranspose2d(4, 2, 2),
    lambda: nn.LocalResponseNorm(2),
    lambda: nn.ReflectionPad2d(1),
    lambda: nn.ChannelShuffle(2),
    lambda: nn.PReLU(4),
    lambda: nn.Softmax2d(),
    lambda: nn.Unfold(2),
]


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("make", AFTER_A_CONVOLUTION)
def test_what_follows_a_convolution(
    make: Callable[[], nn.Module], execution: Execution
) -> None:
    """The meta-gradient against the plain loop of PyTorch's own functions."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), make(), nn.Flatten())
    width = body(torch.zeros(1, 3, 4, 4)).shape[1]
    net = nn.Sequential(body, nn.Tanh(), nn.Linear(width, 2)).double()
    x = torch.randn(2, 2, 3, 3, 4, 4, dtype=torch.float64)
    y = torch.eye(2, dtype=torch.float64)[[0, 1, 0]].expand(2, 3, 2)
    support, query = (Examples(part, y, torch.ones(2, 3).double()) for part in x)
    learner = MAML(net, lr=0.1, steps=2)
    learner.execution = execution
    loss = learner(Task(support, query)).mean()

    def cross_entropy(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return -(functional_call(net, params, x).log_softmax(-1) * y).sum(-1).mean()

    params = dict(net.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        adapted = params
        for _ in range(2):
            inner = cross_entropy(adapted, support.x[task], y[task])
            grads = torch.autograd.grad(inner, list(adapted.values()), create_graph=True)
            adapted = {
                name: p - 0.1 * g for (name, p), g in zip(adapted.items(), grads, strict=True)
            }
        total = total + cross_entropy(adapted, query.x[task], y[task]) / 2
    torch.testing.assert_close(loss, total)
    found = torch.autograd.grad(loss, list(params.values()))
    expected = torch.autograd.grad(total, list(params.values()))
    torch.testing.assert_close(found, expected)
