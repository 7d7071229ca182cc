"""Tasks whose examples are the episodes that a learner acted in."""

from typing import Any

import torch
from torch import Generator

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Json, Task, TaskDistribution
from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, rollout
from quickstudy.execution.batching import over_tasks
from quickstudy.rl.actor import Actor


class Rollouts(TaskDistribution):
    """Sample tasks of an environment and let a learner act in them with its current weights.

    A batch is a function of the generator and of the weights, and `train` is on policy: every
    step collects new episodes.

    Args:
        environment: where to act.
        learner: who acts.
        episodes: E, of each task; without a trial, before adaptation and after it.
        trial: a task is one trial: its episodes follow one another, the memory continues from
            each to the next, and support and query are both the whole trial (RL²). Otherwise
            the support is E episodes of the initial policy, and the query is E episodes of the
            policy that has adapted to them (MAML).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=3)
        >>> learner = qs.RL2(bandit, hidden=8)
        >>> tasks = Rollouts(bandit, learner, episodes=5, trial=True)
        >>> tasks.sample(2, torch.Generator().manual_seed(0)).query.action.shape
        torch.Size([2, 5, 1, 3])
    """

    def __init__(
        self, environment: Environment, learner: Actor, *, episodes: int, trial: bool = False
    ):
        self.environment, self.learner = environment, learner
        self.episodes, self.trial = episodes, trial

    def by(self, learner: Actor) -> "Rollouts":
        """Return the same tasks with another learner, such as a copy in evaluation mode."""
        return Rollouts(self.environment, learner, episodes=self.episodes, trial=self.trial)

    def sample(self, n_tasks: int, generator: Generator) -> Task[Episodes]:
        """Sample `n_tasks` tasks and act in them: `Episodes` (T, E, H, ...), on the learner's
        device."""
        return self.act_in(self.environment.tasks(n_tasks, generator), generator)

    @torch.no_grad()
    def act_in(self, tasks: Any, generator: Generator) -> Task[Episodes]:
        """Act in tasks of the environment; `sample` draws them first."""
        learner = self.learner
        tasks = tree_map(lambda leaf: leaf.to(device_of(learner)), tasks)
        n_tasks = len(leaves(tasks)[0])

        def act(state: object, memory: object) -> Episodes:
            return rollout(
                self.environment,
                tasks,
                learner.act,
                generator,
                episodes=self.episodes,
                state=state,
                memory=memory,
                trial=self.trial,
                extra_noise_size=learner.extra_noise_size,
            )

        support = act(
            *tree_map(lambda leaf: leaf.expand(n_tasks, *leaf.shape), learner.initial_state())
        )
        if self.trial:
            return Task(support, support)
        return Task(
            support, act(*over_tasks(learner.adapt, learner.execution, learner.chunk)(support))
        )

    def card(self) -> dict[str, Json]:
        """Describe the environment and how the learner acts in it."""
        return {
            "tasks": type(self.environment).__name__,
            "actions": self.environment.action_size,
            "horizon": self.environment.horizon,
            "rollouts": self.episodes,
            "trial": self.trial,
        }
