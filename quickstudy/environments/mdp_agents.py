"""Agents for tabular MDPs that plan: baselines for agents that have learned to explore.

A belief is a function `(visits (T, S, A, S), paid (T, S, A), generator) -> MDP` of how often
each state followed and what was paid in sum, for T processes at once. `play_mdp` plans with it
before every episode.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import one_hot
from quickstudy.environments.rollout import PolicyInput, rollout
from quickstudy.environments.tabular_mdp import MDP, TabularMDP

Belief: TypeAlias = Callable[[Tensor, Tensor, Generator], MDP]


@torch.no_grad()
def play_mdp(
    belief: Belief, process: TabularMDP, tasks: MDP, episodes: int, generator: Generator
) -> Tensor:
    """The rewards (T, episodes) of an agent that does what is best if its belief is true."""
    visits, paid = torch.zeros_like(tasks.transitions), torch.zeros_like(tasks.means)
    rewards: list[Tensor] = []
    for _ in range(episodes):
        table = plan(belief(visits, paid, generator), process.horizon)
        clock = one_hot(torch.zeros(len(visits)).long(), process.horizon, table.dtype)
        found = rollout(process, tasks, _follow, generator, state=table, memory=clock.to(table))
        seen, action = found.observation[:, 0], found.action[:, 0]
        pairs = seen[..., None] * action[..., None, :]  # (T, H, S, A)
        visits = visits + torch.einsum("thsa,thn->tsan", pairs, found.next_observation[:, 0])
        paid = paid + torch.einsum("thsa,th->tsa", pairs, found.reward[:, 0])
        rewards.append(found.reward[:, 0].sum(-1))
    return torch.stack(rewards, -1)


def plan(mdp: MDP, horizon: int) -> Tensor:
    """The best action at each step of an episode and in each state, as one-hot rows (T, H, S,
    A), by value iteration."""
    value, found = torch.zeros_like(mdp.means[..., 0]), []
    for _ in range(horizon):
        worth = mdp.means + (mdp.transitions @ value[:, None, :, None])[..., 0]
        found.append(one_hot(worth.argmax(-1), worth.shape[-1], worth.dtype))
        value = worth.amax(-1)
    return torch.stack(found[::-1], 1)


def expected_mdp(visits: Tensor, paid: Tensor, generator: Generator) -> MDP:
    """The mean of the posterior: an agent that is greedy."""
    pulls = visits.sum(-1)
    return MDP((visits + 1) / (pulls + visits.shape[-1])[..., None], (paid + 1) / (pulls + 1))


def sampled_mdp(visits: Tensor, paid: Tensor, generator: Generator) -> MDP:
    """A draw from the posterior: PSRL (Strens, 2000; Osband et al., 2013, arXiv:1306.0940)."""
    # distributions.Dirichlet has no generator
    weights = torch._standard_gamma(visits + 1, generator)  # pyright: ignore[reportPrivateImportUsage]
    mean = expected_mdp(visits, paid, generator).means
    noise = torch.randn(mean.shape, generator=generator, device=generator.device)
    means = mean + noise.to(mean) / (visits.sum(-1) + 1).sqrt()
    return MDP(weights / weights.sum(-1, keepdim=True), means)


def _follow(
    table: Tensor, clock: Tensor, percept: PolicyInput, noise: Tensor
) -> tuple[Tensor, Tensor, tuple[()]]:
    now = (table * clock[:, None, None]).sum(0)  # (S, A)
    return clock.roll(1), percept.observation @ now, ()
