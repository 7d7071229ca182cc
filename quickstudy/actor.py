"""Learners that act."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from quickstudy.environments.rollout import Percept
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
        self, state: Any, memory: Any, percept: Percept, noise: Tensor
    ) -> tuple[Any, Tensor, Any]:
        """The next memory, the action (A,), and what training needs of the moment. Noise
        (A + draws,) is uniform in [0, 1), and all that is random."""
