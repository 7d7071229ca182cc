"""Memory: how much a step of meta-training takes, and the gradient of some tasks at a time."""

import copy
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.utils.stateless import _reparametrize_module
from torch.profiler import ProfilerActivity, profile

from quickstudy.core.functional import leaves, tree_map
from quickstudy.inner_loop.recompute import Conditions

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse(memory: str | int) -> int:
    """A number of bytes, from "8GiB", "500 MB" or the number itself.

    Raises:
        ValueError: it is nothing of the kind.
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmg]i?|)b?\s*", str(memory).lower())
    if found is None:
        raise ValueError(f"memory={memory!r} is no amount of memory: write it as '8GiB'.")
    return int(float(found[1]) * _UNITS[found[2]])


def readable(size: float) -> str:
    """A number of bytes, as people write it."""
    power = 30 if size >= 2**30 else 20
    return f"{size / 2**power:.3g} {'GiB' if power == 30 else 'MiB'}"


def peak(work: Callable[[], Any], device: torch.device | str) -> int:
    """The most bytes that tensors took at any moment of `work`, beyond those from before.

    On a CPU the allocations of this thread are counted, one by one, by PyTorch's profiler; on
    CUDA the device's allocator knows.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells that it starts, and ends
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = most = 0
    for _, size in sorted(sizes, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    return most


def available(device: torch.device | str) -> int | None:
    """The bytes that this process could still take or has reserved; None: not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        with open("/proc/meminfo") as file:
            found = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
    except OSError:
        found = None
    return None if found is None else int(found[1]) * 1024


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory did not suffice."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def by_chunk(
    learner: Any,
    losses_of: Callable[[Any], Callable[..., Any]],
    batch: Sequence[Any],
    chunk: int,
    threads: int = 1,
) -> Any:
    """`losses_of(learner)(*batch)`, the graphs of only `chunk` tasks being in memory at any
    time; of that many in each of several `threads`.

    As the losses of a batch mostly count alike, the gradient of their sum is computed along
    with them, chunk by chunk, and scaled in the backward pass. Where they do not count alike,
    they are computed once more there.

    Args:
        losses_of: given the learner, a function of batches of tasks to the losses (T,), or to
            these and a tree of other tensors, which have no gradient.
    """
    named = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    rest: list[Any] = []
    execution = chunk, threads
    total = _Chunks.apply(
        learner, losses_of, batch, execution, rest, tuple(named), *named.values()
    )
    return (total, rest[0]) if rest else total


class _Chunks(Function):
    @staticmethod
    def forward(
        ctx: Any,
        learner: Any,
        losses_of: Callable[[Any], Callable[..., Any]],
        batch: Sequence[Any],
        execution: tuple[int, int],
        rest: list[Any],
        names: tuple[str, ...],
        *params: Tensor,
    ) -> Tensor:
        chunk, threads = execution
        ctx.conditions, ctx.batch, ctx.chunk = Conditions(batch), batch, chunk
        ctx.learner, ctx.fn, ctx.names = learner, losses_of(learner), names
        ctx.save_for_backward(*params)
        ctx.slopes = [None] * len(params)
        losses, others, parts = [], [], _parts(batch, chunk)
        if threads > 1:
            done = _in_threads(learner, losses_of, parts, params, threads, ctx.conditions)
        else:
            done = (_differentiated(ctx.fn, part, params, refuse=True) for part in parts)
        for loss, *other, slopes in done:
            ctx.slopes = _added(ctx.slopes, slopes)
            losses.append(loss)
            others += other
        if others:
            rest.append(tree_map(lambda *leaves: torch.cat(leaves), *others))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if bool((share == share[0]).all()):
            slopes = [None if slope is None else share[0] * slope for slope in ctx.slopes]
        else:
            slopes = _weighted(ctx, share)
        return *[None] * 6, *slopes


def _in_threads(
    learner: nn.Module,
    losses_of: Callable[[Any], Callable[..., Any]],
    parts: Sequence[Any],
    params: Sequence[Tensor],
    threads: int,
    conditions: Conditions,
) -> list[tuple[Any, ...]]:
    """`_differentiated` of every part, some at the same time, each by one core.

    What runs may put other tensors in the place of a module's parameters for a while, so every
    thread has a learner of its own, made of the same parameters and buffers.
    """
    tensors = [*learner.parameters(), *learner.buffers()]
    own = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        own.fn = losses_of(copy.deepcopy(learner, {id(tensor): tensor for tensor in tensors}))

    def do(part: Any) -> tuple[Any, ...]:
        with conditions.autocast():
            return _differentiated(own.fn, part, params, refuse=True)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=begin) as pool:
            return list(pool.map(do, parts))
    finally:
        torch.set_num_threads(before)


def _weighted(ctx: Any, share: Tensor) -> list[Tensor | None]:
    params = [p.detach().requires_grad_() for p in ctx.saved_tensors]
    slopes: list[Tensor | None] = [None] * len(params)
    lent = dict(zip(ctx.names, params, strict=True))
    parts = zip(_parts(ctx.batch, ctx.chunk), share.split(ctx.chunk), strict=True)
    with ctx.conditions.again(), _reparametrize_module(ctx.learner, lent):
        for part, weights in parts:
            slopes = _added(slopes, _differentiated(ctx.fn, part, params, weights)[-1])
    return slopes


def _differentiated(
    fn: Callable[..., Any],
    part: Sequence[Any],
    params: Sequence[Tensor],
    weights: Tensor | None = None,
    refuse: bool = False,
) -> tuple[Any, ...]:
    """The losses, whatever else `fn` gives, and the gradient of the (weighted) sum of losses:
    all without a graph, which would live on in the names of a caller."""
    with torch.enable_grad():
        outcome = fn(*part)
        losses, *rest = outcome if isinstance(outcome, tuple) else (outcome,)
        if refuse:
            _refuse_others(losses, params)
        total = losses.sum() if weights is None else losses @ weights
        slopes = torch.autograd.grad(total, params, allow_unused=True)
    return losses.detach(), *(tree_map(torch.Tensor.detach, tree) for tree in rest), slopes


def _added(some: Sequence[Tensor | None], more: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(some, more, strict=True)
    return [b if a is None else a if b is None else a + b for a, b in pairs]


def _parts(batch: Sequence[Any], chunk: int) -> list[Any]:
    size = len(leaves(tuple(batch))[0])
    return [
        tree_map(lambda leaf, i=i: leaf[i : i + chunk], tuple(batch))
        for i in range(0, size, chunk)
    ]


def _refuse_others(loss: Tensor, params: Sequence[Tensor]) -> None:
    """Refuses a loss that would pass a gradient on to what is no parameter of the learner."""
    nodes = [loss.grad_fn] if loss.grad_fn is not None else []
    known: set[Node] = {get_gradient_edge(p).node for p in params}
    while nodes:
        node = nodes.pop()
        if node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            raise ValueError(
                "With `chunk`, the loss of a task must depend on no tensor that has a gradient "
                "and is no parameter of the learner: make it one, by assigning an nn.Parameter "
                "or a module to the learner, or set learner.chunk = None."
            )
        nodes += [other for other, _ in node.next_functions if other is not None]
