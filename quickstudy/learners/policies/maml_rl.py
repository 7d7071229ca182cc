r"""Model-agnostic meta-learning of policies (Finn, Abbeel & Levine, 2017, arXiv:1703.03400,
section 4.2 and algorithm 3).

Learn a policy that one step of policy gradient, from a few episodes of its own, makes good at a
task; $A$ are advantages, and $\tau \sim \pi_\theta$ and $\tau' \sim \pi_\phi$ episodes:

$$\max_\theta \; \mathbb{E}_{\tau'} \, R(\tau'), \qquad
  \phi = \theta + \alpha \nabla_\theta \, \mathrm{mean}_{t \in \tau} \;
  \log \pi_\theta(a_t \mid o_t) A_t$$

How $\tau$ depends on θ can be left out, as there; be in the curvature of the inner surrogate
(`advantages.dice`, and ProMP's `advantages.ratio`); or, as in E-MAML (Stadie et al., 2018,
arXiv:1803.01118), be a term of its own, `exploration`.

Differs from the papers: generalised advantages with λ = 1, and a baseline in E-MAML's term.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Task
from quickstudy.environments.actions import action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.inner_loop.descent import descend
from quickstudy.rl.actor import Actor
from quickstudy.rl.advantages import clipped, discounted_returns, gae, linear_baseline, score

State = tuple[Params, tuple[()]]


class MAMLRL(Actor):
    """A policy to be adapted by a step of policy gradient. Train it on `Rollouts`, by `TRPO`,
    or with a `clip` by an optimizer in `MultiEpoch` (PPO). A further step is another `adapt`, to
    episodes of the adapted policy.

    Args:
        environment: says what an action is.
        net: (N, O) -> what it says of the actions, as `nets.policy_net`.
        lr: α, of the inner step.
        first_order: treats the inner gradient as a constant.
        adapts: what adaptation changes, as in `MAML`.
        surrogate: what the inner step climbs, of how much likelier actions have become since
            the policy acted, a logarithm, and of advantages (E, H): `advantages.score`, `ratio`
            or `dice`.
        exploration: how much the episodes before adaptation are credited with what was earned
            after it: 1 in E-MAML.
        clip: ε, as in `advantages.clipped`; none for TRPO.
        penalty: η, of how far the policy before adaptation may move on a batch (ProMP).
        discount: γ.
        decay: λ, of advantages (see `advantages.gae`); values are a `linear_baseline`'s.
        normalise: whether the advantages of a task's episodes have mean 0 and deviation 1.
    """

    penalty: Tensor | None

    def __init__(
        self,
        environment: Environment,
        net: nn.Module,
        *,
        lr: float = 0.1,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = None,
        surrogate: Callable[[Tensor, Tensor], Tensor] = score,
        exploration: float = 0.0,
        clip: float = math.inf,
        penalty: float | None = None,
        discount: float = 0.99,
        decay: float = 1.0,
        normalise: bool = True,
    ):
        super().__init__()
        self.actions, self.net = action_distribution(environment), net
        self.names = frozenset(select_parameters(net, adapt_parameters))
        self.lr, self.first_order, self.surrogate = lr, first_order, surrogate
        self.exploration, self.clip = exploration, clip
        self.register_buffer("penalty", None if penalty is None else torch.tensor(penalty))
        self.discount, self.decay, self.normalise = discount, decay, normalise

    def begin(self) -> State:
        """The weights that adaptation starts from, by name; no memory."""
        return {name: p for name, p in self.net.named_parameters() if name in self.names}, ()

    def act(
        self, state: Params, memory: tuple[()], percept: PolicyInput, noise: Tensor
    ) -> tuple[tuple[()], Tensor, Tensor]:
        """As `Actor.act`; what training needs is what the net said."""
        says = self.predict((state, memory), percept.observation[None])[0]
        return memory, self.actions.draw(says, noise), says

    def adapt(self, support: Episodes, state: State | None = None) -> State:
        """One step of policy gradient on episodes of the policy of `state`."""
        start, memory = self.begin() if state is None else state
        advantage, _ = self._advantages(support)

        def loss(fast: Params) -> Tensor:
            likelier = self._likelier((fast, memory), support)
            return -weighted_mean(self.surrogate(likelier, advantage), support.weight)

        fast = descend(loss, start, lr=self.lr, steps=1, first_order=self.first_order)
        return fast, memory

    def predict(self, state: State, x: Tensor) -> Tensor:
        """What it says of the actions (..., ·) where it sees `x` (..., O)."""
        return functional_call(self.net, state[0], (x,))

    def loss(self, task: Task[Episodes]) -> Tensor:
        """Minus the surrogate of the adapted policy: a mean over the steps of the query."""
        support, query = task
        advantage, unit = self._advantages(query)
        gain = clipped(self._likelier(self.adapt(support), query), advantage, self.clip)
        found = -weighted_mean(gain, query.weight)
        if self.exploration:
            found = found - self.exploration * self._explored(task) / unit
        if self.penalty is not None:
            found = found + self.penalty * self.moved(self.begin(), support)
        return found

    def divergence(self, task: Task[Episodes]) -> Tensor:
        """As `Actor.divergence`: of the adapted policies."""
        return self.moved(self.adapt(task.support), task.query)

    def moved(self, state: State, episodes: Episodes) -> Tensor:
        """The mean KL divergence (), in nats, of the policy that acted to that of `state`."""
        says = self.predict(state, episodes.observation)
        return weighted_mean(self.actions.divergence(episodes.extras, says), episodes.weight)

    def _explored(self, task: Task[Episodes]) -> Tensor:
        """E-MAML's term: how much likelier every action before adaptation has become, times the
        return after it, by steps of an episode, as the loss is. The baseline is what the action
        had no part in: the return of the other episodes and of what came before it."""
        support, query = task
        size, weight = len(support.reward), query.weight
        earned = (query.reward * weight).sum() / weight[:, 0].sum()
        later = discounted_returns(support.reward, discount=1.0)
        credit = earned - (support.reward.sum() - later) / size
        likelier = self._likelier(self.begin(), support) * support.weight
        return (likelier * credit).sum() * weight[:, 0].sum() / weight.sum()

    def _advantages(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Advantages (E, H), and the deviation () that they were divided by."""
        seen, reward, weight = episodes.observation, episodes.reward, episodes.weight
        value = linear_baseline(seen, reward, weight, discount=self.discount)
        found = gae(reward, value, discount=self.discount, decay=self.decay)
        if not self.normalise:
            return found, torch.ones_like(weight[0, 0])
        found = found - weighted_mean(found, weight)
        deviation = weighted_mean(found.square(), weight).sqrt().clamp_min(1e-8)
        return found / deviation, deviation

    def _likelier(self, state: State, episodes: Episodes) -> Tensor:
        """By how much the log-probability of each action (E, H) has changed."""
        then = self.actions.log_prob(episodes.extras, episodes.action)
        return self._log_probability(state, episodes) - then

    def _log_probability(self, state: State, episodes: Episodes) -> Tensor:
        says = self.predict(state, episodes.observation)
        return self.actions.log_prob(says, episodes.action)


def e_maml(environment: Environment, net: nn.Module, **settings: Any) -> MAMLRL:
    """E-MAML (Stadie et al., 2018): what explores well before adaptation is credited for it."""
    return MAMLRL(environment, net, exploration=1.0, **settings)
