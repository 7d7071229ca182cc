"""Families of gymnasium environments, in worker processes that are replaced if they die."""

import multiprocessing
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Self

import joblib
import numpy as np
import torch
from torch import Generator, Tensor

from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.environments.environment import Environment
from quickstudy.environments.external_call import outside


class ExternalState(NamedTuple):
    """The state of an episode: its number, its steps, and the `info` of the last step.

    Examples:
        >>> info = {"success": torch.tensor(1.0)}
        >>> ExternalState(torch.tensor(0), steps=torch.tensor(3), info=info).steps
        tensor(3)
    """

    episode: Tensor  # ()
    steps: Tensor  # ()
    info: dict[str, Tensor]


class GymnasiumFamily(Environment):
    """Tasks of any `gymnasium.Env` whose task can be set.

    Rollouts treat it as any other environment. A rollout is a function of the generator,
    whatever the number of processes. So all randomness of an episode must come from the
    environment's `np_random`, whose seed is drawn for every episode, and `set_task` and `reset`
    must leave nothing of the episode before.

    Each worker process has a share of the episodes, and steps them one after the other. A
    message has the actions of all of them, so messages cost little. Workers start with the
    first rollout. They stop with `close`, at the end of a `with` block, or with this process.
    If a worker dies, a warning names it, another replaces it, and its episodes are repeated
    from their beginning, with the same seeds and actions.

    Observations are flattened by `gymnasium.spaces.flatten`. Actions are a `Discrete` space, as
    one-hot rows, or a `Box`, clipped to its bounds.

    Args:
        make: makes an environment.
        tasks: `tasks(size, generator)` draws tasks: a nest of tensors, axis T in front.
        horizon: H, at most the environment's limit.
        set_task: `set_task(env, task)` sets the task of an environment, a nest of NumPy arrays.
            None: the environment has a method of that name.
        info: names of the numbers of a step's `info` to keep, for `Episodes.info`.
        workers: number of processes; 1: only this one. None: one for each core.

    Raises:
        ImportError: gymnasium is not installed.
        ValueError: the actions are neither one of several nor numbers.

    Examples:
        >>> import gymnasium
        >>> family = GymnasiumFamily(
        ...     lambda: gymnasium.make("CartPole-v1"),
        ...     lambda size, generator: 5 + 10 * torch.rand(size, generator=generator),
        ...     set_task=lambda env, gravity: setattr(env.unwrapped, "gravity", gravity),
        ...     horizon=10,
        ...     workers=1,
        ... )
        >>> family.observation_size, family.action_size, family.discrete
        (4, 2, True)
    """

    noise_size = 2

    def __init__(
        self,
        make: Callable[[], Any],
        tasks: Callable[[int, Generator], Any],
        *,
        horizon: int,
        set_task: Callable[[Any, Any], None] | None = None,
        info: Sequence[str] = (),
        workers: int | None = None,
    ):
        try:
            from gymnasium.spaces import Box, Discrete, flatdim
        except ImportError as error:
            raise ImportError("Install gymnasium: pip install 'quickstudy[rl]'.") from error
        env = make()
        seen, acts = env.observation_space, env.action_space
        env.close()
        if not isinstance(acts, Box | Discrete):
            raise ValueError(
                f"Actions are {acts}: wrap the environment so that they are Discrete or a Box."
            )
        self.observation_size, self.action_size = flatdim(seen), flatdim(acts)
        self.discrete, self.horizon = isinstance(acts, Discrete), horizon
        self.sample_tasks, self.names = tasks, tuple(info)
        self.workers = joblib.cpu_count() if workers is None else workers
        bundle = _Bundle(make, set_task or _by_method, horizon, self.names)
        if self.workers > 1:
            self._shares: list[Any] = [_Worker(i, bundle) for i in range(self.workers)]
        else:
            self._shares = [_Here(bundle)]
        self._stop = weakref.finalize(self, _stop, self._shares)
        self._first, self._steps = 0, 0  # of the episodes under way, and what was answered last
        self._rows = np.zeros((0, 0))

    def tasks(self, size: int, generator: Generator) -> Any:
        """Sample tasks by the function `tasks`."""
        return self.sample_tasks(size, generator)

    def reset(self, task: Any, noise: Tensor) -> tuple[ExternalState, Tensor]:
        """Begin an episode. No earlier episode can continue."""
        parts = leaves(task)

        def begin(noise: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            rest = iter(parts)
            tasks = unstack(tree_map(lambda _: next(rest).cpu().numpy(), task))
            seeds = (noise.cpu().double() * 2**24).long().numpy()  # what floats can tell apart
            self._first, self._steps = self._first + len(self._rows), 0
            self._rows = self._ask("reset", [tasks, seeds.tolist()])
            episode = self._first + torch.arange(len(seeds), device=noise.device)
            return episode, torch.zeros_like(episode), *self._columns(noise)

        episode, steps, seen, _, _, *info = outside(begin, noise, *parts)
        return ExternalState(episode, steps, dict(zip(self.names, info, strict=True))), seen

    def step(
        self, task: Any, state: ExternalState, action: Tensor, noise: Tensor
    ) -> tuple[ExternalState, Tensor, Tensor, Tensor]:
        """Step all episodes of the last reset together.

        Raises:
            ValueError: the states are not those of the last step.
            RuntimeError: the environment has failed.
        """

        def go_on(action: Tensor, episode: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
            goes_on = self._rows[:, self.observation_size + 1] == 0
            expected = self._first + np.arange(len(self._rows))
            late = steps.cpu().numpy()[goes_on] != self._steps
            if not np.array_equal(episode.cpu().numpy(), expected) or late.any():
                raise ValueError(
                    "Environments outside of PyTorch go on only from where they are: step all "
                    "episodes of the last reset, in order, from the states of the last step."
                )
            self._steps += 1
            self._rows = self._ask("step", [action.cpu().double().numpy()])
            return self._columns(action)

        seen, reward, done, *info = outside(go_on, action, state.episode, state.steps)
        state = ExternalState(
            state.episode, state.steps + 1, dict(zip(self.names, info, strict=True))
        )
        return state, seen, reward, done

    def info(self, task: Any, state: ExternalState) -> dict[str, Tensor]:
        """Return the numbers () of `info`, by name."""
        return state.info

    def close(self) -> None:
        """Stop all processes; another rollout starts new ones."""
        _stop(self._shares)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, method: str, arguments: list[Any]) -> np.ndarray:
        """Return rows (N, O + 2 + info), of each worker's share of the episodes."""
        size = len(arguments[0])
        bounds = np.linspace(0, size, min(len(self._shares), size) + 1).astype(int)
        shares = list(zip(self._shares, bounds, bounds[1:], strict=False))
        try:
            for worker, start, end in shares:
                worker.send(method, [argument[start:end] for argument in arguments])
            return np.concatenate([worker.receive() for worker, _, _ in shares])
        except BaseException:  # also Ctrl-C: the answer to an earlier request may still come
            _stop(self._shares, patience=0)
            raise

    def _columns(self, like: Tensor) -> tuple[Tensor, ...]:
        rows = torch.from_numpy(self._rows).to(like)
        return rows[:, : self.observation_size], *rows[:, self.observation_size :].unbind(1)


def _by_method(env: Any, task: Any) -> None:
    env.get_wrapper_attr("set_task")(task)


class _Bundle:
    """Environments of one process, stepped one after the other."""

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
        from gymnasium.spaces import flatten

        self.envs += [self.make() for _ in range(len(tasks) - len(self.envs))]
        rows = []
        for env, task, (high, low) in zip(self.envs, tasks, seeds, strict=False):
            self.set_task(env, task)
            seen, info = env.reset(seed=(high << 24) + low)
            rows.append(
                [
                    *flatten(env.observation_space, seen),
                    0,
                    0,
                    *[float(info.get(name, 0)) for name in self.names],
                ]
            )
        self.rows, self.steps = np.array(rows, np.float64), 0
        return self.rows

    def step(self, actions: np.ndarray) -> np.ndarray:
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
            seen, reward_value, ended, cut, info = env.step(action)
            if cut and not ended and self.steps < self.horizon:
                raise ValueError(
                    f"The environment cut an episode off after {self.steps} steps: give the "
                    f"family a horizon of at most that, not {self.horizon}."
                )
            row[:reward] = flatten(env.observation_space, seen)  # pyright: ignore
            row[reward], row[done] = reward_value, ended
            for i, name in enumerate(self.names):
                row[i - wide] = info[name]
        return self.rows

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []


class _Here:
    """A worker in this process."""

    def __init__(self, bundle: _Bundle):
        self.bundle = bundle

    def send(self, method: str, arguments: list[Any]) -> None:
        self.answer = getattr(self.bundle, method)(*arguments)

    def receive(self) -> np.ndarray:
        return self.answer

    def stop(self, patience: float) -> None:
        self.bundle.close()


class _Worker:
    """A process with a bundle. It keeps all requests since the last reset, so that another
    process can replace it."""

    def __init__(self, number: int, bundle: _Bundle):
        self.number, self.bundle = number, bundle
        self.process: Any = None
        self.requests: list[tuple[str, list[Any]]] = []

    def start(self) -> None:
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

    def send(self, method: str, arguments: list[Any]) -> None:
        if self.process is None:
            self.start()
        if method == "reset":
            self.requests.clear()
        self.requests.append((method, arguments))
        self._pass(method, arguments)

    def receive(self) -> np.ndarray:
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
        if self.process is not None:
            self._pass("close", [])
            self.process.join(patience)
            self._end()

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
        self.start()
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


def _stop(shares: list[Any], patience: float = 5) -> None:
    """Stop processes; each has `patience` seconds to close its environments."""
    for share in shares:
        share.stop(patience)


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
            answer = False, getattr(bundle, method)(*arguments)
        except Exception:
            answer = True, traceback.format_exc()
        with suppress(ConnectionError):  # the parent is gone, and `wait` returns
            pipe.send(answer)
        if method == "close":
            return
