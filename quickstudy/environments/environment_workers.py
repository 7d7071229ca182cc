"""Workers that step gymnasium environments: this process, or others, replaced if they die."""

import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from quickstudy.environments.environment_bundle import EnvironmentBundle, UnfitEnvironment


class InProcess:
    """A worker in this process.

    Examples:
        >>> from quickstudy.environments.environment_bundle import Spaces
        >>> worker = InProcess(EnvironmentBundle(dict, print, Spaces(4, 2, True), 9, ()))
        >>> worker.send("reset", [[], []])
        >>> worker.receive().shape
        (0,)
    """

    def __init__(self, bundle: EnvironmentBundle):
        self.bundle = bundle

    def send(self, method: str, arguments: list[Any]) -> None:
        """Call a method of the bundle."""
        self.answer = getattr(self.bundle, method)(*arguments)

    def receive(self) -> np.ndarray:
        """Return the answer."""
        return self.answer

    def stop(self, patience: float) -> None:
        """Close the environments."""
        self.bundle.close()


class WorkerProcess:
    """A process with a bundle. It keeps all requests since the last reset, so that another
    process can replace it.

    Examples:
        >>> from quickstudy.environments.environment_bundle import Spaces
        >>> worker = WorkerProcess(0, EnvironmentBundle(dict, print, Spaces(4, 2, True), 9, ()))
        >>> worker.send("reset", [[], []])
        >>> worker.receive().shape
        (0,)
        >>> worker.stop(patience=5)
    """

    def __init__(self, number: int, bundle: EnvironmentBundle):
        self.number, self.bundle = number, bundle
        self.process: Any = None
        self.requests: list[tuple[str, list[Any]]] = []

    def send(self, method: str, arguments: list[Any]) -> None:
        """Ask for a call of a method of the bundle; the process starts with the first."""
        if self.process is None:
            self._start()
        if method == "reset":
            self.requests.clear()
        self.requests.append((method, arguments))
        self._pass(method, arguments)

    def receive(self) -> np.ndarray:
        """Return the answer to the last request, of another process if this one died.

        Raises:
            UnfitEnvironment: see `EnvironmentBundle`.
            RuntimeError: the environment failed, or three processes died in one step.
        """
        for attempt in range(4):
            with suppress(EOFError, ConnectionError):
                if attempt:
                    self._replace()
                return self._answer()
        raise RuntimeError(
            f"Worker {self.number} died three times in one step: if memory ran out, roll out "
            "fewer tasks and episodes at a time."
        )

    def stop(self, patience: float) -> None:
        """End the process; it has `patience` seconds to close its environments."""
        if self.process is not None:
            self._pass("close", [])
            self.process.join(patience)
            self._end()

    def _start(self) -> None:
        from gymnasium.vector.utils import CloudpickleWrapper

        # a fork needs no guard in the user's script; workers do without torch and its threads
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work,
            args=(theirs, CloudpickleWrapper(self.bundle)),  # pyright: ignore
            name=f"environments {self.number}",
            daemon=True,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
            self.process.start()
        theirs.close()

    def _pass(self, method: str, arguments: list[Any]) -> None:
        with suppress(ConnectionError):  # it is dead: `receive` reports it
            self.pipe.send((method, arguments))

    def _answer(self) -> np.ndarray:
        answer = self.pipe.recv()
        if isinstance(answer, UnfitEnvironment):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"An environment of worker {self.number} failed:\n{answer}")
        return answer

    def _replace(self) -> None:
        self.process.join()
        warnings.warn(
            f"Worker {self.number} (process {self.process.pid}) died, with exit code "
            f"{self.process.exitcode}: another one does its episodes again.",
            RuntimeWarning,
            stacklevel=2,
        )
        self._end()
        self._start()
        for request in self.requests[:-1]:
            self._pass(*request)
            self._answer()
        self._pass(*self.requests[-1])

    def _end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.process = None


def stop(workers: Iterable[InProcess | WorkerProcess], patience: float = 5) -> None:
    """Stop workers; each has `patience` seconds to close its environments.

    Examples:
        >>> from quickstudy.environments.environment_bundle import Spaces
        >>> stop([InProcess(EnvironmentBundle(dict, print, Spaces(4, 2, True), 9, ()))])
    """
    for worker in workers:
        worker.stop(patience)


def _work(pipe: Any, wrapped: Any) -> None:
    """Serve requests until one is `close`, or the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles these
        signal.signal(number, signal.SIG_IGN)
    parent, bundle = multiprocessing.parent_process(), wrapped.fn
    assert parent is not None
    while pipe in wait([pipe, parent.sentinel]):
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(bundle, method)(*arguments)
        except UnfitEnvironment as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        with suppress(ConnectionError):  # the parent is gone, and `wait` returns
            pipe.send(answer)
        if method == "close":
            return
