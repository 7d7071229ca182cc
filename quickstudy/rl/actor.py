"""Learners that act."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from quickstudy.core.task import Task
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.learner import Learner


class Actor(Learner[tuple[Any, Any]]):
    """A learner whose data is what became of its own actions.

    What it knows is a pair, (state, memory), as policies of `rollout` have: the state stays as
    it is until `adapt` makes another one (fast weights, a context), the memory changes at every
    step (hidden states). So besides a learner's verbs an actor has two, which say how it acts
    before there are data, and how then; both are pure functions of one task.
    """

    draws: int = 0
    """Uniform numbers that `act` takes beside those of an action."""

    @abstractmethod
    def begin(self) -> tuple[Any, Any]:
        """The state and the memory before any data: nests of tensors, of one task."""

    @abstractmethod
    def act(
        self, state: Any, memory: Any, percept: PolicyInput, noise: Tensor
    ) -> tuple[Any, Tensor, Any]:
        """The next memory, the action (A,), and what training needs of the moment. Noise
        (A + draws,) is uniform in [0, 1), and all that is random."""

    def divergence(self, task: Task[Episodes]) -> Tensor:
        """The mean KL divergence (), in nats, of the policy that acted in the query to the one
        that would now: what a trust region bounds."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how far its policy has moved: train it by "
            "another optimizer than TRPO."
        )
