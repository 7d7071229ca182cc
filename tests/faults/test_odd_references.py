"""Nets that reach their modules and parameters in odd ways: by closures, hooks, containers and
objects. What is lent to them is used, and their copies are in evaluation mode."""

import functools
import types
import weakref
from collections import deque, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quickstudy as qs
from quickstudy.core.stateless import functional_call
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.testing.learners import Blobs

Pair = namedtuple("Pair", "layer dropout")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.head = nn.Linear(8, 5), nn.Dropout(0.5), nn.Linear(5, 3)
        self.refer()

    def refer(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.layer(x)))


class ByClosure(Plain):
    def refer(self) -> None:
        self.fn = lambda x: self.head(self.dropout(self.layer(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class ByDefault(Plain):
    def refer(self) -> None:
        def fn(
            x: Tensor, weight: Tensor = self.layer.weight, *, head: Any = self.head
        ) -> Tensor:
            return head(self.dropout(F.linear(x, weight, self.layer.bias)))

        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class Holder:
    def __init__(self, layer: nn.Module, dropout: nn.Module):
        self.layer, self.dropout, self.holder = layer, dropout, self

    def __iter__(self) -> Any:
        return iter((self.layer, self.dropout))


class ByContainer(Plain):
    def __init__(self, make: Callable[[nn.Module, nn.Module], Any]):
        self.make = make
        super().__init__()

    def refer(self) -> None:
        self.parts = self.make(self.layer, self.dropout)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            layer: Any = part() if isinstance(part, weakref.ref) else part
            x = layer(x)
        return self.head(x)


class ByHook(Plain):
    def refer(self) -> None:
        self.layer.register_forward_hook(lambda module, args, output: self.dropout(output))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


class ByMethodOfAnObject(Plain):
    def refer(self) -> None:
        self.hidden = Holder(self.layer, self.dropout)
        self.fn = types.MethodType(lambda held, x: held.dropout(held.layer(x)), self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fn(x))


def patched() -> nn.Module:
    net = Plain()
    forward = net.forward
    net.forward = lambda x: forward(x)  # type: ignore[method-assign]
    return net


def of_a_local_class() -> nn.Module:
    layer, dropout, head = nn.Linear(8, 5), nn.Dropout(0.5), nn.Linear(5, 3)

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.dropout, self.head = layer, dropout, head

        def forward(self, x: Tensor) -> Tensor:
            return head(dropout(layer(x)))

    return Local()


NETS: dict[str, Callable[[], nn.Module]] = {
    "closure": ByClosure,
    "default": ByDefault,
    "tuple": lambda: ByContainer(lambda *parts: parts),
    "list": lambda: ByContainer(lambda *parts: list(parts)),
    "deque": lambda: ByContainer(lambda *parts: deque(parts)),
    "namedtuple": lambda: ByContainer(Pair),
    "object": lambda: ByContainer(Holder),
    "weak references": lambda: ByContainer(lambda *parts: [weakref.ref(p) for p in parts]),
    "partial": lambda: ByContainer(
        lambda layer, dropout: [functools.partial(layer), functools.partial(dropout)]
    ),
    "hook": ByHook,
    "method": ByMethodOfAnObject,
    "patched forward": patched,
    "closure of the class": of_a_local_class,
}


def same_weights(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for seed, (_, p) in enumerate(sorted(net.named_parameters())):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) / 3)
    return net.double()


@pytest.mark.parametrize("name", NETS)
def test_what_is_lent_is_used(name: str) -> None:
    net, plain = same_weights(NETS[name]()).eval(), same_weights(Plain()).eval()
    params = {key: 2 * p.detach() + 1 for key, p in plain.named_parameters()}
    x = torch.randn(4, 8, dtype=torch.float64)
    torch.testing.assert_close(
        functional_call(net, params, x), functional_call(plain, params, x)
    )
    torch.testing.assert_close(net(x), plain(x))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("name", NETS)
def test_they_adapt_as_the_plain_net(name: str, execution: Any) -> None:
    batch = tree_map(
        lambda leaf: leaf.double(), Blobs().sample(2, torch.Generator().manual_seed(0))
    )
    losses = []
    for net in (NETS[name](), Plain()):
        learner = qs.MAML(same_weights(net), lr=0.3, steps=2).eval()
        learner.execution = execution
        loss = learner(batch)
        loss.mean().backward()
        losses.append([loss, *(p.grad for _, p in sorted(net.named_parameters()))])
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("name", NETS)
def test_copies_are_in_evaluation_mode(name: str) -> None:
    learners = [
        qs.PrototypicalNetwork(same_weights(net)).train() for net in (NETS[name](), Plain())
    ]
    x = torch.randn(4, 8, dtype=torch.float64)
    outputs = []
    for learner in learners:
        with evaluating(learner) as copy:
            outputs.append(copy.embed(x))
        assert all(module.training for module in learner.modules())
    torch.testing.assert_close(*outputs)


def test_one_module_at_two_places() -> None:
    layer = nn.Linear(8, 8)
    learner = qs.MAML(nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(8, 3)), steps=2)
    learner(Blobs().sample(2, torch.Generator().manual_seed(0))).mean().backward()
    assert layer.weight.grad is not None and learner.net.get_submodule("2") is layer
    learner.load_state_dict(learner.state_dict())
