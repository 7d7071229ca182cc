"""Tasks whose examples are what a learner did in them, lately and ever."""

import torch
from torch import Generator, Tensor, nn

from quickstudy.core.task import Json, Task, TaskDistribution
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments.rollout import Episodes
from quickstudy.tasks.rollouts import Rollouts


class OffPolicyTasks(TaskDistribution):
    """Draws from what a learner has done in some tasks, and lets it act there now and then: for
    learning off policy (PEARL; Rakelly et al., 2019, arXiv:1903.08254, algorithm 1).

    A task's support are steps of its last exploration, before anything was known of it; its
    query are steps of all that is kept, beside numbers that the learner's loss may draw by.
    What is kept becomes a module of the learner, `learner.replay`, so that checkpoints have it
    and a run goes on to the bit; delete it from a learner that is to be given away. A batch is
    a function of the generator, the learner and what is kept.

    Args:
        rollouts: how a learner acts: E episodes of each task before adapting, E after. Of the
            environment's tasks K are drawn once, to train in.
        tasks: K.
        every: batches from one collection of steps to the next. The first is of all K tasks.
        collect: tasks of each of the others.
        support: steps of a task to adapt to.
        query: steps of a task to be judged on.
        capacity: C, the steps that are kept of each task: the last ones.
        adapted: the support are also steps of the episodes after adapting that came with the
            exploration, for where that seldom finds a reward.
        seed: of the K tasks.

    Raises:
        ValueError: the rollouts are trials, or a collection is longer than what is kept.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        *,
        tasks: int = 100,
        every: int = 2000,
        collect: int = 5,
        support: int = 64,
        query: int = 256,
        capacity: int = 10_000,
        adapted: bool = False,
        seed: int = 0,
    ):
        most = 2 * rollouts.episodes * rollouts.environment.horizon
        if rollouts.trial:
            raise ValueError("Trials cannot be replayed step by step: give Rollouts no trial.")
        if capacity < most:
            raise ValueError(
                f"capacity={capacity} is less than a collection, {most} steps: keep more."
            )
        self.rollouts, self.every, self.collect = rollouts, every, collect
        self.support, self.query, self.adapted = support, query, adapted
        self.tasks = rollouts.environment.tasks(tasks, Generator().manual_seed(seed))
        self.replay = ReplayBuffer(rollouts, tasks, capacity)
        rollouts.learner.replay = self.replay

    def sample(self, n_tasks: int, generator: Generator) -> Task[Episodes]:
        """Draws steps of `n_tasks` of the tasks, as one episode each: (T, 1, N, ...). The query's
        extras are uniform numbers (T, 1, N, 2, A + draws), as the learner's `act` takes them:
        for each step, and for the one after it."""
        replay, kept = self.replay, len(self.replay.written)
        made = int(replay.batches)
        if made % self.every == 0:
            some = torch.randperm(kept, generator=generator)[: self.collect]
            chosen = some if made else torch.arange(kept)
            tasks = tree_map(lambda leaf: leaf[chosen], self.tasks)
            replay.keep(chosen, self.rollouts.act_in(tasks, generator), self.adapted)
        replay.batches += 1

        chosen = torch.randint(kept, (n_tasks,), generator=generator).to(replay.written.device)
        written = replay.written[chosen]
        first = (written - replay.capacity).clamp_min(0)
        since, until = replay.since[chosen], replay.until[chosen]
        support = replay.draw(chosen, since, until, self.support, generator)
        query = replay.draw(chosen, first, written, self.query, generator)
        width = self.rollouts.environment.actions + self.rollouts.learner.draws
        luck = torch.rand(n_tasks, 1, self.query, 2, width, generator=generator)
        return Task(support, query._replace(extras=luck.to(written.device)))

    def card(self) -> dict[str, Json]:
        """That of the rollouts, and how steps of them are kept and drawn."""
        kept = {"training tasks": len(self.replay.written), "capacity": self.replay.capacity}
        drawn = {"support": self.support, "query": self.query, "every": self.every}
        return {**self.rollouts.card(), **kept, **drawn}


class ReplayBuffer(nn.Module):
    """The last C steps in each of K tasks: rings of rows, (K, C, ...). `written` (K,) counts
    all steps that a task has had; those from `since` to `until` (K,) last explored it."""

    written: Tensor
    since: Tensor
    until: Tensor
    batches: Tensor  # ()  that were drawn so far

    def __init__(self, rollouts: Rollouts, tasks: int, capacity: int):
        super().__init__()
        self.capacity = capacity
        seen, width = rollouts.environment.observations, rollouts.environment.actions
        shapes = {"observation": (seen,), "action": (width,), "next_observation": (seen,)}
        self.names = (*shapes, "reward", "done")
        where = next(rollouts.learner.parameters()).device
        for name in self.names:
            shape = tasks, capacity, *shapes.get(name, ())
            self.register_buffer(name, torch.zeros(shape, device=where))
        for name in ("written", "since", "until"):
            counts = torch.zeros(tasks, dtype=torch.long, device=where)
            self.register_buffer(name, counts)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long, device=where))

    def keep(self, tasks: Tensor, found: Task[Episodes], adapted: bool) -> None:
        """Adds the steps of episodes (T, E, H, ...) of `tasks` (T,), without padding; those
        of the support explored, and those after adapting if `adapted`."""
        for task, own in zip(tasks.tolist(), unstack(found), strict=True):
            self.since[task] = self.written[task]
            self._write(task, own.support)
            explored = int(self.written[task])
            self._write(task, own.query)
            self.until[task] = self.written[task] if adapted else explored

    def _write(self, task: int, episodes: Episodes) -> None:
        real = episodes.weight > 0
        size = int(real.sum())
        places = (self.written[task] + torch.arange(size, device=real.device)) % self.capacity
        for name in self.names:
            getattr(self, name)[task, places] = getattr(episodes, name)[real]
        self.written[task] += size

    def draw(
        self, tasks: Tensor, first: Tensor, end: Tensor, size: int, generator: Generator
    ) -> Episodes:
        """Some steps of `tasks` (T,), of those from `first` to before `end` (T,), by chance."""
        luck = torch.rand(len(tasks), size, generator=generator).to(first.device)
        step = first[:, None] + (luck * (end - first)[:, None]).long()
        rows = tasks[:, None], step % self.capacity
        found = {name: getattr(self, name)[rows][:, None] for name in self.names}
        return Episodes(**found, weight=torch.ones_like(found["reward"]), extras=())
