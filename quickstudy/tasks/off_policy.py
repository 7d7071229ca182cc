"""Tasks whose examples are stored steps of a learner, recent and old."""

import torch
from torch import Generator, Tensor, nn

from quickstudy.core.task import Json, Task, TaskDistribution
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments.rollout import Episodes
from quickstudy.tasks.rollouts import Rollouts


class OffPolicyTasks(TaskDistribution):
    """Sample stored steps of a learner in a fixed set of tasks, and let it act there at
    intervals, for learning off policy (PEARL; Rakelly et al., 2019, arXiv:1903.08254, algorithm
    1).

    The support of a task is steps of its last exploration, before adaptation; the query is
    steps of all that are stored, with noise for the learner's loss. A batch is a function of
    the generator, the learner and the stored steps.

    The constructor adds the buffer to the learner as the module `learner.replay`. So
    checkpoints hold it, and a run resumes to the bit. Delete it from a learner that you give
    away.

    Args:
        rollouts: how a learner acts: E episodes of each task before adapting, E after. The K
            tasks to train in are sampled from its environment once.
        tasks: K.
        every: batches between two collections of steps. The first collection covers all K
            tasks.
        collect: tasks of each later collection.
        support: steps of a task to adapt to.
        query: steps of a task for the loss.
        capacity: C, the number of steps stored of each task, the last ones.
        adapted: whether the support includes steps of the episodes after adaptation that
            followed the exploration. Use it where exploration seldom finds a reward.
        seed: of the K tasks.

    Raises:
        ValueError: the rollouts are trials, or a collection exceeds the capacity.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot(horizon=5)
        >>> learner = qs.PEARL(robot, latent=2, hidden=(8,), encoder=(8,))
        >>> rollouts = Rollouts(robot, learner, episodes=1)
        >>> tasks = OffPolicyTasks(rollouts, tasks=3, support=4, query=6, capacity=20)
        >>> batch = tasks.sample(2, Generator().manual_seed(0))
        >>> batch.support.reward.shape, batch.query.reward.shape
        (torch.Size([2, 1, 4]), torch.Size([2, 1, 6]))
        >>> learner.replay.write_count.tolist()  # an episode before adapting and one after
        [10, 10, 10]
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
        rollouts.learner.add_module("replay", self.replay)

    def sample(self, n_tasks: int, generator: Generator) -> Task[Episodes]:
        """Sample steps of `n_tasks` of the tasks, as one episode each: (T, 1, N, ...). The
        query's extras are uniform noise (T, 1, N, 2, A + extra_noise_size), as the learner's
        `act` takes it: for each step, and for the one after it."""
        replay, n_stored = self.replay, len(self.replay.write_count)
        n_batches = int(replay.batches)
        if n_batches % self.every == 0:
            subset = torch.randperm(n_stored, generator=generator)[: self.collect]
            collected = subset if n_batches else torch.arange(n_stored)
            tasks = tree_map(lambda leaf: leaf[collected], self.tasks)
            replay.store(collected, self.rollouts.act_in(tasks, generator), self.adapted)
        replay.batches += 1

        device = replay.write_count.device
        chosen = torch.randint(n_stored, (n_tasks,), generator=generator).to(device)
        end = replay.write_count[chosen]
        oldest = (end - replay.capacity).clamp_min(0)
        support = replay.sample(
            chosen,
            replay.explore_start[chosen],
            replay.explore_end[chosen],
            self.support,
            generator,
        )
        query = replay.sample(chosen, oldest, end, self.query, generator)
        width = self.rollouts.environment.action_size + self.rollouts.learner.extra_noise_size
        noise = torch.rand(n_tasks, 1, self.query, 2, width, generator=generator)
        return Task(support, query._replace(extras=noise.to(device)))

    def card(self) -> dict[str, Json]:
        """Describe the rollouts, and how steps are stored and sampled."""
        return self.rollouts.card() | {
            "training tasks": len(self.replay.write_count),
            "capacity": self.replay.capacity,
            "support": self.support,
            "query": self.query,
            "every": self.every,
        }


class ReplayBuffer(nn.Module):
    """Ring buffers of the last C steps in each of K tasks, (K, C, ...).

    Steps are numbered from 0 for each task. `write_count` (K,) is the number of steps written;
    steps `explore_start` (K,) to before `explore_end` (K,) are the last exploration.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot(horizon=5)
        >>> learner = qs.PEARL(robot, latent=2, hidden=(8,), encoder=(8,))
        >>> buffer = ReplayBuffer(Rollouts(robot, learner, episodes=1), tasks=3, capacity=20)
        >>> buffer.observation.shape, buffer.write_count.tolist()
        (torch.Size([3, 20, 2]), [0, 0, 0])
    """

    write_count: Tensor
    explore_start: Tensor
    explore_end: Tensor
    batches: Tensor  # ()  the number of batches sampled so far

    def __init__(self, rollouts: Rollouts, tasks: int, capacity: int):
        super().__init__()
        self.capacity = capacity
        o, a = rollouts.environment.observation_size, rollouts.environment.action_size
        shapes = {"observation": (o,), "action": (a,), "next_observation": (o,)}
        self.names = (*shapes, "reward", "done")
        device = next(rollouts.learner.parameters()).device
        for name in self.names:
            self.register_buffer(
                name, torch.zeros((tasks, capacity, *shapes.get(name, ())), device=device)
            )
        for name in ("write_count", "explore_start", "explore_end"):
            self.register_buffer(name, torch.zeros(tasks, dtype=torch.long, device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long, device=device))

    def store(self, tasks: Tensor, episodes: Task[Episodes], adapted: bool) -> None:
        """Append the real steps of episodes (T, E, H, ...) of `tasks` (T,). The exploration is
        the support, and the query too if `adapted`."""
        for index, task in zip(tasks.tolist(), unstack(episodes), strict=True):
            self.explore_start[index] = self.write_count[index]
            self._append(index, task.support)
            explored = int(self.write_count[index])
            self._append(index, task.query)
            self.explore_end[index] = self.write_count[index] if adapted else explored

    def _append(self, task: int, episodes: Episodes) -> None:
        real = episodes.weight > 0
        size = int(real.sum())
        rows = (self.write_count[task] + torch.arange(size, device=real.device)) % self.capacity
        for name in self.names:
            getattr(self, name)[task, rows] = getattr(episodes, name)[real]
        self.write_count[task] += size

    def sample(
        self, tasks: Tensor, start: Tensor, end: Tensor, size: int, generator: Generator
    ) -> Episodes:
        """Sample `size` steps of each of `tasks` (T,), uniformly with replacement from steps
        `start` to before `end` (T,), as one episode (T, 1, size, ...)."""
        noise = torch.rand(len(tasks), size, generator=generator).to(start.device)
        step = start[:, None] + (noise * (end - start)[:, None]).long()
        rows = tasks[:, None], step % self.capacity
        columns = {name: getattr(self, name)[rows][:, None] for name in self.names}
        return Episodes(**columns, weight=torch.ones_like(columns["reward"]), extras=())
