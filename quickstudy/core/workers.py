"""Threads of the library's own, in which PyTorch uses one core, or a given number of them.

PyTorch spreads each large operation over its intra-op threads, which wait for each other at its
end. If another process has one of the cores, all of them wait for it. So tasks are spread over
cores, not operations: each is computed by a worker that has one intra-op thread, and waiting
is passive.

The number of intra-op threads of OpenMP is an attribute of a thread. It is set in workers when
they start, so `torch.get_num_threads()` never changes in a thread of the caller's.
"""

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from quickstudy.core.torch_private import (
    dispatch_modes,
    function_modes,
    in_transform,
    profiler_is_on,
    saved_tensors_hooks_are_on,
)

T = TypeVar("T")


def cores() -> int:
    """Return the number of cores that the caller lets PyTorch use (`torch.set_num_threads`).

    Examples:
        >>> cores() == torch.get_num_threads()
        True
    """
    return getattr(_WORKER, "cores", None) or torch.get_num_threads()


def on_cores(fn: Callable[[], T], intra_op: int = 1) -> T:
    """Return `fn()`, computed by a worker whose operations use `intra_op` cores.

    Gradient mode, autocast and function modes are those of the caller. Under a transform, a
    profiler or a dispatch mode, in a worker, and if the caller has that number of threads, `fn`
    is computed in the caller's own thread. After Ctrl-C, `fn` ends before the exception is
    raised; a second Ctrl-C does not wait.

    Examples:
        >>> on_cores(torch.get_num_threads)
        1
    """
    if _stays() or torch.get_num_threads() == intra_op:
        return fn()
    try:
        future = _executor("steps", intra_op).submit(_carried(fn))
    except RuntimeError:  # the interpreter ends, and starts no threads any more
        return fn()
    return _result(future)


def spread(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return the results of `calls`, each computed by a worker on one core, all at a time.

    Examples:
        >>> spread([lambda: 1, torch.get_num_threads])
        [1, 1]
    """
    if _stays(inside=True) or len(calls) == 1:
        return [call() for call in calls]
    pool = _executor("parts", 1)
    futures = [pool.submit(_carried(call)) for call in calls]
    try:
        return [_result(future) for future in futures]
    finally:
        wait(futures)


_WORKER = threading.local()  # `cores` of the caller, and the `name` of the pool


def _stays(inside: bool = False) -> bool:
    name = getattr(_WORKER, "name", None)
    return (
        name == "parts"
        or (name is not None and not inside)
        or torch.compiler.is_compiling()
        or in_transform()
        or profiler_is_on()
        or saved_tensors_hooks_are_on()
        or bool(dispatch_modes())
    )


@functools.cache
def _executor(name: str, intra_op: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        64, f"quickstudy-{name}", initializer=_begin, initargs=(name, intra_op)
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)  # a child has no threads


def _begin(name: str, intra_op: int) -> None:
    _WORKER.name = name
    torch.get_num_threads()  # PyTorch sets the number of a new thread when it is first asked
    ThreadpoolController().select(user_api="openmp").limit(limits=intra_op)


def _carried(fn: Callable[[], T]) -> Callable[[], T]:
    """`fn` with the state of PyTorch that belongs to the caller's thread."""
    variables, available = contextvars.copy_context(), cores()
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast = [
        functools.partial(torch.autocast, device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]
    modes = function_modes()

    @contextmanager
    def state() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(grad))
            if inference:
                stack.enter_context(torch.inference_mode())
            for context in [*[make() for make in autocast], *modes]:
                stack.enter_context(context)
            yield

    def run() -> T:
        _WORKER.cores = available
        with state():
            return fn()

    return functools.partial(variables.run, run)


def _result(future: "Future[Any]") -> Any:
    try:
        while not future.done():
            wait([future], timeout=1)  # without a timeout, Ctrl-C waits too on some systems
        return future.result()
    except BaseException:
        wait([future])
        raise
