"""Tiny environments that several tests act in, and what is gained there by training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

import quickstudy as qs
from quickstudy.environments import Environment
from quickstudy.learners.policies.maml_rl import MAMLRL


class OneArmPays(Environment):
    """Two arms, of which one always pays 1, the other never."""

    observation_size, action_size, discrete, horizon, noise_size = 1, 2, True, 1, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.randint(2, (size,), generator=generator)

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        reward = torch.where(task == 0, action[0], action[1])
        return (), torch.ones_like(noise), reward, torch.ones_like(reward)


class Uneven(OneArmPays):
    """Episodes of one to four pulls."""

    horizon = 4

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        _, observation, reward, _ = super().step(task, state, action, noise)
        return (), observation, reward, (noise[0] < 0.4).to(reward.dtype)


class Sides(Environment):
    """One step, to be made to the side that pays, which is not seen."""

    observation_size, action_size, discrete, horizon, noise_size = 1, 1, False, 1, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.randint(2, (size,), generator=generator) * 2.0 - 1

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        reward = task * action[0].clamp(-2, 2)
        return (), torch.ones_like(noise), reward, torch.ones_like(reward)


def gained(
    make: Callable[[Environment, nn.Module], MAMLRL],
    outside: Callable[[MAMLRL], Any],
    steps: int,
) -> list[tuple[qs.evaluation.Difference, float]]:
    """By three seeds: how much more is earned after adaptation than untrained; what before."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        learner = make(Sides(), qs.nets.policy_net(Sides(), hidden=(8,)))
        rollouts = qs.tasks.Rollouts(Sides(), learner, episodes=10)
        options: Any = {"n_tasks": 200, "meta_batch_size": 200}
        untrained = qs.evaluation.evaluate_rollouts(learner, rollouts, **options)
        for _ in qs.train(
            learner, rollouts, outside(learner), steps=steps, meta_batch_size=20, seed=seed
        ):
            pass
        report = qs.evaluation.evaluate_rollouts(learner, rollouts, **options)
        found.append((report.paired_difference(untrained), report.mean("return before")))
    return found
