r"""Model-agnostic meta-learning of policies (Finn, Abbeel & Levine, 2017, arXiv:1703.03400,
section 4.2 and algorithm 3).

Learn initial parameters from which one step of policy gradient, on a few episodes of a task,
gives a good policy for it. $A$ are advantages, and $\tau \sim \pi_\theta$ and
$\tau' \sim \pi_\phi$ episodes:

$$\max_\theta \; \mathbb{E}_{\tau'} \, R(\tau'), \qquad
  \phi = \theta + \alpha \nabla_\theta \, \mathrm{mean}_{t \in \tau} \;
  \log \pi_\theta(a_t \mid o_t) A_t$$

There are three ways to treat the dependence of $\tau$ on θ: ignore it, as the paper does; put
it into the curvature of the inner surrogate (`advantages.dice_surrogate`, and ProMP's
`advantages.ratio_surrogate`); or add a term, `exploration`, as in E-MAML (Stadie et al., 2018,
arXiv:1803.01118).

Differs from the papers: generalised advantages with λ = 1, and a baseline in E-MAML's term.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Task
from quickstudy.environments.actions import action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.inner_loop.descent import descend
from quickstudy.rl.actor import Actor
from quickstudy.rl.advantages import (
    clipped_surrogate,
    discounted_returns,
    gae,
    linear_baseline,
    log_prob_surrogate,
)

State = tuple[Params, tuple[()]]


class MAMLRL(Actor):
    """Learns a policy to be adapted by a step of policy gradient. Train it on `Rollouts`, by
    `TRPO`, or with a `clip` by an optimizer in `MultiEpoch` (PPO). For a further step, call
    `adapt` again with episodes of the adapted policy.

    Args:
        environment: determines the kind of actions.
        net: (N, O) -> parameters of the action distribution, as `nets.policy_net`.
        lr: α, of the inner step.
        first_order: treats the inner gradient as a constant.
        adapt_parameters: the parameters that adaptation changes, as in `MAML`.
        surrogate: the objective of the inner step, a function of log ratios and advantages
            (E, H): `advantages.log_prob_surrogate`, `ratio_surrogate` or `dice_surrogate`.
        exploration: the weight of the term that credits the episodes before adaptation with the
            return after it; 1 in E-MAML.
        clip: ε, see `advantages.clipped_surrogate`; infinite for TRPO.
        penalty: η, the weight of the KL divergence of the policy before adaptation (ProMP).
        discount: γ.
        gae_lambda: λ in [0, 1], see `advantages.gae`; values are a `linear_baseline`'s.
        normalise: whether to scale the advantages of a task to mean 0 and standard deviation 1.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot(horizon=5)
        >>> learner = qs.MAMLRL(robot, qs.nets.policy_net(robot, hidden=(8,)))
        >>> tasks = qs.tasks.Rollouts(robot, learner, episodes=3)
        >>> task = tasks.sample(2, torch.Generator().manual_seed(0))
        >>> task.support.reward.shape, learner(task).shape
        (torch.Size([2, 3, 5]), torch.Size([2]))
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
        surrogate: Callable[[Tensor, Tensor], Tensor] = log_prob_surrogate,
        exploration: float = 0.0,
        clip: float = math.inf,
        penalty: float | None = None,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        normalise: bool = True,
    ):
        super().__init__()
        self.actions, self.net = action_distribution(environment), net
        self.adapt_parameters = adapt_parameters
        select_parameters(net, adapt_parameters)  # raises if there are none
        self.lr, self.first_order, self.surrogate = lr, first_order, surrogate
        self.exploration, self.clip = exploration, clip
        self.register_buffer("penalty", None if penalty is None else torch.tensor(penalty))
        self.discount, self.gae_lambda, self.normalise = discount, gae_lambda, normalise

    def initial_state(self) -> State:
        """Return the parameters that adaptation starts from, by name; there is no memory."""
        return select_parameters(self.net, self.adapt_parameters), ()

    def act(
        self, state: Params, memory: tuple[()], policy_input: PolicyInput, noise: Tensor
    ) -> tuple[tuple[()], Tensor, Tensor]:
        """As `Actor.act`; the loss needs the parameters of the action distribution."""
        dist_params = self.predict((state, memory), policy_input.observation[None])[0]
        return memory, self.actions.sample(dist_params, noise), dist_params

    def adapt(self, support: Episodes, state: State | None = None) -> State:
        """Take one step of policy gradient on episodes of the policy of `state`."""
        params, memory = self.initial_state() if state is None else state
        advantage, _ = self._advantages(support)

        def loss(fast: Params) -> Tensor:
            log_ratio = self._log_ratio((fast, memory), support)
            return -weighted_mean(self.surrogate(log_ratio, advantage), support.weight)

        return descend(loss, params, lr=self.lr, steps=1, first_order=self.first_order), memory

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the parameters of the action distribution (..., ·) at observations `x`
        (..., O)."""
        return functional_call(self.net, state[0], (x,))

    def loss(self, task: Task[Episodes]) -> Tensor:
        """Minus the surrogate of the adapted policy, averaged over the steps of the query."""
        support, query = task
        advantage, std = self._advantages(query)
        log_ratio = self._log_ratio(self.adapt(support), query)
        surrogate = clipped_surrogate(log_ratio, advantage, self.clip)
        loss = -weighted_mean(surrogate, query.weight)
        if self.exploration:
            loss = loss - self.exploration * self._exploration_term(task) / std
        if self.penalty is not None:
            loss = loss + self.penalty * self.policy_shift(self.initial_state(), support)
        return loss

    def kl_divergence(self, task: Task[Episodes]) -> Tensor:
        """As `Actor.kl_divergence`, of the adapted policies."""
        return self.policy_shift(self.adapt(task.support), task.query)

    def policy_shift(self, state: State, episodes: Episodes) -> Tensor:
        """Return the mean KL divergence (), in nats, from the policy that acted to that of
        `state`."""
        dist_params = self.predict(state, episodes.observation)
        divergence = self.actions.kl_divergence(episodes.extras, dist_params)
        return weighted_mean(divergence, episodes.weight)

    def _exploration_term(self, task: Task[Episodes]) -> Tensor:
        """E-MAML's term (): the log ratio of every action before adaptation times the return
        after it, per step of an episode, as the loss is. The baseline is the part of the return
        that the action could not change: the other episodes, and earlier steps of its own."""
        support, query = task
        n_support, n_query = len(support.reward), query.weight[:, 0].sum()
        return_after = (query.reward * query.weight).sum() / n_query
        reward_to_go = discounted_returns(support.reward, discount=1.0)
        baseline = (support.reward.sum() - reward_to_go) / n_support
        log_ratio = self._log_ratio(self.initial_state(), support) * support.weight
        return (log_ratio * (return_after - baseline)).sum() * n_query / query.weight.sum()

    def _advantages(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """The advantages (E, H), and the standard deviation () that they were divided by."""
        observation, reward, weight = episodes.observation, episodes.reward, episodes.weight
        value = linear_baseline(observation, reward, weight, discount=self.discount)
        advantage = gae(reward, value, discount=self.discount, gae_lambda=self.gae_lambda)
        if not self.normalise:
            return advantage, torch.ones_like(weight[0, 0])
        advantage = advantage - weighted_mean(advantage, weight)
        std = weighted_mean(advantage.square(), weight).sqrt()
        std = torch.maximum(std, 1e-8 * reward.abs().amax())  # of equal returns it is rounding
        std = std.where(std > 0, 1)
        return advantage / std, std

    def _log_ratio(self, state: State, episodes: Episodes) -> Tensor:
        """log π / π₀ of each action (E, H), where π is the policy of `state` and π₀ acted."""
        dist_params = self.predict(state, episodes.observation)
        log_prob = self.actions.log_prob(dist_params, episodes.action)
        return log_prob - self.actions.log_prob(episodes.extras, episodes.action)


def e_maml(environment: Environment, net: nn.Module, **settings: Any) -> MAMLRL:
    """E-MAML (Stadie et al., 2018): credits the policy before adaptation for good exploration.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot()
        >>> e_maml(robot, qs.nets.policy_net(robot)).exploration
        1.0
    """
    return MAMLRL(environment, net, exploration=1.0, **settings)
