"""Bases of actors that learn in their memory over a trial, and that PPO trains."""

from collections.abc import Iterable

from torch import Tensor, nn

from quickstudy.environments.actions import action_distribution
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.nets.recurrent import chrono_init, use_cells
from quickstudy.rl.actor import Actor
from quickstudy.rl.ppo import PPOSettings, Schedule
from quickstudy.rl.trials import flatten_episodes, last_real_step, policy_features


class TrialActor(Actor):
    """An actor whose loss is `ppo`'s, with settings that may change in training.

    Args:
        environment: determines the kind of actions.
        schedules: the `PPOSettings`, as numbers or functions of the meta-steps done.

    Examples:
        >>> import quickstudy as qs
        >>> grid = qs.environments.HiddenGoal(size=3, horizon=4)
        >>> learner = qs.RL2(grid, hidden=8, entropy_coef=lambda step: 1 / (step + 1))
        >>> learner.set_step(1)
        >>> learner.settings.entropy_coef
        0.5
    """

    def __init__(self, environment: Environment, schedules: Iterable[float | Schedule]):
        super().__init__()
        self.actions, self.schedules = action_distribution(environment), tuple(schedules)
        self.set_step(0)

    def set_step(self, done: int) -> None:
        """Set discount, λ and the coefficient of entropy to their values after `done`
        meta-steps."""
        self.settings = PPOSettings.at_step(done, self.schedules)


class RecurrentActor(TrialActor):
    """A `TrialActor` whose memory is the hidden state of a GRU. Its `act` records the policy's
    input, as `extras.policy_input`.

    Args:
        environment: determines the sizes of observations and actions.
        schedules: see `TrialActor`.
        hidden: units of the GRU.
        timescale: the longest time constant before training, as in `RL2`.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.RL2(qs.environments.HiddenGoal(size=3, horizon=4), hidden=8)
        >>> learner.initial_state()[1].shape
        torch.Size([8])
    """

    def __init__(
        self,
        environment: Environment,
        schedules: Iterable[float | Schedule],
        hidden: int,
        timescale: int | None,
    ):
        super().__init__(environment, schedules)
        inputs = environment.observation_size + environment.action_size + 2
        self.memory = use_cells(nn.GRU(inputs, hidden))
        if timescale is not None:
            chrono_init(self.memory, timescale)

    def initial_state(self) -> tuple[tuple[()], Tensor]:
        """Return a hidden state (hidden,) of zeros."""
        return (), next(self.memory.parameters()).new_zeros(self.memory.hidden_size)

    def adapt(
        self, support: Episodes, state: tuple[tuple[()], Tensor] | None = None
    ) -> tuple[tuple[()], Tensor]:
        """Return the hidden state after the episodes (E, H), one after the other."""
        _, memory = self.initial_state() if state is None else state
        steps = flatten_episodes(support)
        hidden = self._hidden(steps.extras.policy_input, memory)
        return (), last_real_step(hidden, steps.weight)

    def _hidden(self, inputs: PolicyInput, memory: Tensor) -> Tensor:
        """The hidden state (N, hidden) at each of N steps."""
        return self.memory(policy_features(inputs), memory[None])[0]
