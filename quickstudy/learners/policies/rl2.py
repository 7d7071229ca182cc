r"""RL², fast reinforcement learning by slow (Duan et al., 2016, arXiv:1611.02779; Wang et al.,
2016, arXiv:1611.05763).

A recurrent policy observes its last action and reward, and keeps its hidden state over all
episodes of a trial. So the hidden state holds what it learned of the task, and the weights hold
how to explore and to learn. The weights are trained to maximise the return of a whole trial:

$$h_t = \mathrm{GRU}(h_{t-1}; o_t, a_{t-1}, r_{t-1}, d_{t-1}), \qquad
  \max_\theta\, \mathbb{E} \sum_{t \in \text{trial}} \gamma^t r_t$$

Differs from the paper: PPO is the outer algorithm, where the paper has TRPO (as in later
comparisons); the value is a second head of the policy's net; inputs are not preprocessed.
"""

from typing import Any

from torch import Tensor, nn

from quickstudy.core.task import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.rl.ppo import Schedule, StepRecord, ppo
from quickstudy.rl.trial_actors import RecurrentActor
from quickstudy.rl.trials import flatten_episodes


class RL2(RecurrentActor):
    """Learns to explore and to learn in the memory of a recurrent policy. Train it on
    `Rollouts(..., trial=True)`, by an optimizer in `MultiEpoch`.

    Args:
        environment: determines the sizes of observations and actions.
        hidden: units of the GRU.
        timescale: the longest time constant of the GRU's units before training, in steps, such
            as the length of a trial; the others are shorter, down to one step (Tallec &
            Ollivier, 2018, arXiv:1804.11188). None: PyTorch's initialisation, about two steps.
        discount: γ, of the rewards of a whole trial. `discount`, `gae_lambda` and
            `entropy_coef` may be functions of the number of meta-steps done.
        gae_lambda: λ in [0, 1], see `advantages.gae`.
        clip: ε, see `advantages.clipped_surrogate`.
        value_coef: weight of the squared error of normalised values, see `ppo`.
        entropy_coef: weight of the entropy bonus.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=3)
        >>> learner = qs.RL2(bandit, hidden=8)
        >>> trials = qs.tasks.Rollouts(bandit, learner, episodes=5, trial=True)
        >>> task = trials.sample(4, torch.Generator().manual_seed(0))
        >>> task.query.action.shape, learner(task).shape
        (torch.Size([4, 5, 1, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        environment: Environment,
        *,
        hidden: int = 256,
        timescale: int | None = None,
        discount: float | Schedule = 0.99,
        gae_lambda: float | Schedule = 0.3,
        clip: float = 0.2,
        value_coef: float = 0.5,
        entropy_coef: float | Schedule = 0.01,
    ):
        schedules = discount, gae_lambda, clip, value_coef, entropy_coef
        super().__init__(environment, schedules, hidden, timescale)
        self.policy = nn.Linear(hidden, self.actions.outputs)
        self.value = nn.Linear(hidden, 1)

    def act(
        self, state: tuple[()], memory: Tensor, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[Tensor, Tensor, StepRecord]:
        """As `Actor.act`."""
        hidden = self._hidden(tree_map(lambda x: x[None], policy_input), memory)[0]
        dist_params, value = self.policy(hidden), self.value(hidden)[0]
        action = self.actions.sample(dist_params, noise)
        return hidden, action, StepRecord(policy_input, dist_params, value)

    def predict(self, state: tuple[tuple[()], Tensor], x: Any) -> tuple[Tensor, Tensor]:
        """Return the parameters of the action distribution (N, ·) and the normalised values
        (N,), at the steps of `flatten_episodes(x)`; `x` are `Episodes` (E, H)."""
        hidden = self._hidden(flatten_episodes(x).extras.policy_input, state[1])
        return self.policy(hidden), self.value(hidden)[:, 0]

    def loss(self, task: Task[Episodes]) -> Tensor:
        """The PPO loss, see `rl.ppo`."""
        outputs = self.predict(self.initial_state(), task.query)
        return ppo(self.actions, *outputs, task.query, self.settings)
