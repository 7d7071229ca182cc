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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.actor import Actor
from quickstudy.advantages import clipped, gae
from quickstudy.environments.actions import Actions, actions_of
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Percept, Trajectories
from quickstudy.functional import tree_map, weighted_mean
from quickstudy.recurrent import use_cells
from quickstudy.task import Task


class Moment(NamedTuple):
    """What training needs of a step: what the policy was told, and what it said."""

    percept: Percept
    says: Tensor  # of the action, see `environments.Actions`
    rate: Tensor  # ()  what it expected a step to pay from here on, see `ppo`


class RL2(Actor):
    """Learns to explore and to learn, as the memory of a recurrent policy. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `Epochs`.

    Args:
        environment: says how wide observations and actions are.
        hidden: units of the GRU.
        remembers: before training, for how many steps the unit remembers that does so longest,
            such as the length of a trial; others do for less, down to one step (Tallec &
            Ollivier, 2018, arXiv:1804.11188). None: as PyTorch has it, all for about two.
        discount: γ, of rewards, in a trial as a whole.
        decay: λ, of advantages (see `advantages.gae`).
        clip: ε, by which the probability of an action may change on a batch (see
            `advantages.clipped`).
        value: how much the squared error of rates counts, see `ppo`.
        entropy: how much the entropy of actions counts, which keeps it trying.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        hidden: int = 256,
        remembers: int | None = None,
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
        if remembers is not None:
            _remember(self.memory, remembers)
        self.policy = nn.Linear(hidden, self.actions.outputs)
        self.value = nn.Linear(hidden, 1)
        weights = {"value_weight": value, "entropy_weight": entropy}
        self.objective = partial(ppo, discount=discount, decay=decay, clip=clip, **weights)

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
        """PPO's, see `ppo`."""
        return self.objective(self.actions, *self.predict(self.begin(), task.query), task.query)

    def _read(self, percepts: Percept, memory: Tensor) -> Tensor:
        """The hidden state (N, hidden) at each of N steps."""
        return self.memory(told(percepts), memory[None])[0]


def ppo(
    actions: Actions,
    says: Tensor,
    rate: Tensor,
    trial: Trajectories,
    *,
    discount: float,
    decay: float,
    clip: float,
    value_weight: float,
    entropy_weight: float,
) -> Tensor:
    """What PPO makes small in a trial, a mean over its steps, with values and entropy; of a
    policy that says `says` (N, ·) and expects `rate` (N,) at the steps `in_order`.

    A rate is what a step will pay from here on, in the discounted mean of all steps that are
    left of the trial, so that a net need not count them; a value is the rate times their
    discounted number. The trial is one episode to the advantages: what an episode taught counts
    in later ones.
    """
    seen = in_order(trial)
    then: Moment = seen.extras
    left = _discounted_steps_left(trial, discount)
    expected = then.rate * left * seen.weight
    advantage = gae(seen.reward, expected, discount=discount, decay=decay)
    likelier = actions.log_probability(says, seen.action)
    likelier = likelier - actions.log_probability(then.says, seen.action)
    each = (
        -clipped(likelier, advantage, clip)
        + value_weight * (rate - (expected + advantage) / left).square()
        - entropy_weight * actions.entropy(says)
    )
    return weighted_mean(each, seen.weight)


def _discounted_steps_left(trial: Trajectories, discount: float) -> Tensor:
    """Of a trial (E, H), the most that can be left before each step, itself among them, where
    the k-th counts γ^k; as `in_order`."""
    weights = discount ** torch.arange(trial.reward.numel(), device=trial.reward.device)
    left = weights.to(trial.reward).cumsum(0).flip(0)
    return left[_order(trial)]


@torch.no_grad()
def _remember(memory: nn.Module, steps: int) -> None:
    """Sets what the gates by which a unit stays as it is begin with."""
    added, kept = (memory.get_parameter(f"bias_{x}_l0").chunk(3)[1] for x in ("ih", "hh"))
    added.zero_()
    kept.uniform_(1, max(steps - 1, 1)).log_()


def told(percepts: Percept) -> Tensor:
    """What a net is fed, (N, O + A + 2), of percepts of N steps."""
    now, last, paid, done = percepts
    return torch.cat([now, last, paid[:, None], done[:, None]], -1)


def in_order(episodes: Trajectories) -> Trajectories:
    """The steps of episodes (E, H) one after the other (E · H,), and then all padding, so that
    whoever goes through them need not step over it."""
    order = _order(episodes)
    return tree_map(lambda leaf: leaf.flatten(0, 1)[order], episodes)


def _order(episodes: Trajectories) -> Tensor:
    return (1 - episodes.weight.flatten()).argsort(stable=True)
