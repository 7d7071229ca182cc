"""The losses of a batch with the graphs of only some of its tasks in memory.

Three levels of functions meet here. A *task loss* maps a task to its loss, a *batch loss* maps
a batch of tasks to the losses (T,), and a *factory* maps a learner to a batch loss: each thread
calls it with its own copy of the learner.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node, get_gradient_edge

from quickstudy.core.replicas import replica
from quickstudy.core.tree import leaves, tree_map, unflatten
from quickstudy.core.workers import spread
from quickstudy.inner_loop.capture import ExecutionContext

BatchLoss: TypeAlias = Callable[..., Any]  # a batch -> losses (T,), or these and another tree
Factory: TypeAlias = Callable[[Any], BatchLoss]  # of a learner
Result: TypeAlias = tuple[Tensor, list[Tensor], Sequence[Tensor | None]]  # loss, extras, grads


def by_chunk(
    learner: Any,
    factory: Factory,
    batch: Sequence[Any],
    chunk: int,
    threads: int = 1,
    extra: Any = (),
) -> Any:
    """Return `factory(learner)(*batch)`, with the graphs of only `chunk` tasks in memory at any
    time, or of that many in each of several `threads`.

    The forward pass already accumulates the gradient of the summed losses. If the upstream
    gradient is the same for all tasks, backward only scales it; otherwise the chunks are
    computed again with their weights.

    Args:
        factory: maps the learner to a function of a batch to losses (T,), or to these and a
            tree of other tensors, which have no gradient.
        extra: a tree of the structure of these other tensors.

    Examples:
        >>> import torch
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> factory = lambda net: lambda x: net(x)[:, 0]
        >>> batch = (torch.tensor([[1.0], [2.0], [3.0]]),)
        >>> losses = by_chunk(net, factory, batch, chunk=2)
        >>> losses.mean().backward()
        >>> losses.shape, net.weight.grad
        (torch.Size([3]), tensor([[2.]]))
    """
    params = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    losses, *extras = _ChunkedLosses.apply(
        learner, factory, batch, chunk, threads, tuple(params), *params.values()
    )
    return (losses, unflatten(extra, extras)) if extras else losses


class _ChunkedLosses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        learner: Any,
        factory: Factory,
        batch: Sequence[Any],
        chunk: int,
        threads: int,
        names: tuple[str, ...],
        *params: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.context, ctx.batch, ctx.chunk = ExecutionContext(batch), batch, chunk
        ctx.learner, ctx.factory, ctx.names = learner, factory, names
        ctx.save_for_backward(*params)
        ctx.set_materialize_grads(False)
        ctx.grads = [None] * len(params)
        parts = _split(batch, chunk)
        if threads > 1:
            results = _in_threads(learner, factory, parts, params, threads, ctx.context)
        else:
            batch_loss = factory(learner)
            results = (_with_grads(batch_loss, part, params, check=True) for part in parts)
        outputs: list[list[Tensor]] = []
        for losses, extras, grads in results:
            ctx.grads = _add(ctx.grads, grads)
            outputs.append([losses, *extras])
        losses, *extras = (torch.cat(tensors) for tensors in zip(*outputs, strict=True))
        ctx.mark_non_differentiable(*extras)
        return losses, *extras

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if bool((upstream == upstream[0]).all()):
            grads = [None if grad is None else upstream[0] * grad for grad in ctx.grads]
        else:
            grads = _weighted_grads(ctx, upstream)
        return *[None] * 6, *grads


def _in_threads(
    learner: nn.Module,
    factory: Factory,
    parts: Sequence[Any],
    params: Sequence[Tensor],
    threads: int,
    context: ExecutionContext,
) -> list[Result]:
    """`_with_grads` of every part, `threads` at the same time, each by one core, with a copy of
    the learner."""

    def share(number: int) -> list[Result]:
        batch_loss = factory(replica(learner))
        with context.autocast():
            mine = parts[number::threads]
            return [_with_grads(batch_loss, part, params, check=True) for part in mine]

    shares = spread([partial(share, number) for number in range(min(threads, len(parts)))])
    return [shares[i % threads][i // threads] for i in range(len(parts))]


def _weighted_grads(ctx: Any, upstream: Tensor) -> list[Tensor | None]:
    """The chunks computed again, with a weight for every loss."""
    params = [p.detach().requires_grad_() for p in ctx.saved_tensors]
    grads: list[Tensor | None] = [None] * len(params)
    borrowed = dict(zip(ctx.names, params, strict=True))
    parts = zip(_split(ctx.batch, ctx.chunk), upstream.split(ctx.chunk), strict=True)
    batch_loss = ctx.factory(replica(ctx.learner, borrowed))
    with ctx.context.restored():
        for part, weights in parts:
            grads = _add(grads, _with_grads(batch_loss, part, params, weights)[-1])
    return grads


def _with_grads(
    batch_loss: BatchLoss,
    part: Sequence[Any],
    params: Sequence[Tensor],
    weights: Tensor | None = None,
    check: bool = False,
) -> Result:
    """The losses, the other tensors, and the gradient of the (weighted) sum of the losses, all
    without a graph, which a caller's names would keep alive."""
    with torch.enable_grad():
        output = batch_loss(*part)
        losses, *extra = output if isinstance(output, tuple) else (output,)
        if check:
            _check_sources(losses, params)
        total = losses.sum() if weights is None else losses @ weights
        grads = torch.autograd.grad(total, params, allow_unused=True)
    return losses.detach(), [leaf.detach() for leaf in leaves(tuple(extra))], grads


def _add(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(a, b, strict=True)
    return [y if x is None else x if y is None else x + y for x, y in pairs]


def _split(batch: Sequence[Any], chunk: int) -> list[Any]:
    size = len(leaves(tuple(batch))[0])
    return [
        tree_map(lambda leaf, i=i: leaf[i : i + chunk], tuple(batch))
        for i in range(0, size, chunk)
    ]


def _check_sources(losses: Tensor, params: Sequence[Tensor]) -> None:
    """Raise an error if a gradient would reach a tensor that is no parameter of the learner."""
    nodes = [losses.grad_fn] if losses.grad_fn is not None else []
    visited: set[Node] = {get_gradient_edge(p).node for p in params}
    while nodes:
        node = nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            raise ValueError(
                "With `chunk`, the loss of a task must depend on no tensor that has a gradient "
                "and is no parameter of the learner: make it one, by assigning an nn.Parameter "
                "or a module to the learner, or set learner.chunk = None."
            )
        nodes += [other for other, _ in node.next_functions if other is not None]
