"""Normalisation layers whose second-order gradients PyTorch gets wrong under vmap."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quickstudy import MAML
from quickstudy.core.exact_derivatives import ExactDerivatives
from quickstudy.core.stateless import functional_call
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import use_batch_statistics
from quickstudy.testing.learners import Blobs

LAYERS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm2d": lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 1)), nn.BatchNorm2d(2)),
    "BatchNorm3d": lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 1, 1)), nn.BatchNorm3d(2)),
    "InstanceNorm1d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True)
    ),
    "InstanceNorm2d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 1)), nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
    ),
    "InstanceNorm3d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 1, 1)), nn.InstanceNorm3d(2, affine=True)
    ),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "LayerNorm without bias": lambda: nn.LayerNorm(4, bias=False),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_second_order_gradients_of_vmap_and_loop_are_equal(name: str, mode: str):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 4), LAYERS[name](), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    )
    net = use_batch_statistics(net)
    learner = MAML(net, lr=0.5, steps=2).double().train(mode == "train")
    tasks = Blobs().sample(3, torch.Generator().manual_seed(0))
    tasks = tree_map(lambda leaf: leaf.double(), tasks)

    def outcome(execution: Execution) -> tuple[list[Tensor], list[Tensor]]:
        one = copy.deepcopy(learner)
        one.execution = execution
        one(tasks).sum().backward()
        return [p.grad for p in one.parameters() if p.grad is not None], list(one.buffers())

    torch.testing.assert_close(outcome("vmap"), outcome("loop"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_buffers_are_those_of_the_layer(name: str, mode: str):
    plain = LAYERS[name]().train(mode == "train")
    for p in plain.parameters():
        nn.init.normal_(p)
    exact = copy.deepcopy(plain)
    fast = {name: 1 * p for name, p in exact.named_parameters()}  # tensors, not parameters
    x = torch.randn(6, 4)
    torch.testing.assert_close(functional_call(exact, fast, (x,)), plain(x))
    torch.testing.assert_close(exact.state_dict(), plain.state_dict())


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (7, 3)])
def test_batch_statistics_have_the_derivatives_of_the_layer(
    shape: tuple[int, ...], double: None
) -> None:
    layer = nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3)
    use_batch_statistics(layer)
    inputs = [torch.randn(size, requires_grad=True) for size in (shape, (3,), (3,))]

    def outputs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    plain = torch.nn.functional.batch_norm(inputs[0], None, None, *inputs[1:], training=True)
    torch.testing.assert_close(outputs(*inputs), plain)
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


def test_batch_statistics_have_a_third_derivative(double: None) -> None:
    layer = nn.BatchNorm1d(3)
    use_batch_statistics(layer)

    def third(outputs: Callable[[Tensor], Tensor]) -> Tensor:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        grad = outputs(x).pow(3).sum()
        for _ in range(2):
            (grad,) = torch.autograd.grad(grad.pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), x)[0]

    def plain(x: Tensor) -> Tensor:
        n = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt()
        return n * layer.weight + layer.bias

    with ExactDerivatives():
        exact = third(layer)
    torch.testing.assert_close(exact, third(plain))


def test_one_value_has_no_statistics() -> None:
    layer = nn.BatchNorm1d(3)
    use_batch_statistics(layer)
    use_batch_statistics(layer)
    with ExactDerivatives(), pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3))
