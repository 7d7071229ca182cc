"""Gymnasium environments stepped one after the other, with checks of what they return."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np


class Spaces(NamedTuple):
    """The sizes of observations and actions, which all environments of a family share.

    Examples:
        >>> import gymnasium
        >>> Spaces.of(gymnasium.make("CartPole-v1"))
        Spaces(observation_size=4, action_size=2, discrete=True)
    """

    observation_size: int
    action_size: int
    discrete: bool

    @classmethod
    def of(cls, env: Any) -> Self:
        """Return the sizes of an environment's spaces.

        Raises:
            UnfitEnvironment: actions are neither one of several nor numbers, or observations
                have no fixed size.
        """
        from gymnasium.spaces import Box, Discrete, flatdim

        if not isinstance(env.action_space, Box | Discrete):
            raise UnfitEnvironment(
                f"Actions of {env} are {env.action_space}: wrap the environment so that they "
                "are Discrete or a Box."
            )
        if not env.observation_space.is_np_flattenable:
            raise UnfitEnvironment(
                f"Observations of {env} are {env.observation_space}, of no fixed size: wrap "
                "the environment so that they are a Box."
            )
        sizes = flatdim(env.observation_space), flatdim(env.action_space)
        return cls(*sizes, isinstance(env.action_space, Discrete))


class UnfitEnvironment(ValueError):
    """An environment does not fit its family, or returned what is no number.

    Examples:
        >>> issubclass(UnfitEnvironment, ValueError)
        True
    """


class EnvironmentBundle:
    """Environments of one process, stepped one after the other.

    Args:
        make: makes an environment.
        set_task: `set_task(env, task)` sets the task of an environment.
        spaces: the sizes that the environments have with every task.
        horizon: the number of steps after which the family cuts an episode off.
        names: the numbers of a step's `info` to keep.

    Examples:
        >>> import gymnasium
        >>> make = lambda: gymnasium.make("CartPole-v1")
        >>> bundle = EnvironmentBundle(make, lambda env, task: None, Spaces.of(make()), 9, ())
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
        spaces: Spaces,
        horizon: int,
        names: tuple[str, ...],
    ):
        self.make, self.set_task, self.spaces = make, set_task, spaces
        self.horizon, self.names = horizon, names
        self.envs: list[Any] = []
        self.rows = np.zeros((0, 0))
        self.steps = 0

    def reset(self, tasks: list[Any], seeds: list[list[int]]) -> np.ndarray:
        """Begin an episode of each task, and return rows (N, O + 2 + info): the observation,
        the reward, whether the episode has ended, and the numbers of `info`, NaN where there
        are none.

        Raises:
            UnfitEnvironment: the spaces of a task differ in size, or a number is NaN.
        """
        self.envs += [self.make() for _ in range(len(tasks) - len(self.envs))]
        rows, self.steps = [], 0
        for env, task, (high, low) in zip(self.envs, tasks, seeds, strict=False):
            self.set_task(env, task)
            observation, info = env.reset(seed=(high << 24) + low)
            if (spaces := Spaces.of(env)) != self.spaces:
                raise UnfitEnvironment(
                    f"{env} has {spaces} with one of the tasks, and the family has "
                    f"{self.spaces}: wrap the environment so that all tasks have equal sizes."
                )
            rows.append(self._row(env, observation, 0, False, info))
        self.rows = np.array(rows)
        return self.rows

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Take a step with actions (N, A) where an episode goes on, and return rows as `reset`
        does. Actions are clipped to the bounds of each environment.

        Raises:
            UnfitEnvironment: an environment cut an episode off before the horizon, or a number
                is NaN.
        """
        self.steps += 1
        reward, done = self.spaces.observation_size, self.spaces.observation_size + 1
        self.rows[:, reward] = 0
        for i in np.flatnonzero(self.rows[:, done] == 0):
            env = self.envs[i]
            observation, paid, ended, cut, info = env.step(
                _action(env.action_space, actions[i])
            )
            row = self._row(env, observation, paid, ended, info)
            cut = _number(env, "truncation of an episode", cut) and not row[done]
            if cut and self.steps < self.horizon:
                raise UnfitEnvironment(
                    f"{env} cut an episode off after {self.steps} steps: give the family a "
                    f"horizon of at most that, not {self.horizon}."
                )
            self.rows[i] = row
        return self.rows

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()
        self.envs = []

    def _row(self, env: Any, observation: Any, reward: Any, done: Any, info: Any) -> np.ndarray:
        space = env.observation_space
        try:
            seen = _flatten(space, observation)
            if seen.shape != (self.spaces.observation_size,):
                raise ValueError(f"it has {seen.size} numbers")
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UnfitEnvironment(
                f"An observation of {env} does not fit {space}, {error}: declare the space of "
                "what the environment returns."
            ) from error
        if np.isnan(seen).any():
            raise UnfitEnvironment(
                f"An observation of {env} has NaN after {self.steps} steps: end the episode "
                "before, and return numbers."
            )
        paid, ended = _number(env, "reward", reward), _number(env, "end of an episode", done)
        facts = [
            _number(env, f"info[{name!r}]", info[name]) if name in info else np.nan
            for name in self.names
        ]
        return np.array([*seen, paid, ended != 0, *facts])


def _flatten(space: Any, observation: Any) -> np.ndarray:
    """The numbers (O,) of an observation, in the order of `gymnasium.spaces.flatten`. That one
    wraps numbers around which the space has no place for, and takes 0.5 as an integer."""
    from gymnasium.spaces import Box, Dict, Tuple, flatdim, flatten

    if isinstance(space, Dict):
        parts = [_flatten(part, observation[name]) for name, part in space.items()]
        return np.concatenate(parts)
    if isinstance(space, Tuple):
        pairs = zip(space, observation, strict=True)
        return np.concatenate([_flatten(part, value) for part, value in pairs])
    if isinstance(space, Box):
        numbers = _numbers(observation)
        if numbers.size != flatdim(space):
            raise ValueError(f"it has {numbers.size} numbers")
        return numbers
    if not space.contains(observation):
        raise ValueError(f"it is {observation!r}")
    return _numbers(flatten(space, observation))


def _numbers(value: Any) -> np.ndarray:
    """The numbers of an array of any shape, in a row."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"it has dtype {array.dtype}")
    return array.astype(np.float64).ravel()


def _number(env: Any, name: str, value: Any) -> float:
    """The number of an array of any shape with one element."""
    try:
        numbers = _numbers(value)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size != 1 or np.isnan(numbers).any():
        raise UnfitEnvironment(f"The {name} of {env} is {value!r}: return one number.")
    return numbers.item()


def _action(space: Any, row: np.ndarray) -> Any:
    """The action of a space that a row (A,) is."""
    from gymnasium.spaces import Discrete

    if isinstance(space, Discrete):
        return row.argmax() + space.start
    return row.reshape(space.shape).clip(space.low, space.high).astype(space.dtype)
