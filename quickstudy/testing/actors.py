"""The contract of actors, as a test suite for yours.

>>> import quickstudy as qs
>>> grid = qs.environments.HiddenGoal(size=3, horizon=3)
>>> check_actor(qs.tasks.Rollouts(grid, qs.RL2(grid, hidden=4), episodes=2, trial=True))
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

from quickstudy.core.task import Task, TaskDistribution
from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments.rollout import Episodes, PolicyInput
from quickstudy.execution.batching import over_tasks
from quickstudy.rl.actor import Actor
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.testing._checks import (
    gradients,
    is_finite,
    require,
    require_same,
    run_checks,
    save_and_load,
)
from quickstudy.training.loop import train

# a check is no function to call: `check_...` runs it and shows its docstring as the remedy
__all__ = ["ACTOR_CHECKS", "ActorCase", "check_actor"]


def check_actor(rollouts: Rollouts, tasks: TaskDistribution | None = None) -> None:
    """Run every check of `ACTOR_CHECKS` on copies of the learner of `rollouts`.

    Args:
        rollouts: small ones, so that this takes seconds.
        tasks: where the learner's loss takes its batches from, such as `OffPolicyTasks` of the
            same rollouts; None: the rollouts.

    Raises:
        AssertionError: names the failed check, what was observed, and the remedy.

    Examples:
        >>> import quickstudy as qs
        >>> arms = qs.environments.BernoulliBandit(arms=2)
        >>> learner = qs.SNAILPolicy(arms, length=3, width=4, blocks=(4, (4, 4)))
        >>> check_actor(Rollouts(arms, learner, episodes=3, trial=True))
    """
    tasks = rollouts if tasks is None else tasks
    run_checks(ACTOR_CHECKS, ActorCase(rollouts, tasks), rollouts.learner)


@dataclass(frozen=True)
class ActorCase:
    """An actor under test. The checks work on copies of it, in float64.

    Examples:
        >>> import quickstudy as qs
        >>> arms = qs.environments.BernoulliBandit(arms=2)
        >>> rollouts = Rollouts(arms, qs.RL2(arms, hidden=4), episodes=3, trial=True)
        >>> with ActorCase(rollouts, rollouts).exact() as (learner, copied, tasks):
        ...     learner is copied.learner, tasks.sample(2, Generator()).query.reward.dtype
        (True, torch.float64)
    """

    rollouts: Rollouts
    tasks: TaskDistribution

    @contextmanager
    def exact(self) -> Iterator[tuple[Actor, Rollouts, TaskDistribution]]:
        """Yield copies of the learner, its rollouts and its tasks, in float64."""
        before, environment = torch.get_default_dtype(), self.rollouts.environment
        torch.set_default_dtype(torch.float64)
        try:
            shared = {id(environment): environment}
            rollouts, tasks = copy.deepcopy((self.rollouts, self.tasks), shared)
            yield rollouts.learner.double(), rollouts, tasks
        finally:
            torch.set_default_dtype(before)


def actor_losses_and_gradients_are_finite(case: ActorCase) -> None:
    """`learner(tasks)` is a finite loss for every task (T,), and every parameter that requires
    a gradient gets a finite one. Look for a `detach` or a layer that is never called."""
    with case.exact() as (learner, _, tasks):
        losses = learner(tasks.sample(3, _seeded()))
        require(losses.shape == (3,), f"three tasks have losses of shape {tuple(losses.shape)}")
        losses.mean().backward()
        require(is_finite(losses), f"the losses are {losses.tolist()}")
        finite = {name for name, grad in gradients(learner).items() if is_finite(grad)}
        learned = (name for name, p in learner.named_parameters() if p.requires_grad)
        broken = [name for name in learned if name not in finite]
        require(not broken, f"no finite gradient reaches {', '.join(broken)}")


def actor_execution_changes_nothing(case: ActorCase) -> None:
    """`vmap` over tasks and a loop have the same losses, gradients and adapted states. Write
    `adapt`, `act` and `loss` for one task, without control flow that depends on values."""
    with case.exact() as (learner, _, tasks):
        batch = tasks.sample(3, _seeded())

        def outcome(execution: Literal["vmap", "loop"]) -> Any:
            learner.execution = execution
            learner.zero_grad()
            losses = learner(batch)
            losses.sum().backward()
            adapted = over_tasks(learner.adapt, execution)(batch.support)
            return losses.detach(), gradients(learner), adapted

        require_same(outcome("vmap"), outcome("loop"), "vmap and a loop differ")


def adapt_returns_what_initial_state_does(case: ActorCase) -> None:
    """`initial_state` and `adapt` return a pair of state and memory of one structure, with the
    same shapes, and `act` keeps the structure of the memory. So rollouts need not know the kind
    of learner."""
    with case.exact() as (learner, rollouts, _):
        support = _first(rollouts.sample(1, _seeded())).support
        initial, adapted = learner.initial_state(), learner.adapt(support)
        require(isinstance(initial, tuple) and len(initial) == 2, "the state is no pair")
        _require_alike(initial, adapted, "adapt and initial_state")
        noise = torch.rand(rollouts.environment.action_size + learner.extra_noise_size)
        memory, action, _ = learner.act(*adapted, _input(support), noise)
        _require_alike(adapted[1], memory, "the memories before and after `act`")
        require(action.shape == support.action.shape[2:], f"an action is {tuple(action.shape)}")


def noise_is_the_only_randomness(case: ActorCase) -> None:
    """`act` is a function of its arguments, and its action depends on the noise. Draw nothing
    from torch's generator: ask for `extra_noise_size` numbers."""
    with case.exact() as (learner, rollouts, _):
        support = _first(rollouts.sample(1, _seeded())).support
        width = rollouts.environment.action_size + learner.extra_noise_size

        def act(noise: Tensor) -> list[Tensor]:
            return leaves(learner.act(*learner.initial_state(), _input(support), noise))

        noises = torch.rand(20, width, generator=_seeded()).unbind()
        first, again = ([act(noise) for noise in noises] for _ in range(2))
        require_same((*chain(*first),), (*chain(*again),), "equal arguments, other actions")
        differ = any(
            not torch.equal(a, b) for row in first for a, b in zip(row, first[0], strict=True)
        )
        require(differ, "the noise changes nothing")


