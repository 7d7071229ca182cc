"""Classical agents for Bernoulli bandits, with a uniform prior on each arm.

They are baselines for agents that have learned to explore.

An agent is a function `(wins (T, A), losses (T, A), generator) -> scores (T, A)` of the results
so far, of any number of bandits at once. `play` pulls the arm with the highest score.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import one_hot_argmax

Agent: TypeAlias = Callable[[Tensor, Tensor, Generator], Tensor]


@torch.no_grad()
def play(agent: Agent, tasks: Tensor, pulls: int, generator: Generator) -> Tensor:
    """Return the rewards (T, pulls) of an agent on bandits whose arms pay with probabilities
    `tasks` (T, A), on the generator's device. Ties are broken at random. Rewards are NaN where
    scores are.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> play(thompson, torch.tensor([[0.0, 1.0]]), 100, generator).mean() > 0.9
        tensor(True)
    """
    wins, losses, rewards = torch.zeros_like(tasks), torch.zeros_like(tasks), []
    for _ in range(pulls):
        scores = agent(wins, losses, generator)
        best = (scores == scores.amax(-1, keepdim=True)) + _uniform(tasks, generator)
        arm = one_hot_argmax(torch.where(scores.isnan(), torch.nan, best))
        reward = arm * (_uniform(tasks, generator) < tasks)
        wins, losses = wins + reward, losses + arm - reward
        rewards.append(reward.sum(-1))
    return torch.stack(rewards, -1)


def at_random(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
    """Return equal scores: any arm is pulled.

    Examples:
        >>> at_random(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2), Generator())
        tensor([[0., 0.]])
    """
    return torch.zeros_like(wins)


def greedy(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
    """Return the posterior means of the arms.

    Examples:
        >>> greedy(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]]), Generator())
        tensor([[0.8000, 0.2500]])
    """
    return (wins + 1) / (wins + losses + 2)


def epsilon_greedy(epsilon: float) -> Agent:
    """Return an agent that pulls any arm with probability `epsilon`, else the greedy one.

    Examples:
        >>> agent = epsilon_greedy(0.1)
        >>> play(agent, torch.tensor([[0.0, 1.0]]), 3, torch.Generator().manual_seed(0))
        tensor([[0., 1., 1.]])
    """

    def agent(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
        explores = _uniform(wins[:, :1], generator) < epsilon
        return torch.where(explores, 0.0, greedy(wins, losses, generator))

    return agent


def thompson(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
    """Sample means from the posterior, Beta(1 + wins, 1 + losses): Thompson sampling (1933).

    Examples:
        >>> wins, losses = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])
        >>> thompson(wins, losses, torch.Generator().manual_seed(0)).argmax(-1)
        tensor([0])
    """
    shapes = torch.stack([wins, losses]) + 1
    # distributions.Beta has no generator
    good, bad = torch._standard_gamma(shapes, generator)  # pyright: ignore[reportPrivateImportUsage]
    return good / (good + bad)


def ucb1(c: float = 1.0) -> Agent:
    """Return an agent with upper confidence bounds as scores: mean + c √(2 log t / pulls).

    Auer, Cesa-Bianchi & Fischer, 2002, doi:10.1023/A:1013689704352. Differs from it: mean and
    pulls are those of the posterior, with one more win and one more loss. So an episode need
    not begin with a pull of every arm.

    Examples:
        >>> wins = losses = torch.tensor([[9.0, 1.0]])
        >>> ucb1()(wins, losses, Generator()).argmax(-1)  # equal means, fewer pulls
        tensor([1])
    """

    def agent(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
        pulls = wins + losses
        now = 1 + pulls.sum(-1, keepdim=True)
        return greedy(wins, losses, generator) + c * (2 * now.log() / (pulls + 2)).sqrt()

    return agent


def gittins(pulls: int, *, discount: float = 1.0) -> Agent:
    """Return an agent with Gittins indices as scores, for the pulls left of `pulls`.

    Examples:
        >>> agent = gittins(pulls=5)
        >>> wins = losses = torch.tensor([[1.0, 0.0]])
        >>> agent(wins, losses, Generator()).argmax(-1)  # the arm that was never pulled
        tensor([1])
    """
    table = gittins_indices(pulls, discount=discount)

    def agent(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
        left = pulls - (wins + losses).sum(-1, keepdim=True).long()
        return table.to(wins)[left, wins.long(), losses.long()]

    return agent


def gittins_indices(pulls: int, *, discount: float = 1.0, levels: int = 201) -> Tensor:
    """Return Gittins indices of an arm with a uniform prior: (pulls + 1, pulls, pulls), by the
    pulls left, the wins and the losses.

    The index is the sure reward per pull that equals the arm in value: the maximum, over all
    stopping rules, of expected reward divided by expected number of pulls, both discounted
    (Gittins, 1979). For a finite number of pulls left it approximates the best policy closely
    (Kaufmann, 2018, doi:10.1214/17-AOS1569, section 4). For a discount below 1 and many pulls
    left it is the classical index, which is optimal.

    Dynamic programming computes the gain over each of the `levels` of a grid of sure rewards,
    and interpolates linearly between two levels. Memory and time grow as `levels` · pulls² and
    `levels` · pulls³.

    Raises:
        ValueError: a discount that is not in (0, 1].

    Examples:
        >>> gittins_indices(3)[1:, 0, 0].round(decimals=2)  # 1, 2 and 3 pulls left of a new arm
        tensor([0.5000, 0.5600, 0.5900])
    """
    if not 0 < discount <= 1:
        raise ValueError(f"discount={discount} is not in (0, 1]: 1 counts all pulls alike.")
    sure = torch.linspace(0, 1, levels)[:, None, None]
    table = torch.zeros(pulls + 1, pulls, pulls)
    value = torch.zeros(levels, pulls + 1, pulls + 1)  # by level, wins, losses; 0 pulls left
    for left in range(1, pulls + 1):
        size = pulls + 1 - left  # the arm cannot have been pulled more than `size - 1` times
        counts = torch.arange(size, dtype=value.dtype)
        mean = (counts[:, None] + 1) / (counts[:, None] + counts + 2)
        won, lost = value[:, 1 : size + 1, :size], value[:, :size, 1 : size + 1]
        gain = torch.lerp(lost, won, mean).mul_(discount).add_(mean).sub_(sure)
        low = (gain >= 0).sum(0, keepdim=True) - 1  # gains fall with the level
        above, below = gain.gather(0, low)[0], gain.gather(0, low + 1)[0]
        table[left, :size, :size] = (low[0] + above / (above - below)) / (levels - 1)
        value = gain.clamp_min_(0)
    return table


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    shape, device = like.shape, generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=like.dtype)
