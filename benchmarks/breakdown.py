"""What bounds the workloads whose gain is smallest: products, bytes or launches.

The policy's meta-step (`meta_step`), a Neural Turing Machine there and back (`recurrent`), one
step of 4,096 tabular processes (`environments`), and one of ProMP's five updates (`rl`), none
of them compiled, on one thread. Three numbers stand next to the CPU time of each: what the
floating-point operations of its matrix products take at the rate of a large one; what as many
additions take as PyTorch is asked for operations, of one number each (launches); and what they
take of tensors of the mean size (launches and bytes). The operations that take most time are
those of PyTorch's profiler, as shares of the time in all operations. All times are CPU time.

    python -m benchmarks.breakdown --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from torch.func import vmap
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import quickstudy as qs
from benchmarks.common import MATRIX, peaks, steady, write
from benchmarks.meta_step import Traffic
from benchmarks.workloads import WORKLOADS
from quickstudy.environments import Navigation2D, TabularMDP
from quickstudy.nets.cells import NTM

Work = Callable[[], Any]


def policy() -> Work:
    workload = next(work for name, work in WORKLOADS.items() if name.startswith("policy"))
    learner = qs.MAML(
        workload.make(), lr=workload.lr, steps=workload.steps, criterion=workload.criterion
    )
    tasks = workload.tasks()
    return lambda: learner(tasks).mean().backward()


def turing_machine() -> Work:
    machine, x = NTM(9, 100, hidden=100), torch.rand(50, 16, 9)
    return lambda: machine(x)[0].sum().backward()


def processes() -> Work:
    environment, generator, size = TabularMDP(), Generator().manual_seed(0), 4096
    tasks = environment.tasks(size, generator)
    noise = torch.rand(size, environment.noise_size, generator=generator)
    actions = torch.randint(environment.action_size, (size,), generator=generator)
    actions = torch.nn.functional.one_hot(actions, environment.action_size).float()
    state, _ = vmap(environment.reset)(tasks, noise)
    return lambda: vmap(environment.step)(tasks, state, actions, noise)


def promp() -> Work:
    navigation, generator = Navigation2D(), Generator().manual_seed(0)
    learner = qs.promp(navigation, qs.nets.policy_net(navigation))
    rollouts = qs.tasks.Rollouts(navigation, learner, episodes=20)
    batch = rollouts.act_in(navigation.tasks(40, generator), generator)
    return lambda: learner(batch).mean().backward()


WORKS: dict[str, Callable[[], Work]] = {
    "policy, MLP 64-64, 40 tasks of 2000, 1 step": policy,
    "NTM, 16 sequences of 50 steps": turing_machine,
    "a step of 4,096 tabular MDPs": processes,
    "ProMP, one of its updates, 40 tasks": promp,
}


def seconds(work: Work, repeats: int) -> float:
    """The median of CPU times."""
    work()
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return statistics.median(spent)


def addition(numbers: int) -> float:
    """Seconds of an addition of two tensors of so many numbers."""
    a, b = torch.rand(2, numbers).unbind()
    calls = max(1, 10**6 // max(numbers, 1000))
    return seconds(lambda: [a + b for _ in range(calls)], 15) / calls


def measure(name: str, work: Work, rate: float, repeats: int) -> dict[str, Any]:
    """A row; `rate` is the peak, in GFLOP per second of CPU time."""
    spent = seconds(work, repeats)
    with FlopCounterMode(display=False) as flops:
        work()
    with Traffic() as traffic:
        work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = sorted(
        (event for event in profiler.key_averages() if event.key.startswith("aten::")),
        key=lambda event: -event.self_cpu_time_total,
    )
    whole = sum(event.self_cpu_time_total for event in events)
    largest = ", ".join(
        f"{event.key.removeprefix('aten::')} {event.self_cpu_time_total / whole:.0%}"
        for event in events[:5]
    )
    size = traffic.bytes / traffic.operations
    return {
        "workload": name,
        "CPU ms": round(1e3 * spent, 2),
        "products at the peak, ms": round(flops.get_total_flops() / rate / 1e6, 2),
        "operations": traffic.operations,
        "launches, ms": round(1e3 * traffic.operations * addition(1), 2),
        "mean kB": round(size / 1e3, 1),
        # an addition reads two tensors and writes one, of 4 bytes a number
        "as additions, ms": round(1e3 * traffic.operations * addition(round(size / 12)), 2),
        "largest operations": largest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--noisy", action="store_true", help="go on if the peak is not steady")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rates = peaks()
    steadiness = steady(rates, options.noisy)
    rate = rates[MATRIX].gflops / rates[MATRIX].share  # per second of CPU time
    rows = [
        measure(name, make(), rate, options.repeats)
        for name, make in WORKS.items()
        if options.only in name
    ]
    title = "what bounds the workloads whose gain is smallest, one thread"
    write("breakdown", title, rows, options.out, steadiness=steadiness)


if __name__ == "__main__":
    main()
