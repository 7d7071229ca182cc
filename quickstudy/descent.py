"""Gradient descent that can itself be differentiated: the inner loop of many learners.

`descend` asks a rule of `InnerOptimizer`'s shape how slopes become directions.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad

from quickstudy.functional import Params, tree_map

Memory: TypeAlias = Any  # a nest of tuples and dictionaries of tensors


class InnerOptimizer(NamedTuple):
    """A rule of descent, as two pure functions; both may read learned parameters.

    `init(params)` is what the rule remembers before the first step. `update(slopes, memory)`
    gives the directions, which `descend` multiplies by the rate and subtracts, and the new
    memory. Both are trees of tensors with the names of `params`.
    """

    init: Callable[[Params], Memory]
    update: Callable[[Params, Memory], tuple[Params, Memory]]


def _no_memory(params: Params) -> Memory:
    return ()


def _as_is(slopes: Params, memory: Memory) -> tuple[Params, Memory]:
    return slopes, memory


SGD = InnerOptimizer(_no_memory, _as_is)  # steepest descent: the directions are the slopes


def momentum(beta: float = 0.9, *, nesterov: bool = False) -> InnerOptimizer:
    """Heavy-ball or Nesterov momentum, as `torch.optim.SGD` defines them (no dampening)."""
    return InnerOptimizer(_no_velocity, partial(_accelerated, beta, nesterov))


def _no_velocity(params: Params) -> Memory:
    return tree_map(torch.zeros_like, params)


def _accelerated(
    beta: float, nesterov: bool, slopes: Params, memory: Memory
) -> tuple[Params, Memory]:
    velocity = tree_map(lambda v, slope: beta * v + slope, memory, slopes)
    if nesterov:
        return tree_map(lambda v, slope: slope + beta * v, velocity, slopes), velocity
    return velocity, velocity


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> InnerOptimizer:
    """Adam (Kingma & Ba, 2015, algorithm 1), as `torch.optim.Adam`.

    Where a slope has been zero all along, the square root has no derivative; zero is used.
    """
    return InnerOptimizer(_no_moments, partial(_scaled, *betas, eps))


def _no_moments(params: Params) -> Memory:
    zero = next(iter(params.values())).new_zeros(())
    return tree_map(torch.zeros_like, params), tree_map(torch.zeros_like, params), zero


def _scaled(
    first: float, second: float, eps: float, slopes: Params, memory: Memory
) -> tuple[Params, Memory]:
    means, squares, done = memory
    done = done + 1
    means = tree_map(lambda m, slope: first * m + (1 - first) * slope, means, slopes)
    squares = tree_map(
        lambda s, slope: second * s + (1 - second) * slope * slope, squares, slopes
    )

    def direction(mean: Tensor, square: Tensor) -> Tensor:
        moved = square > 0
        root = torch.where(moved, torch.where(moved, square, 1).sqrt(), 0)
        root = root / (1 - second**done).sqrt()
        return mean / (1 - first**done) / (root + eps)

    return tree_map(direction, means, squares), (means, squares, done)


def descend(
    loss: Callable[[Params], Tensor],
    params: Params,
    *,
    lr: float | Mapping[str, Tensor],
    steps: int,
    first_order: bool = False,
    optimizer: InnerOptimizer = SGD,
) -> Params:
    """`steps` of gradient descent, themselves differentiable.

    `lr` is one rate, or a rate for every name of `params`, of any shape that broadcasts to the
    parameter's. With `first_order` the slopes are constants to whoever differentiates the
    result: no second-order path is left, not even through parameters that `loss` reads
    elsewhere.
    """
    rate = lr if isinstance(lr, Mapping) else dict.fromkeys(params, lr)
    memory = optimizer.init(params)
    for _ in range(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
            slopes = grad(loss)(params)
        directions, memory = optimizer.update(slopes, memory)
        params = {name: _stepped(p, directions[name], rate[name]) for name, p in params.items()}
    return params


def _stepped(p: Tensor, direction: Tensor, rate: float | Tensor) -> Tensor:
    if isinstance(rate, Tensor):
        return p - rate * direction
    return torch.add(p, direction, alpha=-rate)  # one kernel instead of two, backward as well
