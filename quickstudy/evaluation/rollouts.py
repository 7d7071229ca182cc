"""Evaluation of learners that act in new tasks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.task import Task
from quickstudy.environments.rollout import Episodes
from quickstudy.evaluation.protocol import evaluating, held_out_batches, named_metric
from quickstudy.evaluation.report import Report, warn_of_nan
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.tasks.rollouts import Rollouts

Reward: TypeAlias = Callable[[Task[Episodes]], Tensor]


def total_reward(task: Task[Episodes]) -> Tensor:
    """Return the sum of the rewards of all query episodes, such as those of a trial.

    Examples:
        >>> reward = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # two episodes of two steps
        >>> episodes = Episodes(*[reward] * 6, extras=())
        >>> total_reward(Task(support=episodes, query=episodes))
        tensor(3.)
    """
    return task.query.reward.sum()


def return_before(task: Task[Episodes]) -> Tensor:
    """Return the mean return of a support episode.

    Examples:
        >>> reward = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # two episodes of two steps
        >>> episodes = Episodes(*[reward] * 6, extras=())
        >>> return_before(Task(support=episodes, query=episodes))
        tensor(1.5000)
    """
    return task.support.reward.sum(-1).mean()


def return_after(task: Task[Episodes]) -> Tensor:
    """Return the mean return of a query episode.

    Examples:
        >>> reward = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # two episodes of two steps
        >>> episodes = Episodes(*[reward] * 6, extras=())
        >>> return_after(Task(support=episodes, query=episodes))
        tensor(1.5000)
    """
    return task.query.reward.sum(-1).mean()


def success_rate(task: Task[Episodes]) -> Tensor:
    """Return the share of the query episodes in which some step had the `info` "success",
    for families that have it, such as Meta-World.

    Examples:
        >>> success = torch.tensor([[0.0, 0.0], [0.0, 1.0]])  # two episodes of two steps
        >>> episodes = Episodes(*[success] * 6, extras=(), info={"success": success})
        >>> success_rate(Task(support=episodes, query=episodes))
        tensor(0.5000)
    """
    return task.query.info["success"].amax(-1).mean()


def evaluate_rollouts(
    learner: Learner[Any],
    tasks: Rollouts,
    *,
    n_tasks: int = 600,
    meta_batch_size: int = 50,
    seed: int = 1,
    metrics: Mapping[str, Reward] | None = None,
    selection: str = "last step",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Evaluate a learner that acts in `n_tasks` new tasks. The learner does not change.

    Args:
        learner: the learner of `tasks`.
        n_tasks: tasks in all.
        meta_batch_size: tasks drawn at a time; with `seed` it determines tasks and noise.
        metrics: by name, functions of one task of episodes. None: the total reward of a trial;
            without trials, the return after adaptation and before it.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of finished tasks.

    Warns:
        UserWarning: a number is NaN, as actions are: the learner diverged.

    Raises:
        ValueError: the rollouts are of another learner, `n_tasks` or `meta_batch_size` is below
            1, or a metric is not one number for a task.

    Examples:
        >>> import quickstudy as qs
        >>> bandit = qs.environments.BernoulliBandit(arms=2)
        >>> learner = qs.RL2(bandit, hidden=4)
        >>> rollouts = Rollouts(bandit, learner, episodes=3, trial=True)
        >>> evaluate_rollouts(learner, rollouts, n_tasks=4).values["total reward"].shape
        torch.Size([4])
    """
    if tasks.learner is not learner:
        raise ValueError("These are rollouts of another learner: make `Rollouts` of this one.")
    if metrics is None and tasks.trial:
        metrics = {"total reward": total_reward}
    elif metrics is None:
        metrics = {"return after": return_after, "return before": return_before}
    metrics = {name: named_metric(name, metric, learner) for name, metric in metrics.items()}
    parts: list[dict[str, Tensor]] = []

    def measure(task: Task[Episodes]) -> dict[str, Tensor]:
        return {name: metric(task) for name, metric in metrics.items()}

    with evaluating(tasks.learner) as copy:
        for batch in held_out_batches(
            copy, tasks.by(copy), n_tasks, meta_batch_size, seed=seed, progress=progress
        ):
            parts.append(over_tasks(measure)(batch))
    values = {m: torch.cat([part[m] for part in parts]).cpu().double() for m in metrics}
    warn_of_nan(values)
    card = {
        **tasks.card(),
        "episodes": n_tasks,
        "batch": meta_batch_size,
        "seed": seed,
        "transductive": False,
        "selection": selection,
    }
    return Report(values, card)
