r"""The SNAIL policy, which learns to explore by attention to all that it did (Mishra,
Rohaninejad, Chen & Abbeel, 2018, arXiv:1707.03141, sections 3 and 5.2).

As RL² it is told, at every step of a trial, what it sees, what it did last, what that paid, and
whether an episode has just ended, and is trained to earn much in the whole trial. But it has no
hidden state to keep all that in: temporal convolutions and attention (see `learners.snail`)
read the steps themselves,

$$h_t = \mathrm{SNAIL}(e_1, \dots, e_t), \qquad e_t = W \, [o_t, a_{t-1}, r_{t-1}, d_{t-1}]$$

so that what was seen long ago is as near as what was seen last. A trial is read at once in
training, and step by step, with what the layers said of the past in memory, when it acts.

Differs from the paper: PPO does outside what TRPO does there, and the values are a second head
of the policy's net.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.actor import Actor
from quickstudy.environments.actions import actions_of
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Percept, Trajectories
from quickstudy.functional import tree_map
from quickstudy.learners.snail import Block, CausalAttention, TemporalConvolution
from quickstudy.task import Task
from quickstudy.trials import Moment, in_order, ppo, told


class SNAILPolicy(Actor):
    """Learns to explore and to learn, by attention to the past of a trial. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `Epochs`.

    Args:
        environment: says how wide observations and actions are.
        length: L, of the longest trial: episodes times horizon. So many past steps are
            remembered; of a longer trial, the last.
        width: of what is embedded of a step.
        blocks: the net, as of `SNAIL`; the default is the paper's for bandits and MDPs.
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
        length: int,
        width: int = 32,
        blocks: Sequence[Block] = (32, 32, (32, 32)),
        discount: float = 0.99,
        decay: float = 0.3,
        clip: float = 0.2,
        value: float = 0.5,
        entropy: float = 0.01,
    ):
        super().__init__()
        self.length, self.actions = length, actions_of(environment)
        self.embed = nn.Linear(environment.observations + environment.actions + 2, width)
        self.layers = nn.ModuleList()
        inputs = width
        for block in blocks:
            if isinstance(block, int):
                for i in range(math.ceil(math.log2(max(length, 2)))):
                    self.layers.append(TemporalConvolution(inputs, block, dilation=2**i))
                    inputs += block
            else:
                self.layers.append(CausalAttention(inputs, *block))
                inputs += block[1]
        self.policy = nn.Linear(inputs, self.actions.outputs)
        self.value = nn.Linear(inputs, 1)
        weights = {"value_weight": value, "entropy_weight": entropy}
        self.objective = partial(ppo, discount=discount, decay=decay, clip=clip, **weights)

    def begin(self) -> tuple[tuple[()], Tensor]:
        """No steps yet: L rows of zeros, newest last (L, 1 + features)."""
        return (), self._nothing(self.length)

    def act(
        self, state: tuple[()], memory: Tensor, percept: Percept, noise: Tensor
    ) -> tuple[Tensor, Tensor, Moment]:
        """As `Actor.act`."""
        rows = self._read(tree_map(lambda x: x[None], percept), memory)
        says, rate = self._say(rows)
        moment = Moment(percept, says[0], rate[0])
        return torch.cat([memory[1:], rows]), self.actions.draw(says[0], noise), moment

    def adapt(
        self, support: Trajectories, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """The last L steps of the episodes (E, H), one after the other."""
        _, memory = self.begin() if state is None else state
        seen = in_order(support)
        rows = torch.cat([memory, self._read(seen.extras.percept, memory)])
        last = seen.weight.sum().long() + torch.arange(self.length, device=rows.device)
        return (), rows[last]

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """What it says of the actions (N, ·), and the rates (N,), at the steps of episodes
        `x`, which are `Trajectories` (E, H), in the order of `in_order`."""
        return self._say(self._read(in_order(x).extras.percept, state[1]))

    def loss(self, task: Task[Trajectories]) -> Tensor:
        """PPO's, see `trials.ppo`."""
        begun = (), self._nothing(0)  # says the same as L rows of nothing, at less cost
        return self.objective(self.actions, *self.predict(begun, task.query), task.query)

    def _nothing(self, rows: int) -> Tensor:
        return self.policy.weight.new_zeros(rows, 1 + self.policy.in_features)

    def _say(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(rows[:, 1:]), self.value(rows[:, 1:])[:, 0]

    def _read(self, percepts: Percept, memory: Tensor) -> Tensor:
        """What the layers say of N steps after those in memory, (M, 1 + features) -> (N, 1 +
        features): each row begins with 1, unlike those of steps that never were, and has what
        the first layers say of a step, then what later ones do."""
        x = self.embed(told(percepts))
        mark = torch.ones_like(x[:, :1])
        known = torch.cat([memory[:, 0], mark[:, 0]])
        step = torch.arange(len(known), device=x.device)
        ago = step[len(memory) :, None] - step
        seen = (ago >= 0) & (ago <= self.length) & (known > 0)
        for layer in self.layers:
            past = memory[:, 1 : 1 + x.shape[-1]]
            if isinstance(layer, TemporalConvolution):
                x = layer.beside(x, _looked_back(past, x, layer.dilation))
            else:
                assert isinstance(layer, CausalAttention)
                x = _attended(layer, x, past, seen)
        return torch.cat([mark, x], -1)


def _looked_back(past: Tensor, x: Tensor, dilation: int) -> Tensor:
    """The rows `dilation` steps before each of `x` (N, D), which follow `past` (M, D); zeros
    before the first. M is 0 or at least `dilation`."""
    if not len(past):
        return F.pad(x, (0, 0, dilation, 0))[: len(x)]
    return torch.cat([past[-dilation:][: len(x)], x])[: len(x)]


def _attended(layer: CausalAttention, x: Tensor, past: Tensor, seen: Tensor) -> Tensor:
    """As `CausalAttention.forward`, of steps `x` (N, D) that attend to those of the `past`
    (M, D) and of their own which `seen` (N, M + N) says. What is asked is made a row, so that a
    step need not make keys and values of all rows; a bias of keys would change all scores
    alike, and shares sum to 1."""
    asked = layer.query(x) @ layer.key.weight / math.sqrt(len(layer.key.weight))
    score = torch.cat([asked @ past.mT, asked @ x.mT], -1).masked_fill(~seen, -torch.inf)
    share = score.softmax(-1)
    read = share[:, : len(past)] @ past + share[:, len(past) :] @ x
    return torch.cat([x, layer.value(read)], -1)
