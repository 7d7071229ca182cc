"""Workers that step gymnasium environments: this process, or others, replaced if they die."""

import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import numpy as np


class EnvironmentBundle:
    """Environments of one process, stepped one after the other.

    Args:
        make: makes an environment.
        set_task: `set_task(env, task)` sets the task of an environment.
        horizon: the number of steps after which the family cuts an episode off.
        names: the numbers of a step's `info` to keep.

    Examples:
        >>> import gymnasium
        >>> make = lambda: gymnasium.make("CartPole-v1")
        >>> bundle = EnvironmentBundle(make, lambda env, task: None, 9, ())
        >>> bundle.reset([None, None], [[0, 1], [0, 2]]).shape
        (2, 6)
        >>> bundle.step(np.eye(2))[:, 4:]  # rewards, and no end
        array([[1., 0.],
               [1., 0.]])
        >>> bundle.close()
    """

    def __init__(
        self,
        make: Callable[[], Any],
        set_task: Callable[[Any, Any], None],
        horizon: int,
        names: tuple[str, ...],
    ):
        self.make, self.set_task = make, set_task
        self.horizon, self.names = horizon, names
        self.envs: list[Any] = []
        self.rows = np.zeros((0, 0))
        self.steps = 0

    def reset(self, tasks: list[Any], seeds: list[list[int]]) -> np.ndarray:
        """Begin an episode of each task, and return rows (N, O + 2 + info): the observation,
        the reward, whether the episode has ended, and the numbers of `info`."""
        from gymnasium.spaces import flatten

        self.envs += [self.make() for _ in range(len(tasks) - len(self.envs))]
        rows = []
        for env, task, (high, low) in zip(self.envs, tasks, seeds, strict=False):
            self.set_task(env, task)
            observation, info = env.reset(seed=(high << 24) + low)
            facts = [float(info.get(name, 0)) for name in self.names]
            rows.append([*flatten(env.observation_space, observation), 0, 0, *facts])
        self.rows, self.steps = np.array(rows, np.float64), 0
        return self.rows

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Take a step with actions (N, A) where an episode goes on, and return rows as `reset`
        does.

        Raises:
            ValueError: an environment cut an episode off before the horizon.
        """
        from gymnasium.spaces import Discrete, flatten

        space, wide = self.envs[0].action_space, len(self.names)
        if isinstance(space, Discrete):
            chosen = actions.argmax(-1) + space.start
        else:
            chosen = actions.reshape(-1, *space.shape).clip(space.low, space.high)
            chosen = chosen.astype(space.dtype)
        self.steps += 1
        reward, done = -2 - wide, -1 - wide
        self.rows[:, reward] = 0
        for env, row, action in zip(self.envs, self.rows, chosen, strict=False):
            if row[done]:
                continue
            observation, row[reward], row[done], cut, info = env.step(action)
            if cut and not row[done] and self.steps < self.horizon:
                raise ValueError(
                    f"The environment cut an episode off after {self.steps} steps: give the "
                    f"family a horizon of at most that, not {self.horizon}."
                )
            row[:reward] = flatten(env.observation_space, observation)  # pyright: ignore
            row[len(row) - wide :] = [info[name] for name in self.names]
        return self.rows

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()
        self.envs = []


class InProcess:
    """A worker in this process.

    Examples:
        >>> worker = InProcess(EnvironmentBundle(dict, lambda env, task: None, 9, ()))
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
        >>> worker = WorkerProcess(0, EnvironmentBundle(dict, lambda env, task: None, 9, ()))
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
        failed, answer = self.pipe.recv()
        if failed:
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
        >>> stop([InProcess(EnvironmentBundle(dict, lambda env, task: None, 9, ()))])
    """
    for worker in workers:
        worker.stop(patience)


def _work(pipe: Any, wrapped: Any) -> None:
    """Serve requests until one is `close`, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent, bundle = multiprocessing.parent_process(), wrapped.fn
    assert parent is not None
    while pipe in wait([pipe, parent.sentinel]):
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = False, getattr(bundle, method)(*arguments)
        except Exception:
            answer = True, traceback.format_exc()
        with suppress(ConnectionError):  # the parent is gone, and `wait` returns
            pipe.send(answer)
        if method == "close":
            return
