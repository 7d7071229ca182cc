r"""PEARL: probabilistic embeddings for actor-critic reinforcement learning (Rakelly, Zhou,
Quillen, Finn & Levine, 2019, arXiv:1903.08254).

What is known of a task is a distribution over a latent context $z$. Every step that was seen is
a Gaussian factor of it, so their order does not matter (section 4.1):

$$q_\phi(z \mid c_{1:N}) \propto \mathcal{N}(z; 0, I) \prod_n
  \mathcal{N}\big(z; f_\phi^\mu(c_n), f_\phi^\sigma(c_n)\big), \qquad c_n = (s, a, r, s')_n$$

To explore, a $z$ is drawn for an episode, and held. Policy and values are those of soft
actor-critic (Haarnoja et al., 2018, arXiv:1801.01290), given $z$, and learn from all that was
ever done in a task; the encoder learns by the critic's loss and the KL divergence to the prior
(algorithm 1):

$$L^{critic} = \mathbb{E}\,\big(Q(s, a, z) - r - \gamma \bar V(s', \bar z)\big)^2, \qquad
  L^{actor} = \mathbb{E}\; \log \pi(a \mid s, \bar z) - Q(s, a, \bar z), \qquad
  L^{KL} = \beta\, \mathrm{KL}\big(q(z \mid c) \,\|\, \mathcal{N}(0, I)\big)$$

Differs from the paper: the prior is one of the factors; no net of its own says $V$, which is
$\min Q(s', a') - \log \pi(a' \mid s')$ of two critics' moving averages and an action that is
drawn (as in the later soft actor-critic, arXiv:1812.05905).
"""

import copy
from collections.abc import Callable, Sequence
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.environment import Environment, normal
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.backbones import MLP
from quickstudy.rl.actor import Actor


class Posterior(NamedTuple):
    """A normal distribution of z, as sums over its factors."""

    precision: Tensor  # (L,)
    weighted: Tensor  # (L,)  means, times their precisions

    def draw(self, noise: Tensor) -> Tensor:
        """A z (L,), of standard normal numbers (L,)."""
        return self.mean() + noise / self.precision.sqrt()

    def mean(self) -> Tensor:
        """Its mean (L,), the most likely z."""
        return self.weighted / self.precision

    def divergence(self) -> Tensor:
        """KL divergence from it to N(0, I), in nats."""
        spread = 1 / self.precision + self.precision.log() - 1
        return 0.5 * (spread + self.mean().square()).sum(-1)


class Held(NamedTuple):
    """The z of an episode."""

    z: Tensor  # (L,)
    drawn: Tensor  # ()  1, or 0 before the first step


