r"""The SNAIL policy, which learns to explore by attention to all that it did (Mishra,
Rohaninejad, Chen & Abbeel, 2018, arXiv:1707.03141, sections 3 and 5.2).

As RL² it is told, at every step of a trial, what it sees, what it did last, what that paid, and
whether an episode has just ended, and is trained to earn much in the whole trial. But it has no
hidden state to keep all that in: temporal convolutions and attention (see `learners.snail`)
read the steps themselves,

$$h_t = \mathrm{SNAIL}(e_1, \dots, e_t), \qquad e_t = W \, [o_t, a_{t-1}, r_{t-1}, d_{t-1}]$$

so that what was seen long ago is as near as what was seen last. A trial is read at once in
training, and step by step, with keys and values of the past in memory, when it acts.

Differs from the paper: PPO does outside what TRPO does there, and the values are a second head
of the policy's net.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.actions import action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.learners.amortised.snail import Block, CausalAttention, TemporalConvolution
from quickstudy.rl.actor import Actor
from quickstudy.rl.ppo import Moment, Schedule, at, in_order, ppo, told


class Memory(NamedTuple):
    """What the layers need of past steps, newest last."""

    known: Tensor  # (L,)  1 for a step, 0 for one that never was
    layers: tuple[Any, ...]  # keys (L, K) and values (L, V), or a convolution's last inputs


class SNAILPolicy(Actor):
    """Learns to explore and to learn, by attention to the past of a trial. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `MultiEpoch`.

    Args:
        environment: says how wide observations and actions are.
        length: L, of the longest trial: episodes times horizon. So many past steps are
            remembered; of a longer trial, the last.
        width: of what is embedded of a step.
        blocks: the net, as of `SNAIL`; the default is the paper's for bandits and MDPs.
        reach: how far a block of convolutions looks back, at most; None: L. With 2 it is one
            convolution, of a step and the last one, and all else is left to attention.
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
        length: int,
        width: int = 32,
        blocks: Sequence[Block] = (32, 32, (32, 32)),
        reach: int | None = None,
        discount: float | Schedule = 0.99,
        decay: float | Schedule = 0.3,
        clip: float = 0.2,
        value: float = 0.5,
        entropy: float | Schedule = 0.01,
    ):
        super().__init__()
        self.length, self.actions = length, action_distribution(environment)
        self.embed = nn.Linear(environment.observations + environment.actions + 2, width)
        self.layers = nn.ModuleList()
        inputs = width
        for block in blocks:
            if isinstance(block, int):
                for i in range(math.ceil(math.log2(max(reach or length, 2)))):
                    self.layers.append(TemporalConvolution(inputs, block, dilation=2**i))
                    inputs += block
            else:
                self.layers.append(CausalAttention(inputs, *block))
                inputs += block[1]
        self.policy = nn.Linear(inputs, self.actions.outputs)
        self.value = nn.Linear(inputs, 1)
        self.settings = {"value_weight": value, "entropy_weight": entropy, "clip": clip}
        self.settings |= {"discount": discount, "decay": decay}
        self.set_step(0)

    def set_step(self, done: int) -> None:
        """Sets discount, decay and entropy to what they are after `done` meta-steps."""
        self.objective = partial(ppo, **at(done, self.settings))

    def begin(self) -> tuple[tuple[()], Memory]:
        """No steps yet: of the last L, all are missing."""
        return (), self._nothing(self.length)

    def act(
        self, state: tuple[()], memory: Memory, percept: PolicyInput, noise: Tensor
    ) -> tuple[Memory, Tensor, Moment]:
        """As `Actor.act`."""
        rows, memory = self._read(tree_map(lambda x: x[None], percept), memory)
        says, rate = self._say(rows)
        moment = Moment(percept, says[0], rate[0])
        later = tree_map(lambda past: past[1:], memory)
        return later, self.actions.draw(says[0], noise), moment

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Memory] | None = None
    ) -> tuple[tuple[()], Memory]:
        """What is remembered after the episodes (E, H), one after the other."""
        _, before = self.begin() if state is None else state
        seen = in_order(support)
        steps = seen.weight.sum().long()
        _, after = self._read(seen.extras.percept, before)

        def last(past: Tensor, first: Tensor) -> Tensor:
            return past[steps + torch.arange(len(first), device=past.device)]

        return (), tree_map(last, after, before)

    def predict(self, state: tuple[tuple[()], Memory], x: Any) -> tuple[Tensor, Tensor]:
        """What it says of the actions (N, ·), and the rates (N,), at the steps of episodes
        `x`, which are `Episodes` (E, H), in the order of `in_order`."""
        return self._say(self._read(in_order(x).extras.percept, state[1])[0])

    def loss(self, task: Task[Episodes]) -> Tensor:
        """PPO's, see `trials.ppo`."""
        begun = (), self._nothing(0)  # says the same as L steps that are missing, at less cost
        return self.objective(self.actions, *self.predict(begun, task.query), task.query)

    def _nothing(self, length: int) -> Memory:
        def missing(layer: nn.Module) -> Any:
            zeros = self.policy.weight.new_zeros
            if isinstance(layer, TemporalConvolution):
                return zeros(layer.dilation, layer.then.in_features)
            assert isinstance(layer, CausalAttention)
            keys, values = layer.key.out_features, layer.value.out_features
            return zeros(length, keys), zeros(length, values)

        known = self.policy.weight.new_zeros(length)
        return Memory(known, tuple(missing(layer) for layer in self.layers))

    def _say(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(rows), self.value(rows)[:, 0]

    def _read(self, percepts: PolicyInput, memory: Memory) -> tuple[Tensor, Memory]:
        """What the last layer says of N steps after those in memory, (N, features), and the
        memory with these at its end, N rows longer."""
        x = self.embed(told(percepts))
        known = torch.cat([memory.known, torch.ones_like(x[:, 0])])
        step = torch.arange(len(known), device=x.device)
        ago = step[len(memory.known) :, None] - step
        seen = (ago >= 0) & (ago <= self.length) & (known > 0)
        longer = []
        for layer, past in zip(self.layers, memory.layers, strict=True):
            if isinstance(layer, TemporalConvolution):
                rows = torch.cat([past, x])
                x = layer.beside(x, rows[: len(x)])
                longer.append(rows)
            else:
                assert isinstance(layer, CausalAttention)
                new = layer.key(x), layer.value(x)
                key, value = (torch.cat(pair) for pair in zip(past, new, strict=True))
                score = (layer.query(x) @ key.mT / math.sqrt(key.shape[-1])).masked_fill(
                    ~seen, -torch.inf
                )
                x = torch.cat([x, score.softmax(-1) @ value], -1)
                longer.append((key, value))
        return x, Memory(known, tuple(longer))
