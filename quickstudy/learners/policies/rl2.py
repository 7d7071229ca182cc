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

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.actions import action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.recurrent import remember, use_cells
from quickstudy.rl.actor import Actor
from quickstudy.rl.ppo import Moment, Schedule, at, in_order, ppo, told


class RL2(Actor):
    """Learns to explore and to learn, as the memory of a recurrent policy. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `MultiEpoch`.

    Args:
        environment: says how wide observations and actions are.
        hidden: units of the GRU.
        remembers: before training, for how many steps the unit remembers that does so longest,
            such as the length of a trial; others do for less, down to one step (Tallec &
            Ollivier, 2018, arXiv:1804.11188). None: as PyTorch has it, all for about two.
        discount: γ, of rewards, in a trial as a whole. This, `decay` and `entropy` may be
            functions of the number of meta-steps done, such as to look farther ahead later.
        decay: λ, of advantages (see `advantages.gae`).
        clip: ε, by which the probability of an action may change on a batch (see
            `advantages.clipped`).
        value: how much the squared error of rates counts, see `trials.ppo`.
        entropy: how much the entropy of actions counts, which keeps it trying.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        hidden: int = 256,
        timescale: int | None = None,
        discount: float | Schedule = 0.99,
        decay: float | Schedule = 0.3,
        clip: float = 0.2,
        value: float = 0.5,
        entropy: float | Schedule = 0.01,
    ):
        super().__init__()
        self.actions = action_distribution(environment)
        inputs = environment.observations + environment.actions + 2
        self.memory = use_cells(nn.GRU(inputs, hidden))
        if timescale is not None:
            remember(self.memory, timescale)
        self.policy = nn.Linear(hidden, self.actions.outputs)
        self.value = nn.Linear(hidden, 1)
        self.settings = {"value_weight": value, "entropy_weight": entropy, "clip": clip}
        self.settings |= {"discount": discount, "decay": decay}
        self.set_step(0)

    def set_step(self, done: int) -> None:
        """Sets discount, decay and entropy to what they are after `done` meta-steps."""
        self.objective = partial(ppo, **at(done, self.settings))

    def begin(self) -> tuple[tuple[()], Tensor]:
        """A hidden state (hidden,) of zeros."""
        return (), self.policy.weight.new_zeros(self.policy.in_features)

    def act(
        self, state: tuple[()], memory: Tensor, percept: PolicyInput, noise: Tensor
    ) -> tuple[Tensor, Tensor, Moment]:
        """As `Actor.act`."""
        hidden = self._read(tree_map(lambda x: x[None], percept), memory)[0]
        says, rate = self.policy(hidden), self.value(hidden)[0]
        return hidden, self.actions.draw(says, noise), Moment(percept, says, rate)

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """The hidden state after the episodes (E, H), one after the other."""
        _, memory = self.begin() if state is None else state
        seen = in_order(support)
        hidden = self._read(seen.extras.percept, memory)
        last = torch.arange(len(hidden), device=hidden.device) == seen.weight.sum() - 1
        return (), (hidden * last[:, None]).sum(0)

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """What it says of the actions (N, ·), and the rates (N,), at the steps of episodes
        `x`, which are `Episodes` (E, H), in the order of `in_order`."""
        hidden = self._read(in_order(x).extras.percept, state[1])
        return self.policy(hidden), self.value(hidden)[:, 0]

    def loss(self, task: Task[Episodes]) -> Tensor:
        """PPO's, see `trials.ppo`."""
        return self.objective(self.actions, *self.predict(self.begin(), task.query), task.query)

    def _read(self, percepts: PolicyInput, memory: Tensor) -> Tensor:
        """The hidden state (N, hidden) at each of N steps."""
        return self.memory(told(percepts), memory[None])[0]
