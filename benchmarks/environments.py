"""Steps per second of environments, on one CPU core.

Four ways, with the same kind of random actions, drawn before, and with episodes that begin
anew at the horizon: 4,096 tasks at once by `vmap`, as in `rollout`; the same functions for one
task; a `gymnasium.Env` in NumPy, written here to be quick, step by step; and 64 of these in
gymnasium's `SyncVectorEnv`. Times are CPU seconds, which other processes disturb least: the
median of some repeats, in which the ways take turns.

    python -m benchmarks.environments --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import SyncVectorEnv
from torch import Generator, Tensor
from torch.func import vmap

from benchmarks.common import write
from quickstudy.core.tree import unstack
from quickstudy.environments import BernoulliBandit, Environment, Navigation2D, TabularMDP

BATCH, VECTOR, STEPS = 4096, 64, 100


class Episodes(gymnasium.Env[Any, Any]):
    """Cut off at the horizon."""

    steps, horizon = 0, 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.begin(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        return *self.move(action), self.steps >= self.horizon, {}

    def begin(self) -> Any: ...

    def move(self, action: Any) -> Any: ...


class Bandit(Episodes):
    action_space, observation_space = Discrete(5), Box(0, 1, (1,))

    def __init__(self, task: Tensor):
        self.chances, self.seen = task.tolist(), np.ones(1, np.float32)

    def begin(self) -> Any:
        return self.seen

    def move(self, action: int) -> Any:
        return self.seen, float(self.np_random.random() < self.chances[action]), False


class Process(Episodes):
    action_space, observation_space, horizon = Discrete(5), Box(0, 1, (10,)), 10

    def __init__(self, task: Any):
        self.sums, self.means = task.transitions.cumsum(-1).numpy(), task.means.tolist()
        self.rows, self.state = np.eye(10, dtype=np.float32), 0

    def begin(self) -> Any:
        self.state = 0
        return self.rows[0]

    def move(self, action: int) -> Any:
        reward = self.np_random.normal(self.means[self.state][action])
        drawn = self.sums[self.state, action].searchsorted(self.np_random.random(), "right")
        self.state = min(int(drawn), 9)
        return self.rows[self.state], reward, False


class Point(Episodes):
    action_space, observation_space, horizon = Box(-1, 1, (2,)), Box(-10, 10, (2,)), 100

    def __init__(self, task: Tensor):
        self.goal, self.position = task.numpy(), np.zeros(2, np.float32)

    def begin(self) -> Any:
        self.position = np.zeros(2, np.float32)
        return self.position

    def move(self, action: Any) -> Any:
        self.position = self.position + np.clip(action, -0.1, 0.1)
        x, y = (self.position - self.goal).tolist()
        return self.position, -((x * x + y * y) ** 0.5), abs(x) < 0.01 and abs(y) < 0.01


def ours(environment: Environment, generator: Generator, tasks: Any, size: int) -> Any:
    """A function that makes STEPS steps of `size` tasks, by `vmap`, or of one."""
    actions = torch.randint(environment.action_size, (STEPS, size), generator=generator)
    actions = torch.nn.functional.one_hot(actions, environment.action_size).float()
    if not environment.discrete:
        actions = torch.rand(actions.shape, generator=generator) - 0.5

    def steps(task: Any, noise: Tensor, actions: Tensor) -> Tensor:
        rewards, state = [], None
        for step, (step_noise, action) in enumerate(
            zip(noise.unbind(), actions.unbind(), strict=True)
        ):
            if step % environment.horizon == 0:
                state, _ = environment.reset(task, step_noise)
            state, _, reward, _ = environment.step(task, state, action, step_noise)
            rewards.append(reward)
        return torch.stack(rewards)

    def work() -> Tensor:
        noise = torch.rand(STEPS, size, environment.noise_size, generator=generator)
        if size > 1:
            return vmap(steps, in_dims=(0, 1, 1))(tasks, noise, actions)
        return steps(tasks, noise[:, 0], actions[:, 0])

    return work


def alone(env: gymnasium.Env[Any, Any], actions: Any) -> None:
    env.reset(seed=0)
    for action in actions:
        _, _, ended, cut, _ = env.step(action)
        if ended or cut:
            env.reset()


def together(envs: SyncVectorEnv, actions: Any) -> None:
    envs.reset(seed=0)
    for action in actions:
        envs.step(action)


def ways(
    environment: Environment, make: Callable[[Any], Episodes]
) -> dict[str, tuple[Callable[[], object], int]]:
    """What to run, and how many steps that is."""
    generator, rng = Generator().manual_seed(0), np.random.default_rng(0)
    tasks = environment.tasks(BATCH, generator)
    each = unstack(environment.tasks(VECTOR, generator))
    envs = SyncVectorEnv([lambda task=task: make(task) for task in each])
    shape = (STEPS, VECTOR) if environment.discrete else (STEPS, VECTOR, 2)
    actions = rng.integers(5, size=shape)
    if not environment.discrete:
        actions = rng.random(shape, dtype=np.float32) - 0.5
    single = list(actions.reshape(STEPS * VECTOR, *shape[2:]))
    return {
        f"{BATCH:,} at once": (ours(environment, generator, tasks, BATCH), BATCH * STEPS),
        "the same, one task": (ours(environment, generator, each[0], 1), STEPS),
        "NumPy, one task": (lambda: alone(make(each[0]), single), STEPS * VECTOR),
        f"SyncVectorEnv of {VECTOR}": (lambda: together(envs, actions), STEPS * VECTOR),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, environment, make in (
        ("bandit", BernoulliBandit(5), Bandit),
        ("tabular MDP", TabularMDP(), Process),
        ("2-D navigation", Navigation2D(), Point),
    ):
        spent: dict[str, list[float]] = {}
        found = ways(environment, make)
        for _ in range(options.repeats):
            for way, (work, steps) in found.items():
                begun = time.process_time()
                work()
                spent.setdefault(way, []).append((time.process_time() - begun) / steps)
        median = {way: statistics.median(times) for way, times in spent.items()}
        fastest = median[f"{BATCH:,} at once"]
        rows += [
            {
                "environment": name,
                "way": way,
                "steps per second": round(1 / seconds),
                "4,096 at once are faster by": round(seconds / fastest, 1),
            }
            for way, seconds in median.items()
        ]
    write("environments", "Environment steps per second, one core", rows, options.out)


if __name__ == "__main__":
    main()
