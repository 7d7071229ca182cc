"""RAM and GPU memory: amounts as people write them, what a step takes, what is available."""

import ctypes
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse(memory: str | int) -> int:
    """Return a number of bytes, from "8GiB", "500 MB" or the number itself.

    Raises:
        ValueError: it is no amount of memory.

    Examples:
        >>> parse("1.5 kB"), parse("1KiB"), parse(10)
        (1500, 1024, 10)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([kmg]i?|)b?\s*", str(memory).lower())
    if match is None:
        raise ValueError(f"memory={memory!r} is no amount of memory: write it as '8GiB'.")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(size: float) -> str:
    """Return a number of bytes as people write it.

    Examples:
        >>> readable(3 * 2**29), readable(2**20)
        ('1.5 GiB', '1 MiB')
    """
    power = 30 if size >= 2**30 else 20
    return f"{size / 2**power:.3g} {'GiB' if power == 30 else 'MiB'}"


def peak(work: Callable[[], Any], device: torch.device | str) -> int:
    """Return the most bytes that tensors took at a moment of `work`, beyond those from before.

    On a CPU, PyTorch's profiler counts the allocations of this thread one by one; on CUDA, the
    device's allocator does.

    Examples:
        >>> import torch
        >>> peak(lambda: torch.zeros(1000, dtype=torch.float64), "cpu")
        8000
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # silences messages at start and end
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    allocated = most = 0
    for _, size in sorted(sizes, key=lambda event: event[0]):
        allocated += size
        most = max(most, allocated)
    return most


def available(device: torch.device | str) -> int | None:
    """Return the bytes that this process could still take or has reserved; None if unknown.

    Examples:
        >>> (available("cpu") or 1) > 0
        True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        with open("/proc/meminfo") as file:
            match = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
    except OSError:
        match = None
    return None if match is None else int(match[1]) * 1024


def ran_out(error: Exception) -> bool:
    """Return whether `error` reports that memory did not suffice.

    Examples:
        >>> ran_out(MemoryError()), ran_out(ValueError("Too many tasks."))
        (True, False)
    """
    kind = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return kind or "can't allocate memory" in str(error)


@functools.cache
def retain_freed_memory() -> None:
    """Make the C library (glibc) retain up to 1 GiB of freed memory for the next allocation.

    By default it returns large blocks to the system at once, so the activations of each layer
    are written to fresh pages: a training step of convolutions takes up to twice as long. This
    is a setting of the process, made once. It is left alone where it was made already, by
    `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_` or `GLIBC_TUNABLES`.

    Examples:
        >>> retain_freed_memory()
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_ARENA_MAX, 1)  # a thread's own arena holds 64 MB at most


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
