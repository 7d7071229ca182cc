"""Inner optimisers against torch.optim, and their derivatives against finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad

from quickstudy import SGD, InnerOptimizer, adam, descend, momentum
from quickstudy.functional import Params

Rule = tuple[InnerOptimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]
RULES: dict[str, Rule] = {
    "sgd": (SGD, lambda ps: torch.optim.SGD(ps, 0.05)),
    "momentum": (momentum(0.8), lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.8)),
    "nesterov": (
        momentum(0.8, nesterov=True),
        lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (adam((0.5, 0.9)), lambda ps: torch.optim.Adam(ps, 0.05, betas=(0.5, 0.9))),
}


def bowl(params: Params) -> Tensor:
    return (params["a"].cos() * params["b"]).sum() + params["b"].pow(4).mean()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_that_of_torch_optim(rule: str, double: None) -> None:
    ours, theirs = RULES[rule]
    start = {"a": torch.randn(3), "b": torch.randn(3)}
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    optimizer = theirs(list(params.values()))
    for _ in range(7):
        optimizer.zero_grad()
        bowl(params).backward()
        optimizer.step()
    found = descend(bowl, start, lr=0.05, steps=7, optimizer=ours)
    for name, p in params.items():
        torch.testing.assert_close(found[name], p.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_can_be_differentiated(rule: str, double: None) -> None:
    ours, _ = RULES[rule]

    def after(a: Tensor, b: Tensor) -> Tensor:
        end = descend(bowl, {"a": a, "b": b}, lr=0.05, steps=4, optimizer=ours)
        return torch.cat([end["a"], end["b"]])

    start = [torch.randn(3, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(after, start)


def test_adam_can_be_differentiated_where_a_slope_is_zero(double: None) -> None:
    def half(params: Params) -> Tensor:  # "b" is not in it
        return params["a"].square().sum()

    def after(a: Tensor) -> Tensor:
        end = descend(half, {"a": a, "b": a}, lr=0.1, steps=3, optimizer=adam())
        return end["b"].sum() + end["a"].square().sum()

    assert grad(after)(torch.randn(3)).isfinite().all()
