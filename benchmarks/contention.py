"""The default way to train beside busy neighbours: against each fixed way, in the same run.

    python -m benchmarks.contention --out benchmarks/results/contention.json

Neighbours are processes that multiply matrices, one thread each. Blocks of training steps are
timed in turns: every way once in a round. The best fixed way is chosen in the first half of the
rounds and compared with the default in the second. `idle` is the default's speed without a
neighbour in the same run.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from benchmarks.common import write
from quickstudy.core.workers import cores
from quickstudy.execution.choosing import choose
from quickstudy.execution.options import ExecutionOption, configured

NEIGHBOUR = """
import torch
torch.set_num_threads(1)
a = torch.randn(600, 600)
while True:
    a @ a
"""


def prototypical() -> tuple[qs.Learner[Any], qs.TaskDistribution, int]:
    """A Conv4-32 on episodes of the glyphs, four a step."""
    data = qs.datasets.glyphs()
    learner = qs.PrototypicalNetwork(qs.nets.Conv4(channels=32, pool="stride"))
    return learner, qs.FewShot(data.train, 20, 1, 5, rotations="classes"), 4


def glyphs_protonet() -> tuple[qs.Learner[Any], qs.TaskDistribution, int]:
    """The recipe of this name: one large episode a step."""
    experiment = qs.runs.find("glyphs_protonet").recipe()
    return experiment.learner, experiment.train, experiment.meta_batch_size


def sinusoid() -> tuple[qs.Learner[Any], qs.TaskDistribution, int]:
    """MAML of a small net on 25 sinusoids."""
    net = qs.nets.MLP(1, 1, hidden=(40, 40))
    learner = qs.MAML(net, lr=0.01, steps=5, criterion=qs.squared_error)
    return learner, qs.Sinusoid(10, 10), 25


WORK: dict[str, Callable[[], tuple[qs.Learner[Any], qs.TaskDistribution, int]]] = {
    "prototypes, 4 tasks": prototypical,
    "prototypes, one large task": glyphs_protonet,
    "MAML, sinusoid": sinusoid,
}


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Run busy processes meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(number)]
    try:
        time.sleep(3 if number else 0)  # they import torch
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fixed_ways(tasks: int) -> list[ExecutionOption]:
    """Every combination of loop or vmap, threads over tasks, and cores of an operation."""
    available = cores()
    ways = [ExecutionOption(execution, None, False) for execution in ("loop", "vmap")]
    if tasks > 1:
        ways += [way._replace(threads=min(available, tasks)) for way in ways]
    return ways + [way._replace(intra_op=available) for way in ways if way.threads == 1]


def tasks_per_second(
    work: str, option: ExecutionOption | None, seconds: float
) -> tuple[float, float, str]:
    """Train for about `seconds` in one way, or in the way that is chosen at the start.

    Returns:
        Tasks by second of wall time, and by second of CPU time, and the way.
    """
    torch.manual_seed(0)
    learner, tasks, size = WORK[work]()
    if option is None:
        batch = tasks.sample(size, torch.Generator().manual_seed(0))
        option = choose(learner, batch, steps=20_000)
    configured(learner, option)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    done, begun, cpu = 0, 0.0, 0.0
    for step in qs.train(learner, tasks, optimizer, steps=10_000, meta_batch_size=size):
        if step.number == 2:  # the first two warm up
            begun, cpu = time.perf_counter(), time.process_time()
        elif step.number > 2:
            done += size
            if time.perf_counter() - begun > seconds and step.number > 4:
                break
    wall = time.perf_counter() - begun
    return done / wall, done / (time.process_time() - cpu), str(option)


def measure(work: str, busy: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row: the default against the best fixed way beside `busy` neighbours."""
    size = WORK[work]()[2]
    ways = fixed_ways(size)
    speeds: dict[str, list[float]] = {"default": []} | {str(way): [] for way in ways}
    by_cpu, chosen = [], []
    with neighbours(busy):
        for number in range(rounds):
            for way in (None, *ways) if number % 2 else (*ways, None):
                speed, cpu, name = tasks_per_second(work, way, seconds)
                speeds["default" if way is None else str(way)].append(speed)
                if way is None:
                    by_cpu.append(cpu)
                    chosen.append(name)
    half = rounds // 2
    fixed = {name: times for name, times in speeds.items() if name != "default"}
    best = max(fixed, key=lambda name: statistics.median(fixed[name][:half]))
    default, other = (statistics.median(speeds[n][half:]) for n in ("default", best))
    return {
        "work": work,
        "neighbours": busy,
        "default": statistics.mode(chosen),
        "tasks/s": round(default, 1),
        "tasks/CPU s": round(statistics.median(by_cpu), 1),
        "best fixed way": best,
        "default / best": round(default / other, 2),
        "all": {name: round(statistics.median(times), 1) for name, times in speeds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--work", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--neighbours", type=int, nargs="*", default=[0, 1, 2, 4])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for work in options.work:
        idle: float | None = None
        for busy in options.neighbours:
            row = measure(work, busy, options.rounds, options.seconds)
            idle = row["tasks/s"] if busy == 0 else idle
            row["of idle"] = round(row["tasks/s"] / idle, 2) if idle else None
            rows.append(row)
            print(row, file=sys.stderr)
    everything = {f"{row['work']}, {row['neighbours']}": row.pop("all") for row in rows}
    title = "training by default beside busy neighbours"
    write("contention", title, rows, options.out, all=everything)


if __name__ == "__main__":
    main()
