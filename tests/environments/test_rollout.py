"""Rollouts: masks, memories, trials."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.func import functional_call, stack_module_state

import quickstudy as qs
from quickstudy.core.tree import leaves
from quickstudy.environments import (
    BernoulliBandit,
    CartPole,
    Environment,
    GridMaze,
    Navigation2D,
    PolicyInput,
    TabularMDP,
    categorical,
    normal,
    rollout,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Countdown(Environment):
    """Ends after as many steps as the task says; the reward is how many are left."""

    observation_size, action_size, discrete, horizon, noise_size = 1, 1, False, 4, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.arange(1.0, size + 1)

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return task, task[None]

    def step(self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor) -> Any:
        state = state - 1
        return state, state[None], state, (state <= 0).to(state.dtype)


def counting(state: Any, memory: Tensor, policy_input: PolicyInput, noise: Tensor) -> Any:
    return memory + 1, memory[None] * 1.0, policy_input


def at_random(state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
    return memory, categorical(torch.zeros_like(noise), noise), ()


def countdown(trial: bool) -> Any:
    environment = Countdown()
    tasks, memory = environment.tasks(5, seeded()), torch.zeros(5, dtype=torch.long)
    return rollout(
        environment, tasks, counting, seeded(), episodes=2, memory=memory, trial=trial
    )


@pytest.mark.parametrize("trial", [False, True])
def test_nothing_happens_after_the_end(trial: bool):
    found = countdown(trial)
    for task, length in enumerate((1, 2, 3, 4, 4)):
        for episode in (0, 1):
            padding = [0.0] * (4 - length)
            assert found.weight[task, episode].tolist() == [1] * length + padding
            left = [float(task - step) for step in range(length)]
            assert found.reward[task, episode].tolist() == left + padding
            seen = [float(task + 1 - step) for step in range(length)]
            assert found.observation[task, episode, :length, 0].tolist() == seen
            assert found.next_observation[task, episode, :length, 0].tolist() == left
            ended = [0.0] * (length - 1) + [1.0 if task < 4 else 0.0]  # the last is cut off
            assert found.done[task, episode].tolist() == ended + padding


def test_in_a_trial_the_memory_goes_on_where_the_last_episode_ended():
    apart, trial = countdown(False), countdown(True)
    for task, length in enumerate((1, 2, 3, 4, 4)):
        first, second = list(range(length)), list(range(length, 2 * length))
        assert trial.action[task, 0, :length, 0].tolist() == first
        assert trial.action[task, 1, :length, 0].tolist() == second
        assert apart.action[task, 1, :length, 0].tolist() == first


def test_a_trial_tells_of_the_last_action_across_episodes():
    trial, apart = countdown(True), countdown(False)
    inputs: PolicyInput = trial.extras
    assert inputs.done[:, :, 1:].max() == 0 and inputs.done[:, 0].max() == 0
    assert inputs.done[:, 1, 0].tolist() == [1] * 5  # ended by itself, or cut off
    for task, length in enumerate((1, 2, 3, 4, 4)):
        assert inputs.action[task, 0, 0, 0] == inputs.reward[task, 0, 0] == 0
        assert inputs.action[task, 1, 0, 0] == length - 1
        assert inputs.reward[task, 1, 0] == task + 1 - length
        assert inputs.observation[task, 1, 0, 0] == task + 1
    first: PolicyInput = apart.extras
    assert first.done.max() == first.action[:, :, 0].abs().max() == 0


@pytest.mark.parametrize(
    "environment", [BernoulliBandit(3), TabularMDP(), GridMaze(3), CartPole(horizon=40)]
)
def test_without_memory_a_trial_is_episodes_side_by_side(environment: Environment):
    tasks = environment.tasks(3, seeded())
    a, b = (
        rollout(environment, tasks, at_random, seeded(), episodes=4, trial=trial)
        for trial in (False, True)
    )
    other = rollout(environment, tasks, at_random, seeded(1), episodes=4)
    for one, same in zip(leaves(a), leaves(b), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(a.action, other.action)
    assert a.observation.shape == (3, 4, environment.horizon, environment.observation_size)
    steps = (3, 4, environment.horizon)
    assert a.action.shape == (*steps, environment.action_size) and a.weight.shape == steps


def test_the_luck_of_an_environment_does_not_depend_on_the_policy():
    bandit = BernoulliBandit(2)

    def first(state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
        return memory, torch.eye(2)[0], noise

    def second(state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
        return memory, torch.eye(2)[1], noise.flip(0)

    tasks = torch.tensor([[0.3, 0.3]])
    a, b = (
        rollout(bandit, tasks, p, seeded(), episodes=50, trial=True) for p in (first, second)
    )
    assert torch.equal(a.reward, b.reward) and 0 < a.reward.mean() < 1


def test_each_task_acts_by_its_own_weights():
    environment, nets = Navigation2D(horizon=3), [torch.nn.Linear(2, 2) for _ in range(4)]
    weights, _ = stack_module_state(nets)

    def policy(state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
        mean = functional_call(nets[0], state, (policy_input.observation,))
        return memory, mean + 0.1 * normal(noise), mean

    tasks = torch.full((4, 2), 9.0)  # far away: no episode ends
    found = rollout(environment, tasks, policy, seeded(), episodes=5, state=weights)
    assert not found.action.requires_grad
    for task, net in enumerate(nets):
        torch.testing.assert_close(found.extras[task], net(found.observation[task]).detach())
    moved = found.observation[:, :, 0] + found.action[:, :, 0].clamp(-0.1, 0.1)
    torch.testing.assert_close(found.next_observation[:, :, 0], moved)


@pytest.mark.parametrize("trial", [False, True])
def test_a_policy_may_draw_more_than_its_action(trial: bool):
    environment = Navigation2D(horizon=3)

    def policy(state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
        return memory, noise[:2], (noise, policy_input)

    tasks = environment.tasks(2, seeded())
    found = rollout(
        environment, tasks, policy, seeded(), episodes=2, trial=trial, extra_noise_size=3
    )
    noise, inputs = found.extras
    assert noise.shape == (2, 2, 3, 5) and len(noise.unique()) == noise.numel()
    assert found.action.shape == inputs.action.shape == (2, 2, 3, 2)


def test_a_rollout_of_nothing_is_refused():
    bandit = BernoulliBandit()
    with pytest.raises(ValueError, match="at least 1"):
        rollout(bandit, bandit.tasks(1, seeded()), at_random, seeded(), episodes=0)
    assert qs.environments.rollout is rollout
