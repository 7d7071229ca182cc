"""What an environment or a policy returns in another shape than declared would be summed over
the wrong axis, or broadcast: it is refused by name."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.environments import BernoulliBandit, Environment, categorical, rollout


class Misshaped(BernoulliBandit):
    """Returns one of its results with one more axis, of size `width`."""

    def __init__(self, part: str, width: int, horizon: int = 3):
        super().__init__(3, horizon=horizon)
        self.part, self.width = part, width

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        state, observation = super().reset(task, noise)
        return state, self._shaped("observation", observation)

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        state, observation, reward, done = super().step(task, state, action, noise)
        return (
            state,
            self._shaped("next_observation", observation),
            self._shaped("reward", reward),
            self._shaped("done", done),
        )

    def info(self, task: Tensor, state: Any) -> Any:
        return {"success": self._shaped("info", task.sum() * 0)}

    def _shaped(self, part: str, value: Tensor) -> Tensor:
        return value.expand(self.width, *value.shape) if part == self.part else value


def acted(environment: Environment, trial: bool = False, policy: Any = None) -> Any:
    def at_random(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, categorical(0 * noise, noise), ()

    generator = Generator().manual_seed(0)
    tasks = environment.tasks(2, generator)
    return rollout(environment, tasks, policy or at_random, generator, episodes=2, trial=trial)


@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("width", [1, 3])  # one more axis, and one as long as the horizon
@pytest.mark.parametrize("part", ["observation", "next_observation", "reward", "done", "info"])
def test_a_result_of_an_environment_has_the_declared_shape(
    part: str, width: int, trial: bool
) -> None:
    with pytest.raises(
        ValueError, match=rf"In Misshaped a step has {part} of shape \({width},"
    ):
        acted(Misshaped(part, width), trial)
    assert acted(Misshaped("none", width), trial).reward.shape == (2, 2, 3)


@pytest.mark.parametrize("shape", [(), (1,), (3, 3)])
def test_an_action_has_the_declared_shape(shape: tuple[int, ...]) -> None:
    def policy(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, torch.ones(shape), ()

    with pytest.raises(ValueError, match=r"In BernoulliBandit a step has action of shape"):
        acted(BernoulliBandit(3), policy=policy)


def test_a_learner_in_such_an_environment_is_not_blamed() -> None:
    bandit = Misshaped("reward", 1)
    learner = qs.MAMLRL(bandit, qs.nets.policy_net(bandit))
    with pytest.raises(ValueError, match="Misshaped"):
        qs.evaluation.evaluate_rollouts(
            learner, qs.tasks.Rollouts(bandit, learner, episodes=2), n_tasks=3
        )
