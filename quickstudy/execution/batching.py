"""A function of one task as a function of a batch of tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core.exact_derivatives import exact_derivatives
from quickstudy.core.replicas import replica, written_back
from quickstudy.core.stateless import no_checkpointing
from quickstudy.core.threads import MATH_ATTENTION, ProcessSetting
from quickstudy.core.torch_private import ConvBase
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.core.workers import cores, on_cores, spread
from quickstudy.execution.ram import retain_freed_memory

if TYPE_CHECKING:
    from quickstudy.learner import Learner

L = TypeVar("L", bound="Learner[Any]")
Execution: TypeAlias = Literal["vmap", "loop"]


def over_tasks(
    fn: Callable[..., Any], execution: Execution = "vmap", chunk: int | None = None
) -> Callable[..., Any]:
    """Turn a function of one task into a function of a batch of tasks.

    `execution` and `chunk` change speed and memory, never the result: "vmap" computes all tasks
    at once (`chunk`: that many at once), "loop" one after the other. Attention is computed by
    PyTorch's MATH backend, the only one with a second derivative and a batching rule. The fused
    operations of torch's encoder layers are off. Second derivatives of normalisations are exact
    (`quickstudy.core.exact_derivatives`). Without gradients, it is computed by a worker, on one
    core of a CPU.

    Examples:
        >>> import torch
        >>> over_tasks(lambda x: x.sum(), "loop")(torch.ones(3, 2))
        tensor([2., 2., 2.])
    """
    if execution == "vmap":
        run = vmap(fn, randomness="different", chunk_size=chunk)
    elif execution == "loop":

        def run(*batch: Any) -> Any:
            tasks = zip(*map(unstack, batch), strict=True)
            results = [fn(*tree_map(channels_last, task)) for task in tasks]
            return tree_map(lambda *leaves: torch.stack(leaves), *results)
    else:
        raise ValueError(f"execution={execution!r} is neither 'vmap' nor 'loop'.")

    compiling = torch.compiler.is_compiling()  # neither threads nor the allocator's settings
    if not compiling:
        retain_freed_memory()

    def computed(*batch: Any) -> Any:
        # recomputed activations of tasks under vmap have no gradient
        trains = execution == "vmap" and torch.is_grad_enabled()
        refused = no_checkpointing() if trains else nullcontext()
        with differentiable_attention(), exact_derivatives(), refused:
            return run(*batch)

    def batched(*batch: Any) -> Any:
        if (
            compiling
            or torch.is_grad_enabled()
            or any(leaf.device.type != "cpu" for leaf in leaves(batch)[:1])
        ):
            return computed(*batch)
        return on_cores(partial(computed, *batch))

    return batched


def over_cores(
    fn: Callable[[L, Any], Any], learner: L, execution: Execution, chunk: int | None
) -> Callable[[Any], Any]:
    """Turn a function of a learner and one task into a function of a batch of tasks, of which
    each core of a CPU computes a part with its own copy of the learner.

    It is for computations without gradients and random numbers. Tasks under `vmap` are not
    divided: most of their time goes into calls of Python, of which there is one at a time.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> over_cores(lambda _, x: x.sum(), learner, "loop", None)(torch.ones(3, 2))
        tensor([2., 2., 2.])
    """

    def divided(batch: Any) -> Any:
        tensors = leaves(batch)
        size, device = len(tensors[0]), tensors[0].device
        shares = min(cores(), size) if execution == "loop" and device.type == "cpu" else 1

        def share(number: int) -> Any:
            part = tree_map(lambda leaf: leaf.tensor_split(shares)[number], batch)
            with written_back(learner, replica(learner) if shares > 1 else learner) as copied:
                return over_tasks(partial(fn, copied), execution, chunk)(part)

        if shares == 1:
            return share(0)
        results = spread([partial(share, number) for number in range(shares)])
        return tree_map(lambda *parts: torch.cat(parts), *results)

    return divided


def channels_last(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) on a CPU with channels last in memory; other tensors as is.

    Examples:
        >>> import torch
        >>> channels_last(torch.zeros(2, 3, 8, 8)).stride()
        (192, 1, 24, 3)
    """
    if x.ndim != 4 or x.device.type != "cpu" or not x.is_floating_point():
        return x
    return x.to(memory_format=torch.channels_last)


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Compute attention by PyTorch's MATH backend, and encoder layers unfused.

    Only these have a second derivative and a batching rule. The settings are of the process.

    Examples:
        >>> import torch
        >>> with differentiable_attention():
        ...     print(torch.backends.mha.get_fastpath_enabled())
        False
    """
    if torch.compiler.is_compiling():
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        with MATH_ATTENTION, _UNFUSED_LAYERS:
            yield


@contextmanager
def _unfused_layers() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_UNFUSED_LAYERS = ProcessSetting(_unfused_layers)


@contextmanager
def inference(learner: L) -> Iterator[tuple[L, Execution, int | None]]:
    """Prepare a learner for much prediction without gradients.

    Yields:
        The learner, its `execution` and its `chunk`. There is one exception: convolutions on a
        CPU are computed task by task, by a copy of the learner whose weights have channels last
        in memory. (The activations of many tasks leave the cache.) Set `learner.chunk` to have
        tasks computed together all the same.

    Examples:
        >>> import quickstudy as qs
        >>> with inference(qs.PrototypicalNetwork(qs.nets.Conv4())) as (_, *settings):
        ...     print(settings)
        ['loop', None]
    """
    weights = {
        # by `to`: `contiguous` takes weights of one channel as they are
        name: p.detach().to(memory_format=torch.channels_last).requires_grad_(p.requires_grad)
        for name, p in learner.named_parameters()
        if p.ndim == 4 and p.device.type == "cpu" and learner.chunk is None
    }
    convolves = any(isinstance(module, ConvBase) for module in learner.modules())
    if not (weights and convolves):
        yield learner, learner.execution, learner.chunk
        return
    with written_back(learner, replica(learner, weights)) as fast:
        yield fast, "loop", None
