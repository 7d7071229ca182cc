"""Learners that act."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from quickstudy.core.task import Task
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.learner import Learner


class Actor(Learner[tuple[Any, Any]]):
    """A learner that collects its own data, so it needs a policy before any data exist.

    Its state is a pair, (state, memory), as the policies of `rollout` have it. The state (fast
    weights, a context) stays the same until `adapt` returns another one; the memory (hidden
    states) changes at every step. An actor has two verbs besides a learner's, `initial_state`
    and `act`; both are pure functions of one task.

    Examples:
        >>> import quickstudy as qs
        >>> grid = qs.environments.HiddenGoal(size=3, horizon=4)
        >>> learner = qs.RL2(grid, hidden=8)
        >>> state, memory = learner.initial_state()
        >>> state, memory.shape
        ((), torch.Size([8]))
    """

    extra_noise_size: int = 0
    """The number of uniform numbers that `act` takes besides the A numbers of an action."""

    @abstractmethod
    def initial_state(self) -> tuple[Any, Any]:
        """The state and the memory before any data: nests of tensors, of one task."""

    @abstractmethod
    def act(
        self, state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor
    ) -> tuple[Any, Tensor, Any]:
        """Choose an action. `noise` (A + extra_noise_size,), uniform in [0, 1), is the only
        source of randomness.

        Returns:
            The next memory, the action (A,), and the per-step data that the loss needs.
        """

    def kl_divergence(self, task: Task[Episodes]) -> Tensor:
        """Return the mean KL divergence (), in nats, from the policy that acted in the query to
        the current one. Trust regions bound it."""
        raise NotImplementedError(
            f"{type(self).__name__} has no `kl_divergence`: train it by another optimizer than "
            "TRPO."
        )
