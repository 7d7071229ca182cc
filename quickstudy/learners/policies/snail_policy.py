r"""The SNAIL policy explores by attention to all steps of a trial (Mishra, Rohaninejad, Chen &
Abbeel, 2018, arXiv:1707.03141, sections 3 and 5.2).

As in RL², the policy reads, at every step of a trial, the observation, the last action, its
reward, and whether an episode has just ended, and it is trained on the return of the whole
trial. Instead of a hidden state, temporal convolutions and attention (see `nets.temporal`) read
the steps themselves,

$$h_t = \mathrm{SNAIL}(e_1, \dots, e_t), \qquad e_t = W \, [o_t, a_{t-1}, r_{t-1}, d_{t-1}]$$

so that an early step is as accessible as the last one. In training the net reads a trial at
once; when it acts, it reads step by step, with the keys and values of the past in memory.

Differs from the paper: PPO is the outer algorithm, where the paper has TRPO, and the value is a
second head of the policy's net.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.temporal import Block, snail_layers
from quickstudy.rl.ppo import Schedule, StepRecord, ppo
from quickstudy.rl.trial_actors import TrialActor
from quickstudy.rl.trials import flatten_episodes, policy_features


class Memory(NamedTuple):
    """What the layers need of past steps, newest last.

    Examples:
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=3)
        >>> _, memory = qs.SNAILPolicy(bandit, length=5, width=8, blocks=(8,)).initial_state()
        >>> memory.mask, memory.layers[0].shape
        (tensor([0., 0., 0., 0., 0.]), torch.Size([1, 8]))
    """

    mask: Tensor  # (L,)  1 for a step, 0 for one that never was
    layers: tuple[Any, ...]  # keys (L, K) and values (L, V), or a convolution's last inputs


class SNAILPolicy(TrialActor):
    """Learns to explore and to learn, by attention to the past of a trial. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `MultiEpoch`.

    Args:
        environment: determines the sizes of observations and actions.
        length: L, the steps of the longest trial: episodes times horizon. The memory holds so
            many past steps; of a longer trial, the last.
        width: size of the embedding of a step.
        blocks: the net, as of `SNAIL`; the default is the paper's for bandits and MDPs.
        reach: how far a block of convolutions looks back, at most; None: L. With 2 a block is
            one convolution, of a step and the last one, and attention does all else.
        discount: γ, of the rewards of a whole trial. `discount`, `gae_lambda` and
            `entropy_coef` may be functions of the number of meta-steps done.
        gae_lambda: λ in [0, 1], see `advantages.gae`.
        clip: ε, see `advantages.clipped_surrogate`.
        value_coef: weight of the squared error of normalised values, see `rl.ppo`.
        entropy_coef: weight of the entropy bonus.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=3)
        >>> learner = qs.SNAILPolicy(bandit, length=5, width=8, blocks=(8, (8, 8)))
        >>> trials = qs.tasks.Rollouts(bandit, learner, episodes=5, trial=True)
        >>> learner(trials.sample(4, torch.Generator().manual_seed(0))).shape
        torch.Size([4])
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
        gae_lambda: float | Schedule = 0.3,
        clip: float = 0.2,
        value_coef: float = 0.5,
        entropy_coef: float | Schedule = 0.01,
    ):
        super().__init__(environment, (discount, gae_lambda, clip, value_coef, entropy_coef))
        self.length = length
        inputs = environment.observation_size + environment.action_size + 2
        self.observation_layer = nn.Linear(inputs, width)
        self.layers, inputs = snail_layers(width, blocks, length if reach is None else reach)
        self.policy = nn.Linear(inputs, self.actions.outputs)
        self.value = nn.Linear(inputs, 1)

    def initial_state(self) -> tuple[tuple[()], Memory]:
        """Return a memory in which all L steps are missing."""
        return (), self._empty_memory(self.length)

    def act(
        self, state: tuple[()], memory: Memory, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[Memory, Tensor, StepRecord]:
        """As `Actor.act`."""
        features, memory = self._read(tree_map(lambda x: x[None], policy_input), memory)
        dist_params, value = (output[0] for output in self._heads(features))
        action = self.actions.sample(dist_params, noise)
        newest = tree_map(lambda past: past[1:], memory)
        return newest, action, StepRecord(policy_input, dist_params, value)

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Memory] | None = None
    ) -> tuple[tuple[()], Memory]:
        """Return the memory after the episodes (E, H), one after the other."""
        _, before = self.initial_state() if state is None else state
        steps = flatten_episodes(support)
        _, after = self._read(steps.extras.policy_input, before)
        n_steps = steps.weight.sum().long()

        def newest(past: Tensor, like: Tensor) -> Tensor:
            return past[n_steps + torch.arange(len(like), device=past.device)]

        return (), tree_map(newest, after, before)

    def predict(self, state: tuple[tuple[()], Memory], x: Any) -> tuple[Tensor, Tensor]:
        """Return the parameters of the action distribution (N, ·) and the normalised values
        (N,), at the steps of `flatten_episodes(x)`; `x` are `Episodes` (E, H)."""
        return self._heads(self._read(flatten_episodes(x).extras.policy_input, state[1])[0])

    def loss(self, task: Task[Episodes]) -> Tensor:
        """The PPO loss, see `rl.ppo`."""
        state = (), self._empty_memory(0)  # predicts as L missing steps do, at less cost
        return ppo(self.actions, *self.predict(state, task.query), task.query, self.settings)

    def _empty_memory(self, length: int) -> Memory:
        layers: Any = self.layers
        mask = self.policy.weight.new_zeros(length)
        return Memory(mask, tuple(layer.empty_past(length) for layer in layers))

    def _heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(features), self.value(features)[:, 0]

    def _read(self, inputs: PolicyInput, memory: Memory) -> tuple[Tensor, Memory]:
        """The features of N steps after those in memory, (N, features), and the memory with
        these at its end, N rows longer."""
        x = self.observation_layer(policy_features(inputs))
        is_step = torch.cat([memory.mask, torch.ones_like(x[:, 0])])  # (L + N,)
        step = torch.arange(len(is_step), device=x.device)
        ago = step[len(memory.mask) :, None] - step  # (N, L + N)
        mask = (ago >= 0) & (ago <= self.length) & (is_step > 0)
        layers: list[Any] = []
        for layer, past in zip(self.layers, memory.layers, strict=True):
            x, longer = layer.with_past(x, past, mask)  # pyright: ignore[reportCallIssue]
            layers.append(longer)
        return x, Memory(is_step, tuple(layers))
