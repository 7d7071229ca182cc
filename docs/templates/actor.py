r"""NAME OF THE ACTOR (Authors, year, arXiv:0000.00000).

Say in one or two sentences what is learned and how it is used, then give the equation. In this
template a recurrent policy reads its last action and reward, and is trained by the policy
gradient (REINFORCE; Williams, 1992) with the mean return of the trial as baseline:

$$h_t = \mathrm{GRU}(h_{t-1}; o_t, a_{t-1}, r_{t-1}, d_{t-1}), \qquad
  L = -\frac{1}{N} \sum_t \log \pi(a_t \mid h_t) \, (G_t - \bar G)$$

Differs from the paper: say what and why, or "nothing".
"""

from typing import Any

from torch import Tensor, nn

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments import Environment, Episodes, PolicyInput, action_distribution
from quickstudy.nets import use_cells
from quickstudy.rl.actor import Actor
from quickstudy.rl.advantages import discounted_returns
from quickstudy.rl.trials import flatten_episodes, last_real_step, policy_features


class RecurrentReinforce(Actor):
    """Learns in the memory of a recurrent policy. Train it on `Rollouts(..., trial=True)`.

    Args:
        environment: determines the sizes of observations and actions.
        hidden: document every argument, with its unit and the paper's value.
        discount: γ, of the rewards of a whole trial.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=3)
        >>> learner = RecurrentReinforce(bandit, hidden=8)
        >>> trials = qs.tasks.Rollouts(bandit, learner, episodes=5, trial=True)
        >>> learner(trials.sample(4, torch.Generator().manual_seed(0))).shape
        torch.Size([4])
    """

    def __init__(self, environment: Environment, *, hidden: int = 64, discount: float = 0.99):
        super().__init__()
        self.actions, self.discount = action_distribution(environment), discount
        inputs = environment.observation_size + environment.action_size + 2
        self.memory = use_cells(nn.GRU(inputs, hidden))
        self.policy = nn.Linear(hidden, self.actions.outputs)

    def initial_state(self) -> tuple[tuple[()], Tensor]:
        """Return no state, and a memory (hidden,) of zeros."""
        return (), self.policy.weight.new_zeros(self.policy.in_features)

    def act(
        self, state: tuple[()], memory: Tensor, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[Tensor, Tensor, PolicyInput]:
        """Take one step of one episode. All randomness comes from `noise`.

        Returns:
            The next memory, the action (A,), and the policy's input, which the loss needs.
        """
        hidden = self._hidden(tree_map(lambda x: x[None], policy_input), memory)[0]
        return hidden, self.actions.sample(self.policy(hidden), noise), policy_input

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """Return what `initial_state` returns, after the episodes (E, H) one by one.

        Write a function of one task: no task axis, no Python `if` on values. Padding has
        `weight` 0 and must not count.
        """
        _, memory = self.initial_state() if state is None else state
        steps = flatten_episodes(support)
        return (), last_real_step(self._hidden(steps.extras, memory), steps.weight)

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> Tensor:
        """Return the parameters of the action distribution (N, ·) at N steps."""
        return self.policy(self._hidden(flatten_episodes(x).extras, state[1]))

    def loss(self, task: Task[Episodes]) -> Tensor:
        """Return the surrogate loss () whose gradient is the policy gradient."""
        steps = flatten_episodes(task.query)
        dist_params = self.predict(self.initial_state(), task.query)
        returns = discounted_returns(steps.reward, discount=self.discount)
        advantage = returns - weighted_mean(returns, steps.weight)
        log_prob = self.actions.log_prob(dist_params, steps.action)
        return -weighted_mean(log_prob * advantage, steps.weight)

    def _hidden(self, inputs: PolicyInput, memory: Tensor) -> Tensor:
        """The memory (N, hidden) at each of N steps."""
        return self.memory(policy_features(inputs), memory[None])[0]
