r"""VariBAD: variational Bayes-adaptive deep reinforcement learning (Zintgraf, Shiarlis, Igl,
Schulze, Gal, Hofmann & Whiteson, 2020, arXiv:1910.08348).

A task is what a few numbers $m$ say of it, and what is known of a task a normal distribution of
them, the belief. A recurrent encoder reads it off all that was seen of a trial, $\tau_{:t}$ =
$(o_0, a_0, r_0, \dots, o_t)$. A policy that is told the belief beside what it sees can weigh
what it may learn of the task against what it may earn. Encoder and decoder are trained to say,
at every step $t$, the rewards $r_i$ of ALL steps of the trial, past and future (equations 8 to
10):

$$\mathrm{ELBO}_t = \mathbb{E}_{q(m \mid \tau_{:t})} \sum_{i \in \text{trial}}
  \log p(r_i \mid o_i, a_i, o_{i+1}, m)
  - \beta\, \mathrm{KL}\big(q(m \mid \tau_{:t}) \,\|\, q(m \mid \tau_{:t-1})\big)$$

with the prior $\mathcal{N}(0, I)$ before the first step; the policy, by PPO, to earn much in
the whole trial. Neither's gradient goes into the other.

Differs from the paper: both learn from the trials that the policy has just acted in, by one
optimizer (there, the ELBO from a store of old trials too); log-probabilities of rewards are
squared errors, where the paper's grid has those of two classes; inputs go into the nets as they
are.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.actions import DiagonalGaussian, action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.backbones import MLP
from quickstudy.nets.recurrent import remember, use_cells
from quickstudy.rl.actor import Actor
from quickstudy.rl.ppo import Moment, in_order, ppo, told


class Thought(NamedTuple):
    """What training needs of a step."""

    moment: Moment
    belief: Tensor  # (2L,)  means of m and logarithms of deviations, by which it acted
    luck: Tensor  # (L + 1,)  uniform numbers, to draw an m by, and which steps decode theirs


class VariBAD(Actor):
    """Infers a belief of the task, and explores and earns by it. Train it on `Rollouts(...,
    trial=True)`, by an optimizer in `Epochs`.

    Args:
        environment: says how wide observations and actions are.
        latent: L, the width of m.
        hidden: units of the encoder's GRU.
        remembers: before training, for how many steps at most, see `RL2`.
        policy: layers of the net that says actions and rates.
        decoder: layers of each decoder, one or more.
        observations: decodes next observations too, for families in which not only rewards
            differ.
        decoded: of how many steps t of a trial, drawn for each, m is decoded. None: of all,
            which says the same with less noise, and costs more.
        kl: β, of the divergence, beside sums of squared errors.
        discount: γ, of rewards, in a trial as a whole.
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
        latent: int = 5,
        hidden: int = 64,
        timescale: int | None = None,
        policy: Sequence[int] = (32,),
        decoder: Sequence[int] = (32, 32),
        observations: bool = False,
        decoded: int | None = None,
        kl: float = 0.1,
        discount: float = 0.95,
        decay: float = 0.95,
        clip: float = 0.05,
        value: float = 0.5,
        entropy: float = 0.1,
    ):
        super().__init__()
        seen, self.width, self.draws = environment.observations, environment.actions, latent + 1
        self.actions, self.beliefs = (
            action_distribution(environment),
            DiagonalGaussian(2 * latent),
        )
        self.memory = use_cells(nn.GRU(seen + self.width + 2, hidden))
        if timescale is not None:
            remember(self.memory, timescale)
        self.belief = nn.Linear(hidden, 2 * latent)
        says = self.actions.outputs + 1
        self.policy = MLP(seen + 2 * latent, says, hidden=policy, activation=nn.Tanh)
        moved = seen + self.width
        self.rewards = Decoder(latent, moved + seen, 1, decoder)
        self.observations = Decoder(latent, moved, seen, decoder) if observations else None
        weights = {"value_weight": value, "entropy_weight": entropy}
        self.objective = partial(ppo, discount=discount, decay=decay, clip=clip, **weights)
        self.decoded, self.kl = decoded, kl

    def begin(self) -> tuple[tuple[()], Tensor]:
        """A hidden state (hidden,) of zeros."""
        return (), self.belief.weight.new_zeros(self.belief.in_features)

    def act(
        self, state: tuple[()], memory: Tensor, percept: PolicyInput, noise: Tensor
    ) -> tuple[Tensor, Tensor, Thought]:
        """As `Actor.act`."""
        hidden = self._read(tree_map(lambda x: x[None], percept), memory)[0]
        belief = self.belief(hidden)
        says, rate = self._say(percept.observation, belief)
        action = self.actions.draw(says, noise[: self.width])
        thought = Thought(Moment(percept, says, rate), belief, noise[self.width :])
        return hidden, action, thought

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """The hidden state after the episodes (E, H), one after the other."""
        _, memory = self.begin() if state is None else state
        seen = in_order(support)
        hidden = self._read(seen.extras.moment.percept, memory)
        last = torch.arange(len(hidden), device=hidden.device) == seen.weight.sum() - 1
        return (), (hidden * last[:, None]).sum(0)

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """What it says of the actions (N, ·), and the rates (N,), at the steps of episodes
        `x`, which are `Episodes` (E, H), in the order of `in_order`."""
        seen = in_order(x)
        hidden = self._read(seen.extras.moment.percept, state[1])
        return self._say(seen.observation, self.belief(hidden))

    def loss(self, task: Task[Episodes]) -> Tensor:
        """PPO's (see `trials.ppo`), given the beliefs that it acted by, and minus the ELBO: a
        mean over t, divided by the number of steps."""
        moments = task.query._replace(extras=task.query.extras.moment)
        seen = in_order(task.query)
        says = self._say(seen.observation, seen.extras.belief)
        return self.objective(self.actions, *says, moments) - self._elbo(seen)

    def _elbo(self, seen: Episodes) -> Tensor:
        """Of steps (N,) in order."""
        belief = self.belief(self._read(seen.extras.moment.percept, self.begin()[1]))
        before = torch.cat([torch.zeros_like(belief[:1]), belief[:-1]])
        divergence = weighted_mean(self.beliefs.divergence(belief, before), seen.weight)
        *luck, lot = seen.extras.luck.unbind(-1)
        t = (lot + seen.weight).topk(min(self.decoded or len(lot), len(lot))).indices
        m = self.beliefs.draw(belief, torch.stack(luck, -1))[t]
        then = seen.next_observation
        moved = torch.cat([seen.observation, seen.action], -1)
        found = self.rewards(m, torch.cat([moved, then], -1))[..., 0]  # (t, i)
        errors = (found - seen.reward).square()
        if self.observations is not None:
            errors = errors + (self.observations(m, moved) - then).square().sum(-1)
        error = weighted_mean(errors @ seen.weight, seen.weight[t])
        return -(error + self.kl * divergence) / seen.weight.sum()

    def _read(self, percepts: PolicyInput, memory: Tensor) -> Tensor:
        """The hidden state (N, hidden) at each of N steps."""
        return self.memory(told(percepts), memory[None])[0]

    def _say(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """What it says of actions (..., ·), and rates (...)."""
        says = self.policy(torch.cat([observation, belief.detach()], -1))
        return says[..., :-1], says[..., -1]


class Decoder(nn.Module):
    """What K tasks m (K, L) say of N steps (N, steps): (K, N, outputs). Its first layer is one
    of both together, whose products are made once for a task and for a step, not for a pair."""

    def __init__(self, latent: int, steps: int, outputs: int, hidden: Sequence[int]):
        super().__init__()
        self.first = nn.Linear(latent + steps, hidden[0])
        self.rest = MLP(hidden[0], outputs, hidden=hidden[1:])

    def forward(self, m: Tensor, steps: Tensor) -> Tensor:
        """Of every task about every step."""
        of_task, of_step = self.first.weight.split([m.shape[-1], steps.shape[-1]], 1)
        of_steps = F.linear(steps, of_step, self.first.bias)
        return self.rest((F.linear(m, of_task)[:, None] + of_steps).relu())
