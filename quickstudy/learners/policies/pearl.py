r"""PEARL: probabilistic embeddings for actor-critic reinforcement learning (Rakelly, Zhou,
Quillen, Finn & Levine, 2019, arXiv:1903.08254).

The belief about a task is a distribution over a latent context $z$. Every observed step adds a
Gaussian factor, so the order of the steps does not matter (section 4.1):

$$q_\phi(z \mid c_{1:N}) \propto \mathcal{N}(z; 0, I) \prod_n
  \mathcal{N}\big(z; f_\phi^\mu(c_n), f_\phi^\sigma(c_n)\big), \qquad c_n = (s, a, r, s')_n$$

To explore, PEARL samples one $z$ for each episode. Policy and critics are those of soft
actor-critic (Haarnoja et al., 2018, arXiv:1801.01290), given $z$, and learn from all stored
steps of a task; the encoder learns from the critic's loss and the KL divergence to the prior
(algorithm 1):

$$L^{critic} = \mathbb{E}\,\big(Q(s, a, z) - r - \gamma \bar V(s', \bar z)\big)^2, \qquad
  L^{actor} = \mathbb{E}\; \log \pi(a \mid s, \bar z) - Q(s, a, \bar z), \qquad
  L^{KL} = \beta\, \mathrm{KL}\big(q(z \mid c) \,\|\, \mathcal{N}(0, I)\big)$$

Differs from the paper: the prior is one of the factors; $V$ has no net of its own. It is
$\min Q(s', a') - \log \pi(a' \mid s')$ of two target critics and a sampled action (as in the
later soft actor-critic, arXiv:1812.05905).
"""

import copy
from collections.abc import Callable, Sequence
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.environment import Environment, normal
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.backbones import MLP
from quickstudy.rl.actor import Actor


class Posterior(NamedTuple):
    """A normal distribution of z, as sums over its factors.

    Examples:
        >>> posterior = Posterior(precision=torch.tensor([4.0]), weighted=torch.tensor([2.0]))
        >>> posterior.mean().item(), posterior.sample(torch.tensor([1.0])).item()
        (0.5, 1.0)
    """

    precision: Tensor  # (L,)
    weighted: Tensor  # (L,)  means, times their precisions

    def sample(self, eps: Tensor) -> Tensor:
        """Return a z (L,), from standard normal numbers `eps` (L,)."""
        return self.mean() + eps / self.precision.sqrt()

    def mean(self) -> Tensor:
        """Return the mean (L,)."""
        return self.weighted / self.precision

    def kl_divergence(self) -> Tensor:
        """Return KL(self || N(0, I)) (), in nats."""
        log_variance = -self.precision.log()
        return 0.5 * (1 / self.precision - log_variance - 1 + self.mean().square()).sum(-1)


class LatentSample(NamedTuple):
    """The z of an episode.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot()
        >>> _, memory = qs.PEARL(robot, latent=2, hidden=(8,), encoder=(8,)).initial_state()
        >>> memory.z, memory.drawn  # before the first step
        (tensor([0., 0.]), tensor(0.))
    """

    z: Tensor  # (L,)
    drawn: Tensor  # ()  1, or 0 before the first step


