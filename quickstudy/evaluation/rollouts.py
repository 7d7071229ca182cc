"""Evaluation of learners that act in new tasks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.task import Task, batches
from quickstudy.environments.rollout import Episodes
from quickstudy.evaluation.protocol import HELD_OUT_RANK, evaluating
from quickstudy.evaluation.report import Report
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

    Raises:
        ValueError: the rollouts are of another learner, or `n_tasks` or `meta_batch_size` is
            below 1.

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
    if n_tasks < 1 or meta_batch_size < 1:
        raise ValueError(
            f"n_tasks={n_tasks}, meta_batch_size={meta_batch_size}: evaluate at least one task "
            "at a time."
        )
    chosen = metrics or (
        {"total reward": total_reward}
        if tasks.trial
        else {"return after": return_after, "return before": return_before}
    )
    done, parts = 0, list[dict[str, Tensor]]()

    def measure(task: Task[Episodes]) -> dict[str, Tensor]:
        return {name: metric(task) for name, metric in chosen.items()}

    with evaluating(tasks.learner) as copy:
        for batch in batches(
            tasks.by(copy),
            meta_batch_size,
            steps=-(-n_tasks // meta_batch_size),
            seed=seed,
            rank=HELD_OUT_RANK,
        ):
            parts.append(over_tasks(measure)(batch))
            done = min(done + meta_batch_size, n_tasks)
            if progress is not None:
                progress(done)
    values = {m: torch.cat([part[m] for part in parts])[:n_tasks] for m in chosen}
    card = {
        **tasks.card(),
        "episodes": n_tasks,
        "batch": meta_batch_size,
        "seed": seed,
        "transductive": False,
        "selection": selection,
    }
    return Report({m: value.cpu().double() for m, value in values.items()}, card)