class PEARL(Actor):
    """Infers from what it did in a task what the task is. Train it on `OffPolicyTasks` rollouts.

    Args:
        environment: says how wide observations and actions are.
        latent: L, the width of z.
        hidden: layers of the policy and of each critic.
        encoder: layers of the net that makes a factor of a step.
        discount: γ, of rewards.
        reward_scale: what rewards are multiplied by: how much they count beside the policy's
            entropy.
        kl: β, of the divergence of z.
        rate: of the moving averages of the critics, at a step.
        bound: of an action's numbers, which are in (-bound, bound).
        told: what of a reward (any shape) it is told; None: all. Where rewards are dense for
            training only, as in section 6.3, the sparse ones.

    Raises:
        ValueError: actions are one of several.
    """

    greedy = False
    """Whether it acts by the likeliest action, as the paper's is when judged; z is drawn."""

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
        rate: float = 0.005,
        bound: float = 1.0,
        told: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if environment.discrete:
            raise ValueError("PEARL's actions are numbers: for one of several, use RL2.")
        seen, self.width, self.draws = environment.observations, environment.actions, latent
        self.encoder = MLP(2 * seen + self.width + 1, 2 * latent, hidden=encoder)
        self.policy = MLP(seen + latent, 2 * self.width, hidden=hidden)
        self.critic = Critics(seen + self.width + latent, hidden)
        self.averaged = copy.deepcopy(self.critic).requires_grad_(False)
        self.discount, self.reward_scale, self.kl = discount, reward_scale, kl
        self.rate, self.bound, self.told = rate, bound, told

    def begin(self) -> tuple[Posterior, Held]:
        """The prior, and no z yet."""
        zeros = self.policy.head.weight.new_zeros(self.draws)
        return Posterior(torch.ones_like(zeros), zeros), Held(zeros, zeros.sum())

    def act(
        self, state: Posterior, memory: Held, percept: PolicyInput, noise: Tensor
    ) -> tuple[Held, Tensor, tuple[()]]:
        """As `Actor.act`; at the first step of an episode z is drawn."""
        lucky, fresh = normal(noise), torch.maximum(1 - memory.drawn, percept.done)
        z = torch.where(fresh > 0, state.draw(lucky[self.width :]), memory.z)
        says = self.policy(torch.cat([percept.observation, z]))
        action, _ = squashed(says, lucky[: self.width] * (not self.greedy))
        return Held(z, torch.ones_like(fresh)), self.bound * action, ()

    def adapt(
        self, support: Episodes, state: tuple[Posterior, Held] | None = None
    ) -> tuple[Posterior, Held]:
        """The posterior after steps (E, H) in any order, and no z yet."""
        (precision, weighted), _ = self.begin() if state is None else state
        reward = support.reward if self.told is None else self.told(support.reward)
        moves = support.observation, support.action / self.bound, support.next_observation
        mean, spread = self.encoder(torch.cat([*moves, reward[..., None]], -1)).chunk(2, -1)
        factor = support.weight[..., None] / softplus(spread).clamp_min(1e-7)
        precision = precision + factor.sum((0, 1))
        return Posterior(precision, weighted + (factor * mean).sum((0, 1))), self.begin()[1]

    def predict(self, state: tuple[Posterior, Held], x: Tensor) -> Tensor:
        """The likeliest actions (N, A) for observations (N, O), by the likeliest z."""
        z = state[0].mean().expand(len(x), -1)
        mean, _ = self.policy(torch.cat([x, z], -1)).chunk(2, -1)
        return self.bound * mean.tanh()

    def loss(self, task: Task[Episodes]) -> Tensor:
        """The critic's, the actor's and the KL term, each with a gradient for its own nets, of
        a task of `OffPolicyTasks`, whose query has noise (1, N, 2, A + L) to draw by."""
        posterior, _ = self.adapt(task.support)
        steps = tree_map(lambda leaf: leaf[0], task.query)
        lucky = normal(steps.extras)
        z = posterior.draw(lucky[0, 0, self.width :]).expand(len(lucky), -1)
        known, now, then = z.detach(), steps.observation, steps.next_observation

        with torch.no_grad():
            action, surprise = squashed(
                self.policy(torch.cat([then, known], -1)), lucky[:, 1, : self.width]
            )
            value = self.averaged(torch.cat([then, action, known], -1)).amin(-1) - surprise
            goal = self.reward_scale * steps.reward + self.discount * (1 - steps.done) * value
        says = self.critic(torch.cat([now, steps.action / self.bound, z], -1))
        critic = (says - goal[:, None]).square().sum(-1)

        action, surprise = squashed(
            self.policy(torch.cat([now, known], -1)), lucky[:, 0, : self.width]
        )
        held = {name: p.detach() for name, p in self.critic.named_parameters()}
        worth = functional_call(self.critic, held, (torch.cat([now, action, known], -1),))
        actor = surprise - worth.amin(-1)

        return weighted_mean(critic + actor, steps.weight) + self.kl * posterior.divergence()

    @torch.no_grad()
    def set_step(self, done: int) -> None:
        """Moves the averages of the critics towards them, once for every step."""
        for average, now in zip(
            self.averaged.parameters(), self.critic.parameters(), strict=True
        ):
            average.lerp_(now, self.rate)


class Critics(nn.Module):
    """Two nets that say what an action is worth: (N, inputs) -> (N, 2)."""

    def __init__(self, inputs: int, hidden: Sequence[int]):
        super().__init__()
        self.nets = nn.ModuleList(MLP(inputs, 1, hidden=hidden) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """What both say."""
        return torch.cat([net(x) for net in self.nets], -1)


def squashed(says: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions (..., A) in (-1, 1) and their log-densities (...), in nats: tanh of independent
    normal numbers, of which a net says means and logarithms of deviations (..., 2A).

    Args:
        noise: standard normal numbers (..., A).
    """
    mean, log_deviation = says.chunk(2, -1)
    log_deviation = log_deviation.clamp(-20, 2)
    u = mean + log_deviation.exp() * noise
    # log(1 - tanh² u), which would be log 0 of a large u
    slope = 2 * (log(2) - u - softplus(-2 * u))
    density = -0.5 * noise.square() - log_deviation - 0.5 * log(2 * pi) - slope
    return u.tanh(), density.sum(-1)
