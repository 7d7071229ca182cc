r"""VariBAD: variational Bayes-adaptive deep reinforcement learning (Zintgraf, Shiarlis, Igl,
Schulze, Gal, Hofmann & Whiteson, 2020, arXiv:1910.08348).

A task is represented by a latent vector $m$; the belief is a Gaussian over $m$, which a
recurrent encoder infers from the trial so far, $\tau_{:t}$ = $(o_0, a_0, r_0, \dots, o_t)$. The
policy reads the belief beside the observation, so it can weigh exploration against reward.
At every step $t$, encoder and decoder learn to predict the rewards $r_i$ of ALL steps of the
trial, past and future (equations 8 to 10):

$$\mathrm{ELBO}_t = \mathbb{E}_{q(m \mid \tau_{:t})} \sum_{i \in \text{trial}}
  \log p(r_i \mid o_i, a_i, o_{i+1}, m)
  - \beta\, \mathrm{KL}\big(q(m \mid \tau_{:t}) \,\|\, q(m \mid \tau_{:t-1})\big)$$

The prior before the first step is $\mathcal{N}(0, I)$. PPO trains the policy on the return of
the whole trial. The gradient of the policy does not reach the encoder, nor that of the ELBO the
policy.

Differs from the paper: one optimizer trains both on the trials that the policy has just acted
in (the paper's ELBO uses a store of old trials too); log-probabilities of rewards are squared
errors, where the paper's grid has those of two classes; inputs are not preprocessed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.actions import DiagonalGaussian
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.backbones import MLP
from quickstudy.rl.ppo import StepRecord, ppo
from quickstudy.rl.trial_actors import RecurrentActor
from quickstudy.rl.trials import flatten_episodes


class BeliefStep(NamedTuple):
    """What the loss needs of a step.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> grid = qs.environments.HiddenGoal(size=3, horizon=1)
        >>> learner = qs.VariBAD(grid, latent=2, hidden=8)
        >>> trials = qs.tasks.Rollouts(grid, learner, episodes=1, trial=True)
        >>> trials.sample(1, torch.Generator()).query.extras.belief.shape
        torch.Size([1, 1, 1, 4])
    """

    record: StepRecord
    belief: Tensor  # (2L,)  means and log standard deviations of m, which the policy read
    noise: Tensor  # (L + 1,)  uniform: L to sample m, one to choose which steps are decoded

    @property
    def policy_input(self) -> PolicyInput:
        """The policy's input."""
        return self.record.policy_input