def actor_ignores_padding(case: ActorCase) -> None:
    """Steps of weight 0 change neither adaptation nor the loss. Multiply by the weights, and
    put padding last (`rl.trials.flatten_episodes`)."""

    def cut(episodes: Episodes) -> tuple[Episodes, Episodes]:
        """Episodes (T, E, H) of which one step is padding, and others that differ there
        alone."""
        weight = episodes.weight.clone()
        weight[:, -1, -1] = 0
        reward = episodes.reward * weight
        episodes = episodes._replace(weight=weight, reward=reward)

        def junk(leaf: Tensor) -> Tensor:
            real = weight.view(*weight.shape, *[1] * (leaf.ndim - 3)) > 0
            return torch.where(real, leaf, leaf.roll(1, 1).roll(1, 2))

        junked = tree_map(junk, episodes)
        return episodes, junked._replace(weight=weight, reward=reward, done=episodes.done)

    with case.exact() as (learner, rollouts, tasks):
        adapt = over_tasks(learner.adapt)
        first, second = map(adapt, cut(rollouts.sample(3, _seeded()).support))
        require_same(first, second, "padding changes what is adapted to")
        (support, support_2), (query, query_2) = map(cut, tasks.sample(3, _seeded()))
        losses = learner(Task(support, query))
        require_same(losses, learner(Task(support_2, query_2)), "padding changes the loss")


@torch.no_grad()
def an_actor_of_nan_earns_nan(case: ActorCase) -> None:
    """The rewards of an actor whose parameters are NaN are NaN. `argmax` of NaN is the first
    action: choose by `environments.categorical` or `one_hot_argmax`."""
    with case.exact() as (learner, rollouts, _):
        for p in learner.parameters():
            p.fill_(torch.nan)
        for episodes in rollouts.sample(3, _seeded()):
            rewards = episodes.reward[episodes.weight > 0]
            require(rewards.isnan().all(), f"they are {rewards.tolist()}")


def acting_changes_nothing_in_the_learner(case: ActorCase) -> None:
    """Rollouts leave parameters and buffers as they are, and equal generators give equal
    episodes. Keep what changes in the memory that `act` returns."""
    with case.exact() as (learner, rollouts, _):
        before = copy.deepcopy(dict(learner.state_dict()))
        first, again = (rollouts.sample(3, _seeded()) for _ in range(2))
        require_same(first, again, "equal generators lead to other episodes", exactly=True)
        require_same(dict(learner.state_dict()), before, "it changed", exactly=True)


def a_loaded_actor_acts_the_same(case: ActorCase) -> None:
    """A saved and loaded learner acts the same, to the bit. Keep what is learned in parameters
    and buffers."""
    with case.exact() as (learner, rollouts, _):
        expected = rollouts.sample(3, _seeded())
        save_and_load(learner, learner)
        require_same(
            rollouts.sample(3, _seeded()), expected, "it acts in another way", exactly=True
        )


def a_run_resumes_to_the_bit(case: ActorCase) -> None:
    """Training for three steps is training for one, and for two more from the state dictionary.
    Let `set_step` be a function of the step alone, and `after_step` change buffers alone."""

    def trained(stops: list[int]) -> dict[str, Tensor]:
        stored: dict[str, Tensor] = {}
        for start, steps in pairwise([0, *stops]):
            with case.exact() as (learner, _, tasks):
                learner.load_state_dict(stored or learner.state_dict())
                optimizer = torch.optim.SGD(learner.parameters(), 1e-3)
                list(
                    train(
                        learner, tasks, optimizer, steps=steps, start=start, meta_batch_size=2
                    )
                )
                stored = learner.state_dict()
        return dict(stored)

    require_same(trained([3]), trained([1, 3]), "a resumed run differs", exactly=True)


ACTOR_CHECKS = (
    actor_losses_and_gradients_are_finite,
    actor_execution_changes_nothing,
    adapt_returns_what_initial_state_does,
    noise_is_the_only_randomness,
    actor_ignores_padding,
    an_actor_of_nan_earns_nan,
    acting_changes_nothing_in_the_learner,
    a_loaded_actor_acts_the_same,
    a_run_resumes_to_the_bit,
)
"""The checks of `check_actor`."""


def _seeded() -> Generator:
    return Generator().manual_seed(0)


def _first(batch: Any) -> Any:
    return tree_map(lambda leaf: leaf[0], batch)


def _input(episodes: Episodes) -> PolicyInput:
    zero = episodes.reward.new_zeros(())
    return PolicyInput(episodes.observation[0, 0], episodes.action[0, 0] * 0, zero, zero + 1)


def _require_alike(first: Any, second: Any, what: str) -> None:
    same = pytree.tree_structure(first) == pytree.tree_structure(second)
    shapes = [[tuple(leaf.shape) for leaf in leaves(tree)] for tree in (first, second)]
    require(same and shapes[0] == shapes[1], f"{what} differ in structure or shapes")
