"""Families of gymnasium environments, in worker processes that are replaced if they die."""

import importlib
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Self

import joblib
import numpy as np
import torch
from torch import Generator, Tensor

from quickstudy.core.tree import leaves, tree_map, unflatten, unstack
from quickstudy.environments.environment import Environment
from quickstudy.environments.environment_bundle import EnvironmentBundle, Spaces
from quickstudy.environments.environment_workers import InProcess, WorkerProcess, stop
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

    Observations are flattened in the order of `gymnasium.spaces.flatten`; the numbers of a
    `Box` are taken as they are, whatever dtype and bounds it declares. Actions are a `Discrete`
    space, as one-hot rows, or a `Box`, clipped to the bounds that it has with the task. Spaces
    of all tasks have equal sizes. Rewards and `info` are single numbers, of any shape.

    Args:
        make: makes an environment.
        tasks: `tasks(size, generator)` draws tasks: a nest of tensors, axis T in front.
        horizon: H, at most the environment's limit.
        set_task: `set_task(env, task)` sets the task of an environment, a nest of NumPy arrays.
            None: the environment has a method of that name.
        info: names of the numbers of a step's `info` to keep, for `Episodes.info`; 0 at steps
            that have none, as where it is reported at the end only.
        workers: number of processes; 1: only this one. None: one for each core.

    Raises:
        ImportError: gymnasium is not installed.
        ValueError: the actions are neither one of several nor numbers, or observations have no
            fixed size.

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
            importlib.import_module("gymnasium")
        except ImportError as error:
            raise ImportError("Install gymnasium: pip install 'quickstudy[rl]'.") from error
        with closing(make()) as env:
            spaces = Spaces.of(env)
        self.observation_size, self.action_size, self.discrete = spaces
        self.sample_tasks, self.horizon, self.names = tasks, horizon, tuple(info)
        self.workers = joblib.cpu_count() if workers is None else workers
        bundle = EnvironmentBundle(make, set_task or _by_method, spaces, horizon, self.names)
        if self.workers > 1:
            self._shares: list[Any] = [WorkerProcess(i, bundle) for i in range(self.workers)]
        else:
            self._shares = [InProcess(bundle)]
        self._stop = weakref.finalize(self, stop, self._shares)
        self._first, self._steps = 0, 0  # of the episodes under way, and what was answered last
        self._rows = np.zeros((0, 0))
        self._reported = np.zeros(len(self.names), bool)  # whether a step had it

    def tasks(self, size: int, generator: Generator) -> Any:
        """Sample tasks by the function `tasks`."""
        return self.sample_tasks(size, generator)

    def reset(self, task: Any, noise: Tensor) -> tuple[ExternalState, Tensor]:
        """Begin an episode. No earlier episode can continue."""
        parts = leaves(task)

        def begin(noise: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            arrays = tree_map(lambda leaf: leaf.cpu().numpy(), unflatten(task, parts))
            seeds = (noise.cpu().double() * 2**24).long().numpy()  # what floats can tell apart
            self._first, self._steps = self._first + len(self._rows), 0
            self._rows = self._ask("reset", [unstack(arrays), seeds.tolist()])
            episode = self._first + torch.arange(len(seeds), device=noise.device)
            return episode, torch.zeros_like(episode), *self._columns(noise)

        episode, steps, seen, _, _, *info = outside(begin, noise, *parts)
        return ExternalState(episode, steps, dict(zip(self.names, info, strict=True))), seen

    def step(
        self, task: Any, state: ExternalState, action: Tensor, noise: Tensor
    ) -> tuple[ExternalState, Tensor, Tensor, Tensor]:
        """Step all episodes of the last reset together.

        Raises:
            ValueError: the states are not those of the last step, or the environment does not
                fit: see `environment_bundle.EnvironmentBundle`.
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
            self._warn_of_missing_info()
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
        stop(self._shares)

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
            stop(self._shares, patience=0)
            raise

    def _columns(self, like: Tensor) -> tuple[Tensor, ...]:
        rows = torch.from_numpy(self._rows).to(like)
        seen, numbers = rows.tensor_split([self.observation_size], 1)
        return seen, *numbers.where(~numbers.isnan(), 0).unbind(1)  # of `info` that is missing

    def _warn_of_missing_info(self) -> None:
        self._reported |= ~np.isnan(self._rows[:, self.observation_size + 2 :]).all(0)
        if self._steps == self.horizon and not self._reported.all():
            names = np.array(self.names)[~self._reported]
            warnings.warn(
                f"No step had {', '.join(names)} in its `info`, and 0 takes "
                "its place: correct the name if the environment reports another.",
                stacklevel=2,
            )


def _by_method(env: Any, task: Any) -> None:
    env.get_wrapper_attr("set_task")(task)
