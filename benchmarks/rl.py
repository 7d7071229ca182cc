"""One iteration of ProMP on 2-D navigation, on one CPU core, and where its time goes.

40 tasks, 20 episodes before adaptation and 20 after it, of 100 steps, a net of 64-64; then 5
steps of Adam on the batch. Two ways: all tasks at once, and one task after the other, whose
episodes are still acted in together. The parts are measured by themselves: acting with a policy
that only passes on its noise (the environment), what the net adds to that (inference), the
inner step, and the five outer ones (update). Times are CPU seconds, the median of some repeats.

    python -m benchmarks.rl --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator

import quickstudy as qs
from benchmarks.common import write
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments import Navigation2D, rollout

TASKS, EPISODES, EPOCHS = 40, 20, 5


def seconds(work: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return statistics.median(spent)


def passes_on(state: Any, memory: Any, percept: Any, noise: Any) -> Any:
    return memory, noise - 0.5, ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=TASKS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, generator = options.tasks, Generator().manual_seed(0)
    navigation = Navigation2D()
    learner = qs.promp(navigation, qs.nets.policy_net(navigation))
    optimizer = qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 1e-5), EPOCHS)
    rollouts = qs.tasks.Rollouts(navigation, learner, episodes=EPISODES)
    goals = navigation.tasks(size, generator)
    batch = rollouts.act_in(goals, generator)
    begun, _ = tree_map(lambda leaf: leaf.detach().expand(size, *leaf.shape), learner.begin())

    def update() -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            (loss := learner(batch).mean()).backward()
            return loss

        optimizer.step(closure)

    def together() -> None:
        learner.execution = "vmap"
        rollouts.act_in(goals, generator)
        update()

    def one_by_one() -> None:
        learner.execution = "loop"
        for goal in unstack(goals):
            rollouts.act_in(goal[None], generator)
        update()

    def acted(policy: Any, state: Any = ()) -> Callable[[], object]:
        return lambda: rollout(
            navigation, goals, policy, generator, episodes=EPISODES, state=state
        )

    @torch.no_grad()
    def inner() -> None:
        qs.execution.over_tasks(learner.adapt)(batch.support)

    found = {
        "all tasks at once": seconds(together, options.repeats),
        "one task after the other": seconds(one_by_one, max(1, options.repeats // 2)),
    }
    learner.execution = "vmap"
    environment = 2 * seconds(acted(passes_on), options.repeats)
    acting = 2 * seconds(acted(learner.act, begun), options.repeats)
    parts = {
        "environment": environment,
        "inference": acting - environment,
        "inner step": seconds(inner, options.repeats),
        f"update, {EPOCHS} steps": seconds(update, options.repeats),
    }
    fastest, whole = found["all tasks at once"], sum(parts.values())
    rows = [
        {
            "what": f"an iteration of {size} tasks, {way}",
            "ms": round(1000 * spent),
            "relative": f"{spent / fastest:.1f} x",
        }
        for way, spent in found.items()
    ]
    rows += [
        {"what": part, "ms": round(1000 * spent), "relative": f"{spent / whole:.0%}"}
        for part, spent in parts.items()
    ]
    write("rl", "ProMP on 2-D navigation, one core", rows, options.out)


if __name__ == "__main__":
    main()
