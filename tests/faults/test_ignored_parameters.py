"""Nets that ignore what adaptation lends to them: they are named when they are first used."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quickstudy as qs
from quickstudy import Learner
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

LEARNERS: dict[str, Callable[[nn.Module], Learner[Any]]] = {
    "MAML": qs.MAML,
    "Reptile": qs.Reptile,
    "MetaSGD": qs.MetaSGD,
    "IMAML": qs.IMAML,
    "MAML++": qs.MAMLPlusPlus,
    "MetaCurvature": qs.MetaCurvature,
    "ProtoMAML": qs.ProtoMAML,
    "fine tuning": qs.FineTuning,
}


class Fixed(nn.Module):
    """Computes with its own parameters, whatever is lent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.zeros(3))
        weight, bias = self.weight.detach(), self.bias.detach()
        self.compute = lambda x: F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


class HalfFixed(Fixed):
    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x) + self.bias


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def batch() -> qs.Task:
    return Blobs().sample(2, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("name", LEARNERS)
def test_nets_that_ignore_what_is_lent_are_refused(name: str, execution: Any) -> None:
    for use in (
        lambda learner: learner(batch()),
        lambda learner: qs.evaluate(learner, Blobs(), n_tasks=2),
    ):
        learner = LEARNERS[name](Fixed())
        learner.execution = execution
        with pytest.raises(ValueError, match=r"Fixed do not change .* \(weight, bias\)"):
            use(learner)


@pytest.mark.parametrize(
    ("net", "names"), [(HalfFixed(), "weight"), (Unused(), "unused.weight, unused.bias")]
)
def test_parameters_that_no_gradient_reaches_are_named_once(net: nn.Module, names: str) -> None:
    learner = qs.MAML(net)
    with pytest.warns(UserWarning, match=f"do not depend on {names}, which MAML adapts"):
        learner(batch())
    learner(batch())  # warnings are errors here


def test_a_frozen_parameter_may_be_unused() -> None:
    net = Unused()
    net.unused.requires_grad_(False)
    qs.MAML(net)(batch())


def zero_head() -> nn.Module:
    net = MLP(8, 3)
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    return net


@pytest.mark.parametrize("make", [qs.MAML, qs.anil, qs.boil])
def test_layers_of_zeros_are_no_false_alarm(make: Callable[[nn.Module], qs.MAML]) -> None:
    make(zero_head())(batch())


def test_the_probe_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    learner = qs.MAML(net, steps=1)
    learner.execution = "loop"
    second = copy.deepcopy(learner)
    second.load_state_dict(learner.state_dict())
    torch.manual_seed(3)
    first_losses, first_random = learner(batch()), torch.rand(1)
    buffers = copy.deepcopy(dict(learner.named_buffers()))
    learner.load_state_dict(second.state_dict())
    torch.manual_seed(3)
    torch.testing.assert_close(learner(batch()), first_losses, rtol=0, atol=0)  # no probe now
    assert torch.equal(torch.rand(1), first_random)
    torch.testing.assert_close(dict(learner.named_buffers()), buffers, rtol=0, atol=0)
    assert learner.training
