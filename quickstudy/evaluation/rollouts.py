"""How well a learner acts in new tasks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.task import Task
from quickstudy.environments.rollout import Episodes
from quickstudy.evaluation.protocol import evaluating, held_out_batches
from quickstudy.evaluation.report import Report
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.tasks.rollouts import Rollouts

Reward: TypeAlias = Callable[[Task[Episodes]], Tensor]


def total_reward(task: Task[Episodes]) -> Tensor:
    """Of all query episodes together: of a trial, all that it earned."""
    return task.query.reward.sum()


def return_before(task: Task[Episodes]) -> Tensor:
    """Mean reward of a support episode."""
    return task.support.reward.sum(-1).mean()


def return_after(task: Task[Episodes]) -> Tensor:
    """Mean reward of a query episode."""
    return task.query.reward.sum(-1).mean()


def success_rate(task: Task[Episodes]) -> Tensor:
    """Share of the query episodes in which some step had the `info` "success": for families
    that tell it, as Meta-World does."""
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
    """Lets a learner act in `n_tasks` new tasks; as `evaluate` does, it changes nothing.

    Args:
        learner: the one that `tasks` are acted in by.
        n_tasks: tasks in all.
        meta_batch_size: tasks drawn at a time; with `seed` it says which tasks, and what luck.
        metrics: by name, functions of one task of trajectories. None: the total reward of a
            trial; without one, the return after adapting, and before.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of tasks done so far.

    Raises:
        ValueError: the rollouts are of another learner, or `n_tasks` or `meta_batch_size` is
            below 1.
    """
    if tasks.learner is not learner:
        raise ValueError("These are rollouts of another learner: make `Rollouts` of this one.")
    chosen = metrics or (
        {"total reward": total_reward}
        if tasks.trial
        else {"return after": return_after, "return before": return_before}
    )

    def measure(task: Task[Episodes]) -> dict[str, Tensor]:
        return {name: metric(task) for name, metric in chosen.items()}

    with evaluating(learner):
        parts = [
            over_tasks(measure)(batch)
            for batch in held_out_batches(
                learner, tasks, n_tasks, meta_batch_size, seed=seed, progress=progress
            )
        ]
    values = {m: torch.cat([part[m] for part in parts]).cpu().double() for m in chosen}
    card = {
        **tasks.card(),
        "episodes": n_tasks,
        "batch": meta_batch_size,
        "seed": seed,
        "transductive": False,
        "selection": selection,
    }
    return Report(values, card)
