"""How well a learner acts in new tasks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.distributions.rollouts import Rollouts
from quickstudy.environments.rollout import Trajectories
from quickstudy.evaluate import _APART, Report, evaluating
from quickstudy.execution import over_tasks
from quickstudy.learner import Learner
from quickstudy.task import Task, batches

Reward: TypeAlias = Callable[[Task[Trajectories]], Tensor]


def total_reward(task: Task[Trajectories]) -> Tensor:
    """Of all query episodes together: of a trial, all that it earned."""
    return task.query.reward.sum()


def return_before(task: Task[Trajectories]) -> Tensor:
    """Mean reward of a support episode."""
    return task.support.reward.sum(-1).mean()


def return_after(task: Task[Trajectories]) -> Tensor:
    """Mean reward of a query episode."""
    return task.query.reward.sum(-1).mean()


def success_rate(task: Task[Trajectories]) -> Tensor:
    """Share of the query episodes in which some step had the `info` "success": for families
    that tell it, as Meta-World does."""
    return task.query.info["success"].amax(-1).mean()


def evaluate_rollouts(
    learner: Learner[Any],
    tasks: Rollouts,
    *,
    count: int = 600,
    size: int = 50,
    seed: int = 1,
    metrics: Mapping[str, Reward] | None = None,
    selection: str = "last step",
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Lets a learner act in `count` new tasks; as `evaluate` does, it changes nothing.

    Args:
        learner: the one that `tasks` are acted in by.
        count: tasks in all.
        size: tasks drawn at a time; with `seed` it says which tasks, and what luck.
        metrics: by name, functions of one task of trajectories. None: the total reward of a
            trial; without one, the return after adapting, and before.
        selection: how the checkpoint was chosen, for the card.
        progress: called with the number of tasks done so far.

    Raises:
        ValueError: the rollouts are of another learner, or `count` or `size` is below 1.
    """
    if tasks.learner is not learner:
        raise ValueError("These are rollouts of another learner: make `Rollouts` of this one.")
    if count < 1 or size < 1:
        raise ValueError(f"count={count}, size={size}: evaluate at least one task at a time.")
    chosen = metrics or (
        {"total reward": total_reward}
        if tasks.trial
        else {"return after": return_after, "return before": return_before}
    )
    done, parts = 0, list[dict[str, Tensor]]()

    def judge(task: Task[Trajectories]) -> dict[str, Tensor]:
        return {name: metric(task) for name, metric in chosen.items()}

    with evaluating(learner):
        for batch in batches(tasks, size, steps=-(-count // size), seed=seed, rank=_APART):
            parts.append(over_tasks(judge)(batch))
            done = min(done + size, count)
            if progress is not None:
                progress(done)
    values = {m: torch.cat([part[m] for part in parts])[:count] for m in chosen}
    card = {
        **tasks.card(),
        "episodes": count,
        "batch": size,
        "seed": seed,
        "transductive": False,
        "selection": selection,
    }
    return Report({m: value.cpu().double() for m, value in values.items()}, card)
