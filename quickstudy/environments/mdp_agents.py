"""Agents that plan in tabular MDPs, as baselines for agents that have learned to explore.

A belief is a function `(visits (T, S, A, S), reward_sum (T, S, A), generator) -> MDP` of the
numbers of transitions and the sums of rewards, for T processes at once. `play_mdp` plans with
it before every episode.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import one_hot, one_hot_argmax
from quickstudy.environments.rollout import PolicyInput, rollout
from quickstudy.environments.tabular_mdp import MDP, TabularMDP

Belief: TypeAlias = Callable[[Tensor, Tensor, Generator], MDP]


@torch.no_grad()
def play_mdp(
    belief: Belief, process: TabularMDP, tasks: MDP, episodes: int, generator: Generator
) -> Tensor:
    """Return the returns (T, episodes) of an agent that acts optimally under its belief.

    Examples:
        >>> process, generator = TabularMDP(states=2, actions=2, horizon=3), Generator()
        >>> tasks = process.tasks(4, generator.manual_seed(0))
        >>> play_mdp(sampled_mdp, process, tasks, 5, generator).shape
        torch.Size([4, 5])
    """
    visits, reward_sum = torch.zeros_like(tasks.transitions), torch.zeros_like(tasks.means)
    rewards: list[Tensor] = []
    for _ in range(episodes):
        table = plan(belief(visits, reward_sum, generator), process.horizon)
        clock = one_hot(torch.zeros(len(visits)).long(), process.horizon, table.dtype)
        steps = rollout(process, tasks, _follow, generator, state=table, memory=clock.to(table))
        observation, action = steps.observation[:, 0], steps.action[:, 0]
        pairs = observation[..., None] * action[..., None, :]  # (T, H, S, A)
        visits = visits + torch.einsum("thsa,thn->tsan", pairs, steps.next_observation[:, 0])
        reward_sum = reward_sum + torch.einsum("thsa,th->tsa", pairs, steps.reward[:, 0])
        rewards.append(steps.reward[:, 0].sum(-1))
    return torch.stack(rewards, -1)


def plan(mdp: MDP, horizon: int) -> Tensor:
    """Return the best action at each step of an episode and in each state, as one-hot rows (T,
    H, S, A), by value iteration.

    Examples:
        >>> stays = torch.eye(2)[:, None].expand(2, 2, 2)[None]  # both actions keep the state
        >>> means = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> plan(MDP(stays, means), horizon=1)[0, 0].tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    value, table = torch.zeros_like(mdp.means[..., 0]), []
    for _ in range(horizon):
        q_values = mdp.means + (mdp.transitions @ value[:, None, :, None])[..., 0]
        table.append(one_hot_argmax(q_values))
        value = q_values.amax(-1)
    return torch.stack(table[::-1], 1)


def expected_mdp(visits: Tensor, reward_sum: Tensor, generator: Generator) -> MDP:
    """Return the mean of the posterior, for a greedy agent.

    Examples:
        >>> mdp = expected_mdp(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2), Generator())
        >>> mdp.transitions[0, 0, 0].tolist(), mdp.means[0, 0].tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    pulls = visits.sum(-1)
    return MDP(
        (visits + 1) / (pulls + visits.shape[-1])[..., None], (reward_sum + 1) / (pulls + 1)
    )


def sampled_mdp(visits: Tensor, reward_sum: Tensor, generator: Generator) -> MDP:
    """Sample the posterior: PSRL (Strens, 2000; Osband et al., 2013, arXiv:1306.0940).

    Examples:
        >>> visits, rewards = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2)
        >>> mdp = sampled_mdp(visits, rewards, Generator().manual_seed(0))
        >>> mdp.transitions.shape, mdp.means.shape
        (torch.Size([1, 2, 2, 2]), torch.Size([1, 2, 2]))
    """
    # distributions.Dirichlet has no generator
    weights = torch._standard_gamma(visits + 1, generator)  # pyright: ignore[reportPrivateImportUsage]
    mean = expected_mdp(visits, reward_sum, generator).means
    noise = torch.randn(mean.shape, generator=generator, device=generator.device)
    means = mean + noise.to(mean) / (visits.sum(-1) + 1).sqrt()
    return MDP(weights / weights.sum(-1, keepdim=True), means)


def _follow(
    table: Tensor, clock: Tensor, policy_input: PolicyInput, noise: Tensor
) -> tuple[Tensor, Tensor, tuple[()]]:
    now = (table * clock[:, None, None]).sum(0)  # (S, A)
    return clock.roll(1), policy_input.observation @ now, ()
