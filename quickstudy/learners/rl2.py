r"""RL², fast reinforcement learning by slow (Duan et al., 2016, arXiv:1611.02779; Wang et al.,
2016, arXiv:1611.05763).

A recurrent policy is told what it did and what that paid, and keeps its hidden state over all
episodes of a trial with a task. So what it learns of the task is its memory, and how to
explore and to learn are its weights, trained to earn much in a whole trial:

$$h_t = \mathrm{GRU}(h_{t-1}; o_t, a_{t-1}, r_{t-1}, d_{t-1}), \qquad
  \max_\theta\, \mathbb{E} \sum_{t \in \text{trial}} \gamma^t r_t$$

Differs from the paper: PPO does outside what TRPO does there (as in later comparisons), the
values are a second head of the policy's net, and inputs go into it as they are.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.actor import Actor
from quickstudy.advantages import clipped, gae
from quickstudy.environments.actions import actions_of
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Percept, Trajectories
from quickstudy.functional import tree_map, weighted_mean
from quickstudy.recurrent import use_cells
from quickstudy.task import Task


class Moment(NamedTuple):
    """What training needs of a step: what the policy was told, and what it said."""

    percept: Percept
    says: Tensor  # of the action, see `environments.Actions`
    value: Tensor  # ()  what it expected to be paid from here on


class RL2(Actor):
    """Learns to explore and to learn, as the memory of a recurrent policy. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `Epochs`.

    Args:
        environment: says how wide observations and actions are.
        hidden: units of the GRU.
        discount: γ, of rewards, in a trial as a whole.
        decay: λ, of advantages (see `advantages.gae`).
        clip: ε, by which the probability of an action may change on a batch (see
            `advantages.clipped`).
        value: how much the squared error of values counts.
        entropy: how much the entropy of actions counts, which keeps it trying.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        hidden: int = 256,
        discount: float = 0.99,
        decay: float = 0.3,
        clip: float = 0.2,
        value: float = 0.5,
        entropy: float = 0.01,
    ):
        super().__init__()
        self.actions = actions_of(environment)
        inputs = environment.observations + environment.actions + 2
        self.memory = use_cells(nn.GRU(inputs, hidden))
        self.policy = nn.Linear(hidden, self.actions.outputs)
        self.value = nn.Linear(hidden, 1)
        self.discount, self.decay, self.clip = discount, decay, clip
        self.value_weight, self.entropy_weight = value, entropy

    def begin(self) -> tuple[tuple[()], Tensor]:
        """A hidden state (hidden,) of zeros."""
        return (), self.policy.weight.new_zeros(self.policy.in_features)

    def act(
        self, state: tuple[()], memory: Tensor, percept: Percept, noise: Tensor
    ) -> tuple[Tensor, Tensor, Moment]:
        """As `Actor.act`."""
        hidden = self._read(tree_map(lambda x: x[None], percept), memory)[0]
        says, value = self.policy(hidden), self.value(hidden)[0]
        return hidden, self.actions.draw(says, noise), Moment(percept, says, value)

    def adapt(
        self, support: Trajectories, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """The hidden state after the episodes (E, H), one after the other."""
        _, memory = self.begin() if state is None else state
        seen = in_order(support)
        hidden = self._read(seen.extras.percept, memory)
        last = torch.arange(len(hidden), device=hidden.device) == seen.weight.sum() - 1
        return (), (hidden * last[:, None]).sum(0)

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """What it says of the actions (N, ·), and the values (N,), at the steps of episodes
        `x`, which are `Trajectories` (E, H), in the order of `in_order`."""
        hidden = self._read(in_order(x).extras.percept, state[1])
        return self.policy(hidden), self.value(hidden)[:, 0]

    def loss(self, task: Task[Trajectories]) -> Tensor:
        """PPO's, a mean over the steps of the trial, with those of values and entropy."""
        says, value = self.predict(self.begin(), task.query)
        seen = in_order(task.query)
        then: Moment = seen.extras
        expected = then.value * seen.weight
        advantage = gae(seen.reward, expected, discount=self.discount, decay=self.decay)
        likelier = self.actions.log_probability(says, seen.action)
        likelier = likelier - self.actions.log_probability(then.says, seen.action)
        each = (
            -clipped(likelier, advantage, self.clip)
            + self.value_weight * (value - (expected + advantage)).square()
            - self.entropy_weight * self.actions.entropy(says)
        )
        return weighted_mean(each, seen.weight)

    def _read(self, percepts: Percept, memory: Tensor) -> Tensor:
        """The hidden state (N, hidden) at each of N steps."""
        now, last, paid, done = percepts
        x = torch.cat([now, last, paid[:, None], done[:, None]], -1)
        return self.memory(x, memory[None])[0]


def in_order(episodes: Trajectories) -> Trajectories:
    """The steps of episodes (E, H) one after the other (E · H,), and then all padding, so that
    whoever goes through them need not step over it."""
    order = (1 - episodes.weight.flatten()).argsort(stable=True)
    return tree_map(lambda leaf: leaf.flatten(0, 1)[order], episodes)