class PEARL(Actor):
    """Infers the task from the steps it has taken. Train it on `OffPolicyTasks`.

    Args:
        environment: determines the sizes of observations and actions.
        latent: L, the size of z.
        hidden: hidden layers of the policy and of each critic.
        encoder: hidden layers of the net that maps a step to a factor.
        discount: γ, of rewards.
        reward_scale: factor of the rewards, which weighs them against the policy's entropy.
        kl: β, the weight of the KL divergence of z.
        tau: the share by which the target critics move towards the critics after each step.
        bound: actions lie in (-bound, bound).
        reward_transform: maps the rewards (any shape) to those that the encoder observes; None:
            the same. With dense rewards for training only, as in section 6.3, it returns the
            sparse ones.

    Raises:
        ValueError: the environment's actions are discrete.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot(horizon=5)
        >>> learner = PEARL(robot, latent=2, hidden=(8,), encoder=(8,))
        >>> state = learner.initial_state()
        >>> state[0].mean().tolist(), learner.predict(state, torch.zeros(3, 2)).shape
        ([0.0, 0.0], torch.Size([3, 2]))
    """

    greedy = False
    """Whether it acts by the mode of the policy, as the paper evaluates; z is still
    sampled."""

    def __init__(
        self,
        environment: Environment,
        *,
        latent: int = 5,
        hidden: Sequence[int] = (300, 300, 300),
        encoder: Sequence[int] = (200, 200, 200),
        discount: float = 0.99,
        reward_scale: float = 5.0,
        kl: float = 0.1,
        tau: float = 0.005,
        bound: float = 1.0,
        reward_transform: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if environment.discrete:
            raise ValueError("PEARL's actions are numbers: for discrete actions, use RL2.")
        o, a = environment.observation_size, environment.action_size
        self.action_size, self.extra_noise_size = a, latent
        self.encoder = MLP(2 * o + a + 1, 2 * latent, hidden=encoder)
        self.policy = MLP(o + latent, 2 * a, hidden=hidden)
        self.critic = Critics(o + a + latent, hidden)
        self.averaged = copy.deepcopy(self.critic).requires_grad_(False)
        self.discount, self.reward_scale, self.kl = discount, reward_scale, kl
        self.tau, self.bound, self.reward_transform = tau, bound, reward_transform

    def initial_state(self) -> tuple[Posterior, LatentSample]:
        """Return the prior, and no z yet."""
        zeros = self.policy.head.weight.new_zeros(self.extra_noise_size)
        return Posterior(torch.ones_like(zeros), zeros), LatentSample(zeros, zeros.sum())

    def act(
        self, state: Posterior, memory: LatentSample, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[LatentSample, Tensor, tuple[()]]:
        """As `Actor.act`; the first step of an episode samples z."""
        eps, is_first = normal(noise), torch.maximum(1 - memory.drawn, policy_input.done)
        z = torch.where(is_first > 0, state.sample(eps[self.action_size :]), memory.z)
        dist_params = self.policy(torch.cat([policy_input.observation, z]))
        action, _ = squashed_gaussian(dist_params, eps[: self.action_size] * (not self.greedy))
        return LatentSample(z, torch.ones_like(is_first)), self.bound * action, ()

    def adapt(
        self, support: Episodes, state: tuple[Posterior, LatentSample] | None = None
    ) -> tuple[Posterior, LatentSample]:
        """Return the posterior after steps (E, H) in any order, and no z yet."""
        (precision, weighted), _ = self.initial_state() if state is None else state
        transform = self.reward_transform
        reward = support.reward if transform is None else transform(support.reward)
        step = support.observation, support.action / self.bound, support.next_observation
        mean, scale = self.encoder(torch.cat([*step, reward[..., None]], -1)).chunk(2, -1)
        factor = support.weight[..., None] / softplus(scale).clamp_min(1e-7)  # precisions
        precision = precision + factor.sum((0, 1))
        weighted = weighted + (factor * mean).sum((0, 1))
        return Posterior(precision, weighted), self.initial_state()[1]

    def predict(self, state: tuple[Posterior, LatentSample], x: Tensor) -> Tensor:
        """Return the modes of the policy (N, A) at observations `x` (N, O), given the mean of
        z."""
        z = state[0].mean().expand(len(x), -1)
        mean, _ = self.policy(torch.cat([x, z], -1)).chunk(2, -1)
        return self.bound * mean.tanh()

    def loss(self, task: Task[Episodes]) -> Tensor:
        """The losses of critic and actor and the KL term, each with gradients for its own nets,
        of a task of `OffPolicyTasks`, whose query has uniform noise (1, N, 2, A + L)."""
        posterior, _ = self.adapt(task.support)
        steps = tree_map(lambda leaf: leaf[0], task.query)
        eps, obs, next_obs = normal(steps.extras), steps.observation, steps.next_observation
        action_eps, next_action_eps = eps[..., : self.action_size].unbind(1)
        z = posterior.sample(eps[0, 0, self.action_size :]).expand(len(eps), -1)
        fixed_z = z.detach()

        with torch.no_grad():
            next_params = self.policy(torch.cat([next_obs, fixed_z], -1))
            action, log_prob = squashed_gaussian(next_params, next_action_eps)
            q_values = self.averaged(torch.cat([next_obs, action, fixed_z], -1))
            value = q_values.amin(-1) - log_prob
            target = self.reward_scale * steps.reward + self.discount * (1 - steps.done) * value
        q_values = self.critic(torch.cat([obs, steps.action / self.bound, z], -1))
        critic_loss = (q_values - target[:, None]).square().sum(-1)

        dist_params = self.policy(torch.cat([obs, fixed_z], -1))
        action, log_prob = squashed_gaussian(dist_params, action_eps)
        frozen_critic = {name: p.detach() for name, p in self.critic.named_parameters()}
        inputs = torch.cat([obs, action, fixed_z], -1)
        q_value = functional_call(self.critic, frozen_critic, (inputs,)).amin(-1)
        actor_loss = log_prob - q_value

        loss = weighted_mean(critic_loss + actor_loss, steps.weight)
        return loss + self.kl * posterior.kl_divergence()

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target critics towards the critics."""
        pairs = zip(self.averaged.parameters(), self.critic.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, self.tau)


class Critics(nn.Module):
    """Two nets that predict Q-values: (N, inputs) -> (N, 2).

    Examples:
        >>> Critics(5, hidden=(8,))(torch.zeros(3, 5)).shape
        torch.Size([3, 2])
    """

    def __init__(self, inputs: int, hidden: Sequence[int]):
        super().__init__()
        self.nets = nn.ModuleList(MLP(inputs, 1, hidden=hidden) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the Q-values of both (N, 2)."""
        return torch.cat([net(x) for net in self.nets], -1)


def squashed_gaussian(dist_params: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Sample actions by tanh of independent normal numbers.

    Args:
        dist_params: means and log standard deviations (..., 2A); the latter are clamped to
            [-20, 2].
        eps: standard normal numbers (..., A).

    Returns:
        The actions (..., A) in (-1, 1), and their log-densities (...), in nats.

    Examples:
        >>> action, log_prob = squashed_gaussian(torch.zeros(2), torch.zeros(1))
        >>> action.item(), round(log_prob.item(), 4)  # -log(2π) / 2
        (0.0, -0.9189)
    """
    mean, log_std = dist_params.chunk(2, -1)
    log_std = log_std.clamp(-20, 2)
    u = mean + log_std.exp() * eps
    # log(1 - tanh² u), which would be log 0 of a large u
    log_slope = 2 * (log(2) - u - softplus(-2 * u))
    log_prob = -0.5 * eps.square() - log_std - 0.5 * log(2 * pi) - log_slope
    return u.tanh(), log_prob.sum(-1)
