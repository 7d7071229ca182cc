"""The machine that a run is on: its hardware, its clock, Ctrl-C and SIGTERM."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from quickstudy.core.task import Json


def hardware() -> dict[str, Json]:
    """Return what numbers of speed were measured on.

    Examples:
        >>> import quickstudy as qs
        >>> list(qs.runs.hardware())
        ['processor', 'threads', 'gpu', 'python', 'torch']
    """
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


class Clock:
    """Seconds of training: `before` in earlier processes, and in this one without the pauses.

    Examples:
        >>> clock = Clock(before=10.0)
        >>> with clock.paused():
        ...     pass  # a validation
        >>> clock.total() > 10, clock.here() < 1
        (True, True)
    """

    def __init__(self, before: float):
        self.before = before
        self.pauses = 0.0
        self.start = time.perf_counter()

    def here(self) -> float:
        """Return the seconds in this process."""
        return time.perf_counter() - self.start - self.pauses

    def total(self) -> float:
        """Return the seconds in all processes so far."""
        return self.before + self.here()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time in this context."""
        start = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - start


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], BaseException | None]]:
    """Give a function that returns the exception of Ctrl-C or SIGTERM, once one of them came.

    Half a step must not be saved, so that neither interrupts by itself. The second one does at
    once, and nothing is saved.

    Examples:
        >>> import signal
        >>> with interrupts_deferred() as interrupted:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interrupted()
        SystemExit(143)
    """
    received: list[BaseException] = []

    def note(number: int, frame: object) -> None:
        received.append(
            KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        )
        if len(received) > 1:
            raise received[-1]

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
