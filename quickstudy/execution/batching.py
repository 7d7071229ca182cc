"""A function of one task as a function of a batch of tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
from quickstudy.core.tree import tree_map, unstack
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
    (`quickstudy.core.exact_derivatives`).

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

    retain_freed_memory()

    def batched(*batch: Any) -> Any:
        # recomputed activations of tasks under vmap have no gradient
        trains = execution == "vmap" and torch.is_grad_enabled()
        refused = no_checkpointing() if trains else nullcontext()
        with differentiable_attention(), exact_derivatives(), refused:
            return run(*batch)

    return batched


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
