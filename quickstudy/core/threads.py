"""Settings of the process and random numbers, which threads share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class ProcessSetting:
    """A setting of the whole process, changed while any thread needs it to be.

    The first thread that enters changes it, and the last one that leaves restores it.

    Args:
        change: returns a context in which the setting is changed.

    Examples:
        >>> with MATH_ATTENTION, MATH_ATTENTION:
        ...     print(torch.backends.cuda.flash_sdp_enabled())
        False
        >>> torch.backends.cuda.flash_sdp_enabled()
        True
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]):
        self.change, self.users, self.lock = change, 0, threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.changed = self.change()
                self.changed.__enter__()
            self.users += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.changed.__exit__(None, None, None)


def _forked() -> AbstractContextManager[Any]:
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(cuda)


MATH_ATTENTION = ProcessSetting(partial(sdpa_kernel, SDPBackend.MATH))
FORKED_RANDOM_STATE = ProcessSetting(_forked)
_SEEDED = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed`, in one thread at a time.

    Examples:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     print(torch.rand(1).equal(first))
        True
    """
    with _SEEDED:
        torch.manual_seed(seed)
        yield
