"""Gradient descent that can itself be differentiated: the inner loop of many learners.

`descend` asks a rule of `InnerOptimizer`'s shape how slopes become directions.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from quickstudy.core.functional import Params, gradient, tree_map
from quickstudy.inner_loop.recompute import checkpointed, find_reads, mixed_slopes

Memory: TypeAlias = Any  # a nest of tuples and dictionaries of tensors
State: TypeAlias = tuple[Params, Memory]
Checkpoint: TypeAlias = Literal["sqrt", "steps", "mixed"]


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
    checkpoint: Checkpoint | None = None,
    truncate: int | None = None,
) -> Params:
    """`steps` of gradient descent, themselves differentiable.

    Args:
        lr: one rate, or a rate for every name of `params`, of any shape that broadcasts to the
            parameter's.
        first_order: the slopes are constants to whoever differentiates the result: no
            second-order path is left, not even through parameters that `loss` reads elsewhere.
        checkpoint: what is kept for the derivative, which it does not change. None: all that
            the steps compute. "sqrt": the state before every group of about √steps. "steps":
            the parameters before every step. What else the derivative needs of a group or a
            step is computed once more in the backward pass. "mixed": as "steps", by forward
            derivatives of gradients (Kemaev et al., 2025, arXiv:2505.00793).
        truncate: only the slopes of that many last steps are differentiated, those before are
            constants (Shaban et al., 2019, arXiv:1810.10667). None: those of all.

    Raises:
        ValueError: `checkpoint` is none of these; or, with one, `loss` reads other tensors when
            it is called again.
    """
    if checkpoint not in (None, *get_args(Checkpoint)):
        raise ValueError(f"checkpoint={checkpoint!r} is none of {get_args(Checkpoint)}.")
    rate = lr if isinstance(lr, Mapping) else dict.fromkeys(params, lr)

    # dynamo evaluates annotations, and knows no subscript of `Callable`: hence the text
    def advance(slope: "Callable[[Params], Params]", state: State) -> State:
        params, memory = state
        directions, memory = optimizer.update(slope(params), memory)
        return {n: _stepped(p, directions[n], rate[n]) for n, p in params.items()}, memory

    def constant(params: Params) -> Params:
        with torch.no_grad():
            return gradient(loss)(params)

    slope, state = gradient(loss), (params, optimizer.init(params))
    exact = steps if torch.is_grad_enabled() and not first_order else 0
    exact = exact if truncate is None else min(exact, truncate)
    for _ in range(steps - exact):
        state = advance(constant, state)
    if exact and checkpoint == "sqrt":
        reads = find_reads(partial(advance, slope), state)
        groups = math.isqrt(exact)
        for group in range(groups):
            size = len(range(group, exact, groups))  # as equal as can be
            run = partial(_repeated, partial(advance, slope), size)
            state = checkpointed(run, reads)(state)
        return state[0]
    if exact and checkpoint == "steps":
        slope = checkpointed(slope, find_reads(loss, params))
    elif exact and checkpoint == "mixed":
        slope = mixed_slopes(loss, find_reads(loss, params))
    for _ in range(exact):
        state = advance(slope, state)
    return state[0]


def _repeated(step: Callable[[State], State], times: int, state: State) -> State:
    for _ in range(times):
        state = step(state)
    return state


def _stepped(p: Tensor, direction: Tensor, rate: float | Tensor) -> Tensor:
    # compiled, `alpha` is forgotten where the direction is a matrix product: pytorch#196577
    if isinstance(rate, Tensor) or torch.compiler.is_compiling():
        return p - rate * direction
    return torch.add(p, direction, alpha=-rate)  # one kernel instead of two, backward as well