class VariBAD(RecurrentActor):
    """Infers a belief about the task, and acts on it. Train it on `Rollouts(..., trial=True)`,
    by an optimizer in `MultiEpoch`.

    Args:
        environment: determines the sizes of observations and actions.
        latent: L, the size of m.
        hidden: units of the encoder's GRU.
        timescale: the longest time constant before training, as in `RL2`.
        policy: hidden layers of the net of action distribution and value.
        decoder: hidden layers of each decoder, one or more.
        observations: whether to decode next observations too, for families in which more than
            the rewards differ.
        decoded: the number of steps t of a trial, sampled for each trial, at which m is
            decoded. None: all, which has the same mean and less variance, and costs more.
        kl: β, the weight of the KL divergence beside sums of squared errors.
        discount: γ, of the rewards of a whole trial.
        gae_lambda: λ in [0, 1], see `advantages.gae`.
        clip: ε, see `advantages.clipped_surrogate`.
        value_coef: weight of the squared error of normalised values, see `rl.ppo`.
        entropy_coef: weight of the entropy bonus.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> grid = qs.environments.HiddenGoal(size=3, horizon=4)
        >>> learner = qs.VariBAD(grid, latent=2, hidden=8)
        >>> trials = qs.tasks.Rollouts(grid, learner, episodes=2, trial=True)
        >>> task = trials.sample(5, torch.Generator().manual_seed(0))
        >>> task.query.extras.belief.shape, learner(task).shape
        (torch.Size([5, 2, 4, 4]), torch.Size([5]))
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
        gae_lambda: float = 0.95,
        clip: float = 0.05,
        value_coef: float = 0.5,
        entropy_coef: float = 0.1,
    ):
        if decoded is not None and decoded < 1:
            raise ValueError(f"decoded={decoded}: decode at one step or more, or None for all.")
        settings = discount, gae_lambda, clip, value_coef, entropy_coef
        super().__init__(environment, settings, hidden, timescale)
        o, a = environment.observation_size, environment.action_size
        self.action_size, self.extra_noise_size = a, latent + 1
        self.beliefs = DiagonalGaussian(2 * latent)
        self.belief = nn.Linear(hidden, 2 * latent)
        outputs = self.actions.outputs + 1
        self.policy = MLP(o + 2 * latent, outputs, hidden=policy, activation=nn.Tanh)
        self.rewards = Decoder(latent, o + a + o, 1, decoder)
        self.observations = Decoder(latent, o + a, o, decoder) if observations else None
        self.decoded, self.kl = decoded, kl

    def act(
        self, state: tuple[()], memory: Tensor, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[Tensor, Tensor, BeliefStep]:
        """As `Actor.act`."""
        hidden = self._hidden(tree_map(lambda x: x[None], policy_input), memory)[0]
        belief = self.belief(hidden)
        dist_params, value = self._policy(policy_input.observation, belief)
        action = self.actions.sample(dist_params, noise[: self.action_size])
        record = StepRecord(policy_input, dist_params, value)
        return hidden, action, BeliefStep(record, belief, noise[self.action_size :])

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """Return the parameters of the action distribution (N, ·) and the normalised values
        (N,), at the steps of `flatten_episodes(x)`; `x` are `Episodes` (E, H)."""
        steps = flatten_episodes(x)
        hidden = self._hidden(steps.extras.policy_input, state[1])
        return self._policy(steps.observation, self.belief(hidden))

    def loss(self, task: Task[Episodes]) -> Tensor:
        """The PPO loss (see `rl.ppo`), given the beliefs that the policy read, minus the ELBO
        (the mean over t, divided by the number of steps)."""
        records = task.query._replace(extras=task.query.extras.record)
        steps = flatten_episodes(task.query)
        outputs = self._policy(steps.observation, steps.extras.belief)
        return ppo(self.actions, *outputs, records, self.settings) - self._elbo(steps)

    def _elbo(self, steps: Episodes) -> Tensor:
        """The ELBO () of steps (N,) that `flatten_episodes` ordered."""
        noise, weight = steps.extras.noise, steps.weight
        hidden = self._hidden(steps.extras.policy_input, self.initial_state()[1])
        belief = self.belief(hidden)  # (N, 2L)
        prior = torch.cat([torch.zeros_like(belief[:1]), belief[:-1]])  # N(0, I) at first
        kl = weighted_mean(self.beliefs.kl_divergence(belief, prior), weight)

        priority = noise[:, -1] + weight  # random among the real steps, then padding
        most = len(weight) if self.decoded is None else min(self.decoded, len(weight))
        decoded = priority.topk(most).indices  # (K,)
        m = self.beliefs.sample(belief, noise[:, :-1])[decoded]  # (K, L)
        moves = torch.cat([steps.observation, steps.action], -1)
        reward = self.rewards(m, torch.cat([moves, steps.next_observation], -1))[..., 0]
        error = (reward - steps.reward).square()  # (K, N)
        if self.observations is not None:
            next_error = (self.observations(m, moves) - steps.next_observation).square()
            error = error + next_error.sum(-1)
        error = weighted_mean(error @ weight, weight[decoded])
        return -(error + self.kl * kl) / weight.sum()

    def _policy(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the action distribution (..., ·) and the normalised values
        (...)."""
        outputs = self.policy(torch.cat([observation, belief.detach()], -1))
        return outputs[..., :-1], outputs[..., -1]


class Decoder(nn.Module):
    """Predict N steps (N, steps) for each of K latent tasks m (K, L): (K, N, outputs).

    The first layer is linear in the pair (m, step), so its products are computed once for each
    task and once for each step, not for each pair.

    Examples:
        >>> import torch
        >>> Decoder(2, 3, 1, hidden=(8,))(torch.zeros(4, 2), torch.zeros(5, 3)).shape
        torch.Size([4, 5, 1])
    """

    def __init__(self, latent: int, steps: int, outputs: int, hidden: Sequence[int]):
        super().__init__()
        self.first = nn.Linear(latent + steps, hidden[0])
        self.rest = MLP(hidden[0], outputs, hidden=hidden[1:])

    def forward(self, m: Tensor, steps: Tensor) -> Tensor:
        """Return the predictions (K, N, outputs)."""
        task_weight, step_weight = self.first.weight.split([m.shape[-1], steps.shape[-1]], 1)
        from_steps = F.linear(steps, step_weight, self.first.bias)
        return self.rest((F.linear(m, task_weight)[:, None] + from_steps).relu())
