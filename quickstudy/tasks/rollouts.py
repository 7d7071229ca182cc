"""Tasks whose examples are what a learner did in them."""

from typing import Any

import torch
from torch import Generator

from quickstudy.core.task import Json, Task, TaskDistribution
from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments.environment import Environment
from quickstudy.environments.rollout import Episodes, rollout
from quickstudy.execution.batching import over_tasks
from quickstudy.rl.actor import Actor


class Rollouts(TaskDistribution):
    """Draws tasks of an environment, and lets a learner act in them with the weights it has.

    So a batch is a function of the generator and of the weights, and `train` is on policy:
    every step collects its own.

    Args:
        environment: where to act.
        learner: who acts.
        episodes: E, of each task; without a trial, before adapting and after it.
        trial: a task is one trial: its episodes follow one another, the memory goes on from
            each to the next, and support and query are both the whole of it (RL²). Otherwise
            the support are E episodes of the learner as it begins, and the query E more,
            after it has adapted to them (MAML).
    """

    def __init__(
        self, environment: Environment, learner: Actor, *, episodes: int, trial: bool = False
    ):
        self.environment, self.learner = environment, learner
        self.episodes, self.trial = episodes, trial

    def sample(self, n_tasks: int, generator: Generator) -> Task[Episodes]:
        """Draws `n_tasks` tasks and acts in them: `Episodes` (T, E, H, ...), on the learner's
        device."""
        return self.act_in(self.environment.tasks(n_tasks, generator), generator)

    @torch.no_grad()
    def act_in(self, tasks: Any, generator: Generator) -> Task[Episodes]:
        """Acts in `tasks`, which are of the environment: as `sample` does."""
        learner = self.learner
        where = next(learner.parameters()).device
        drawn = tree_map(lambda leaf: leaf.to(where), tasks)
        size = len(leaves(drawn)[0])

        def acted(state: object, memory: object) -> Episodes:
            return rollout(
                self.environment,
                drawn,
                learner.act,
                generator,
                episodes=self.episodes,
                state=state,
                memory=memory,
                trial=self.trial,
                draws=learner.draws,
            )

        begun = tree_map(lambda leaf: leaf.expand(size, *leaf.shape), learner.begin())
        support = acted(*begun)
        if self.trial:
            return Task(support, support)
        adapted = over_tasks(learner.adapt, learner.execution, learner.chunk)(support)
        return Task(support, acted(*adapted))

    def card(self) -> dict[str, Json]:
        """The environment's name and sizes, and how it was acted in."""
        return {
            "tasks": type(self.environment).__name__,
            "actions": self.environment.actions,
            "horizon": self.environment.horizon,
            "rollouts": self.episodes,
            "trial": self.trial,
        }
