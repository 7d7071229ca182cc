"""Gradient descent that can itself be differentiated: the inner loop of many learners.

An `InnerOptimizer` turns gradients into directions; `descend` takes the steps.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from quickstudy.core.gradients import gradient
from quickstudy.core.parameters import Params
from quickstudy.core.task import Checkpoint
from quickstudy.core.tree import tree_map
from quickstudy.inner_loop.capture import find_captured
from quickstudy.inner_loop.checkpointing import checkpointed, mixed_grad

Memory: TypeAlias = Any  # a nest of tuples and dictionaries of tensors
State: TypeAlias = tuple[Params, Memory]


class InnerOptimizer(NamedTuple):
    """A rule of descent, as two pure functions; both may read learned parameters.

    `init(params)` is the rule's memory before the first step. `update(grads, memory)` returns
    the directions, which `descend` multiplies by the learning rate and subtracts, and the next
    memory. Both are trees of tensors with the names of `params`.

    Examples:
        >>> import torch
        >>> sign = InnerOptimizer(
        ...     lambda params: (), lambda grads, memory: ({"a": grads["a"].sign()}, memory)
        ... )
        >>> params = {"a": torch.tensor(1.0, requires_grad=True)}
        >>> after = descend(lambda p: p["a"] ** 2, params, lr=0.25, steps=2, optimizer=sign)
        >>> after["a"].item()
        0.5
    """

    init: Callable[[Params], Memory]
    update: Callable[[Params, Memory], tuple[Params, Memory]]


def _no_memory(params: Params) -> Memory:
    return ()


def _identity(grads: Params, memory: Memory) -> tuple[Params, Memory]:
    return grads, memory


steepest_descent = InnerOptimizer(_no_memory, _identity)
"""Plain gradient descent: the directions are the gradients."""


def momentum(beta: float = 0.9, *, nesterov: bool = False) -> InnerOptimizer:
    """Heavy-ball or Nesterov momentum, as `torch.optim.SGD` defines them (no dampening).

    Examples:
        >>> import torch
        >>> params = {"a": torch.tensor(1.0, requires_grad=True)}
        >>> rule = momentum(0.5)
        >>> descend(lambda p: p["a"], params, lr=0.1, steps=2, optimizer=rule)["a"].item()
        0.75
    """
    return InnerOptimizer(
        partial(tree_map, torch.zeros_like), partial(_momentum_update, beta, nesterov)
    )


def _momentum_update(
    beta: float, nesterov: bool, grads: Params, memory: Memory
) -> tuple[Params, Memory]:
    velocity = tree_map(lambda v, grad: beta * v + grad, memory, grads)
    ahead = tree_map(lambda v, grad: grad + beta * v, velocity, grads) if nesterov else velocity
    return ahead, velocity


def adam(betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> InnerOptimizer:
    """Adam (Kingma & Ba, 2015, algorithm 1), as `torch.optim.Adam`.

    If a gradient has always been zero, the square root has no derivative; zero is used.

    Examples:
        >>> import torch
        >>> params = {"a": torch.tensor(1.0, requires_grad=True)}
        >>> after = descend(lambda p: 7 * p["a"], params, lr=0.1, steps=1, optimizer=adam())
        >>> round(after["a"].item(), 4)
        0.9
    """
    return InnerOptimizer(_zero_moments, partial(_adam_update, *betas, eps))


def _zero_moments(params: Params) -> Memory:
    zero = next(iter(params.values())).new_zeros(())
    return tree_map(torch.zeros_like, params), tree_map(torch.zeros_like, params), zero


def _adam_update(
    beta1: float, beta2: float, eps: float, grads: Params, memory: Memory
) -> tuple[Params, Memory]:
    means, squares, step = memory
    step = step + 1
    means = tree_map(lambda m, grad: beta1 * m + (1 - beta1) * grad, means, grads)
    squares = tree_map(lambda v, grad: beta2 * v + (1 - beta2) * grad * grad, squares, grads)

    def direction(mean: Tensor, square: Tensor) -> Tensor:
        positive = square > 0
        root = torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)
        root = root / (1 - beta2**step).sqrt()
        return mean / (1 - beta1**step) / (root + eps)

    return tree_map(direction, means, squares), (means, squares, step)


def descend(
    loss: Callable[[Params], Tensor],
    params: Params,
    *,
    lr: float | Mapping[str, Any],
    steps: int,
    first_order: bool = False,
    optimizer: InnerOptimizer = steepest_descent,
    checkpoint: Checkpoint | None = None,
    truncate: int | None = None,
) -> Params:
    """Return the parameters after `steps` of gradient descent, differentiable themselves.

    Args:
        lr: one learning rate, or a rate for every name of `params`, of any shape that
            broadcasts to the parameter's.
        first_order: treats the gradients as constants. No second-order path is left, not even
            through parameters that `loss` reads elsewhere.
        checkpoint: what is stored for the derivative, which it does not change. None: all that
            the steps compute. "sqrt": the state before every group of about √steps. "steps":
            the parameters before every step. The backward pass computes the rest again.
            "mixed": as "steps", by forward derivatives of gradients (Kemaev et al., 2025,
            arXiv:2505.00793).
        truncate: differentiates only the gradients of that many last steps; earlier ones are
            constants (Shaban et al., 2019, arXiv:1810.10667). None: differentiates all.

    Raises:
        ValueError: `checkpoint` is none of these; or, with one, `loss` reads other tensors when
            it is called again.

    Examples:
        >>> import torch
        >>> start = {"a": torch.tensor(1.0, requires_grad=True)}
        >>> after = descend(lambda params: params["a"] ** 2, start, lr=0.25, steps=2)["a"]
        >>> after.item(), torch.autograd.grad(after, start["a"])[0].item()
        (0.25, 0.25)
    """
    if checkpoint not in (None, *get_args(Checkpoint)):
        raise ValueError(f"checkpoint={checkpoint!r} is none of {get_args(Checkpoint)}.")
    rate = lr if isinstance(lr, Mapping) else dict.fromkeys(params, lr)

    # a string annotation: dynamo evaluates annotations and cannot subscript `Callable`
    def advance(gradient_at: "Callable[[Params], Params]", state: State) -> State:
        params, memory = state
        directions, memory = optimizer.update(gradient_at(params), memory)
        return {n: _step(p, directions[n], rate[n]) for n, p in params.items()}, memory

    def constant_gradient(params: Params) -> Params:
        with torch.no_grad():
            return gradient(loss)(params)

    gradient_at, state = gradient(loss), (params, optimizer.init(params))
    exact = steps if torch.is_grad_enabled() and not first_order else 0
    exact = exact if truncate is None else min(exact, truncate)
    for _ in range(steps - exact):
        state = advance(constant_gradient, state)
    if exact and checkpoint == "sqrt":
        captured = find_captured(partial(advance, gradient_at), state)
        groups = math.isqrt(exact)
        for group in range(groups):
            size = len(range(group, exact, groups))  # as equal as can be
            run = partial(_repeated, partial(advance, gradient_at), size)
            state = checkpointed(run, captured)(state)
        return state[0]
    if exact and checkpoint == "steps":
        gradient_at = checkpointed(gradient_at, find_captured(loss, params))
    elif exact and checkpoint == "mixed":
        gradient_at = mixed_grad(loss, find_captured(loss, params))
    for _ in range(exact):
        state = advance(gradient_at, state)
    return state[0]


def _repeated(step: Callable[[State], State], times: int, state: State) -> State:
    for _ in range(times):
        state = step(state)
    return state


def _step(p: Tensor, direction: Tensor, rate: float | Tensor) -> Tensor:
    # compiled code forgets `alpha` if the direction is a matrix product: pytorch#196577
    if isinstance(rate, Tensor) or torch.compiler.is_compiling():
        return p - rate * direction
    return torch.add(p, direction, alpha=-rate)  # one kernel instead of two, backward as well
