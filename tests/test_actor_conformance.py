"""Every actor of the zoo × every check; and checks on actors that must fail them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quickstudy.environments import HiddenGoal, PolicyInput
from quickstudy.learners.policies import RL2
from quickstudy.tasks import Rollouts
from quickstudy.testing.actors import ACTOR_CHECKS, ActorCase, check_actor
from tests.zoo import ACTORS


@pytest.mark.parametrize("check", ACTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ACTORS)
def test_actor(name: str, check: Callable[[ActorCase], None]):
    check(ACTORS[name].case())


class Unreached(RL2):
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.forgotten = torch.nn.Linear(2, 2)


class GrowingMemory(RL2):
    def adapt(self, support: Any, state: Any = None) -> Any:
        return super().adapt(support, state)[1]


class OtherRandomness(RL2):
    def act(self, state: Any, memory: Tensor, policy_input: PolicyInput, noise: Tensor) -> Any:
        return super().act(state, memory, policy_input, torch.rand_like(noise))


class Deaf(RL2):
    def act(self, state: Any, memory: Tensor, policy_input: PolicyInput, noise: Tensor) -> Any:
        return super().act(state, memory, policy_input, torch.full_like(noise, 0.5))


class CountsPadding(RL2):
    def adapt(self, support: Any, state: Any = None) -> Any:
        weight = torch.ones_like(support.weight)
        return super().adapt(support._replace(weight=weight), state)


class Counting(RL2):
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.register_buffer("calls", torch.zeros(()))

    def initial_state(self) -> Any:
        self.get_buffer("calls").add_(1)
        return super().initial_state()


class PlainAttribute(RL2):
    shift = 0.0

    def after_step(self) -> None:
        self.shift += 1.0

    def loss(self, task: Any) -> Tensor:
        return super().loss(task) * (1 + self.shift)


@pytest.mark.parametrize(
    ("actor", "check"),
    [
        (Unreached, "actor_losses_and_gradients_are_finite"),
        (GrowingMemory, "adapt_returns_what_initial_state_does"),
        (OtherRandomness, "noise_is_the_only_randomness"),
        (Deaf, "noise_is_the_only_randomness"),
        (CountsPadding, "actor_ignores_padding"),
        (Counting, "acting_changes_nothing_in_the_learner"),
        (PlainAttribute, "a_run_resumes_to_the_bit"),
    ],
)
def test_broken_actors_fail(actor: Any, check: str):
    cells = HiddenGoal(3, horizon=4)
    learner = actor(cells, hidden=4)
    with pytest.raises(AssertionError, match=f"fails `{check}`"):
        check_actor(Rollouts(cells, learner, episodes=2, trial=True))
