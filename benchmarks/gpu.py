"""What training and evaluation cost on a GPU, in five parts.

    python -m benchmarks.gpu meta_step --out FILE.json
    python -m benchmarks.gpu plan --device cpu --smoke     # tiny sizes: does it run?

`benchmarks/gpu.sh` runs all parts in nine minutes.

- `meta_step`: the gradient of a batch of tasks, on the workloads of `benchmarks.meta_step`,
  against the plain loop and other libraries. Gradients are compared in float64, and in float32
  where a way is compiled or in bfloat16.
- `evaluate`: adaptation and predictions, against one episode after the other.
- `sampling`: few-shot episodes made on the GPU, and made on the CPU and copied.
- `environments`: steps of thousands of tasks at once, on the CPU and on the GPU.
- `plan`: what `quickstudy.plan` measures and chooses.

Times are of the clock, from one synchronisation of the GPU to the next: medians of turns that
the ways take. GB is the peak of PyTorch's allocator in one call. Convolutions are in TF32 where
the GPU has it, as is PyTorch's default. What fails is left out and named at the end; a run that
is stopped by SIGTERM stores what it has.
"""

import argparse
import copy
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import quickstudy as qs
from benchmarks.common import write
from benchmarks.evaluate import Drawn, alone
from benchmarks.meta_step import ours, plain
from benchmarks.on_device import Row, Setting, digits, table
from benchmarks.rivals import by_higher, by_torchopt
from benchmarks.workloads import WORKLOADS, Workload
from quickstudy import Task
from quickstudy.core.tree import tree_map
from quickstudy.environments import (
    BernoulliBandit,
    Environment,
    Navigation2D,
    TabularMDP,
    categorical,
    rollout,
)

Cases = dict[str, Callable[[], list[Row]]]  # each measures, when it is called
SMOKE_WORKLOADS = 2  # the first ones: an MLP and a Conv4


# A meta-step


def meta_step(setting: Setting) -> Cases:
    return {name: partial(gradients, name, work, setting) for name, work in workloads(setting)}


def workloads(setting: Setting) -> list[tuple[str, Workload]]:
    if not setting.smoke:
        return list(WORKLOADS.items())
    some = list(WORKLOADS.items())[:SMOKE_WORKLOADS]
    return [(name, work._replace(steps=1)) for name, work in some]


def batch(work: Workload, setting: Setting) -> Task:
    count = 2 if setting.smoke else None
    return tree_map(lambda leaf: leaf[:count].contiguous().to(setting.device), work.tasks())


def gradients(name: str, work: Workload, setting: Setting) -> list[Row]:
    torch.manual_seed(0)
    net, tasks = work.make().to(setting.device), batch(work, setting)
    ways: dict[str, Callable[[], list[Tensor]]] = {}
    apart, reference = dict[str, str](), None
    for way, make in META_STEP.items():
        if setting.smoke and "compiled" in way:
            continue
        single = "compiled" in way or "bfloat16" in way
        dtype = torch.float32 if single else torch.float64
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about newer ones
                exact = tree_map(lambda leaf, dtype=dtype: leaf.to(dtype), tasks)
                step = make(work, copy.deepcopy(net).to(dtype), exact)
                grad = torch.cat([part.double().flatten() for part in step()])
                ways[way] = make(work, copy.deepcopy(net), tasks)
        except Exception as error:
            setting.fails(f"{name}: {way}", error)
            continue
        reference = grad if reference is None else reference
        apart[way] = f"{((grad - reference).norm() / reference.norm()).item():.0e}"
    rows = table(name, ways, len(tasks.query.x), "tasks", setting)
    return [row | {"gradient off by": apart[row["way"]]} for row in rows]


def in_bfloat16(work: Workload, net: Any, tasks: Task) -> Callable[[], list[Tensor]]:
    step = ours()(work, net, tasks)

    def autocast() -> list[Tensor]:
        with torch.autocast(tasks.query.x.device.type, torch.bfloat16):
            return step()

    return autocast


META_STEP: dict[str, Callable[[Workload, Any, Task], Callable[[], list[Tensor]]]] = {
    "plain loop": plain,
    "quickstudy loop": ours(execution="loop"),
    "quickstudy vmap": ours(),
    "quickstudy vmap, bfloat16": in_bfloat16,
    "quickstudy compiled": ours(compiled=True),
    "higher": by_higher,
    "torchopt": by_torchopt,
}


# An evaluation


def evaluate(setting: Setting) -> Cases:
    names = {
        "prototypes, Conv4-64, 5-way 1-shot": prototypes,
        "MAML, 3 steps, Conv4-64, 5-way 1-shot": maml,
    }
    return {name: partial(case, name, setting) for name, case in names.items()}


def episodes(classes: int) -> qs.FewShot:
    """Episodes of random pictures."""
    x = torch.randint(0, 256, (classes * 20, 1, 28, 28), dtype=torch.uint8)
    y = torch.arange(classes).repeat_interleave(20)
    return qs.FewShot(qs.datasets.Labelled(x, y, tuple(map(str, range(classes)))), 5, 1, 15)


def evaluated(learner: qs.Learner[Any], tasks: qs.TaskDistribution, count: int) -> object:
    return qs.evaluate(learner, tasks, n_tasks=count, meta_batch_size=min(count, 100))


def prototypes(name: str, setting: Setting) -> list[Row]:
    torch.manual_seed(0)
    count, tasks = setting.size(600, 4), episodes(setting.size(200, 8)).to(setting.device)
    drawn = tasks.sample(min(count, 100), Generator().manual_seed(0))
    learner = qs.PrototypicalNetwork(qs.nets.Conv4()).to(setting.device)

    def each_alone() -> None:
        for _ in range(0, count, 100):
            alone(learner, drawn)

    def embedded() -> None:
        head, *parts = qs.evaluation.embed_once(learner, tasks)
        evaluated(head, parts[0], count)

    ways = {
        "each episode alone": each_alone,
        "quickstudy.evaluate": partial(evaluated, learner, Drawn(drawn), count),
        "quickstudy.evaluate, which draws": partial(evaluated, learner, tasks, count),
        "embed_once, evaluate": embedded,
    }
    return table(name, ways, count, "episodes", setting)


def maml(name: str, setting: Setting) -> list[Row]:
    torch.manual_seed(0)
    count, tasks = setting.size(200, 4), episodes(setting.size(200, 8)).to(setting.device)
    drawn = Drawn(tasks.sample(min(count, 100), Generator().manual_seed(0)))
    net = qs.nets.use_batch_statistics(qs.nets.Conv4(5)).to(setting.device)
    loop, vmap = (qs.MAML(copy.deepcopy(net), lr=0.4, steps=3) for _ in range(2))
    loop.execution, vmap.execution = "loop", "vmap"
    ways = {
        "one episode after the other": partial(evaluated, loop, drawn, count),
        "all episodes at once": partial(evaluated, vmap, drawn, count),
    }
    return table(name, ways, count, "episodes", setting)


# Sampling


def sampling(setting: Setting) -> Cases:
    sizes = [setting.size(size, 2) for size in (32, 512)]
    return {
        f"{size} episodes at once": partial(sampled, f"{size} episodes at once", size, setting)
        for size in sizes
    }


def sampled(name: str, size: int, setting: Setting) -> list[Row]:
    here, there = (episodes(setting.size(964, 8)) for _ in range(2))
    there.to(setting.device)
    generator = Generator().manual_seed(0)

    def copied() -> object:
        tasks = here.sample(size, generator)
        return tree_map(lambda leaf: leaf.to(setting.device), tasks)

    ways = {
        "made on the CPU": partial(here.sample, size, generator),
        "made on the CPU and copied": copied,
        "made on the device": partial(there.sample, size, generator),
    }
    return table(name, ways, size, "episodes", setting)


# Environments


def environments(setting: Setting) -> Cases:
    navigation = Navigation2D()
    kinds: dict[str, tuple[Environment, Any, int]] = {
        "bandit of 5 arms": (BernoulliBandit(5), at_random, setting.size(100, 1)),
        "tabular MDP": (TabularMDP(), at_random, setting.size(10, 1)),
        "2-D navigation": (navigation, anywhere, 1),
        "2-D navigation, MLP policy": (navigation, None, 1),
    }
    sizes = [setting.size(size, 2) for size in (64, 4_096, 65_536)]
    return {
        f"{name}, {size:,} tasks": partial(
            steps_of, f"{name}, {size:,} tasks", *kind, size, setting
        )
        for name, kind in kinds.items()
        for size in (sizes if kind[1] else sizes[:2])  # weights of every task take memory
    }


def at_random(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
    return memory, categorical(torch.zeros_like(noise), noise), ()


def anywhere(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
    return memory, noise - 0.5, ()


def steps_of(
    name: str, environment: Environment, policy: Any, count: int, size: int, setting: Setting
) -> list[Row]:
    """The steps of `size` tasks, of `count` episodes each. No policy: that of ProMP."""

    def acting(device: torch.device) -> Callable[[], object]:
        tasks = environment.tasks(size, Generator().manual_seed(0))
        tasks = tree_map(lambda leaf: leaf.to(device), tasks)
        generator = Generator(device).manual_seed(0)
        act, state = policy, ()
        if policy is None:
            learner = qs.promp(environment, qs.nets.policy_net(environment)).to(device)
            state, _ = tree_map(
                lambda leaf: leaf.detach().expand(size, *leaf.shape), learner.initial_state()
            )
            act = learner.act
        return partial(rollout, environment, tasks, act, generator, episodes=count, state=state)

    ways = {
        "on the CPU": acting(torch.device("cpu")),
        "on the device": acting(setting.device),
    }
    return table(name, ways, size * count * environment.horizon, "steps", setting)


# The plan's choices


def plan(setting: Setting) -> Cases:
    return {name: partial(options, name, work, setting) for name, work in workloads(setting)}


def options(name: str, work: Workload, setting: Setting) -> list[Row]:
    torch.manual_seed(0)
    learner = qs.MAML(
        work.make(),
        lr=work.lr,
        steps=work.steps,
        first_order=work.first_order,
        adapt_parameters=["head"] if work.head_only else None,
        criterion=work.criterion,
    ).to(setting.device)
    found = qs.plan(
        learner,
        batch(work, setting),
        compiled=work.compiled and not setting.smoke,
        repeats=setting.turns,
    )
    return [
        {
            "case": name,
            "option": str(option),
            "ms": "" if option.seconds is None else digits(1e3 * option.seconds),
            "chosen": option._replace(seconds=None, note="", memory=None) == found.chosen,
            "note": option.note,
        }
        for option in found.options
    ]


PARTS: dict[str, tuple[str, Callable[[Setting], Cases]]] = {
    "meta_step": ("the gradient of a meta-step", meta_step),
    "evaluate": ("evaluation of episodes", evaluate),
    "sampling": ("5-way 1-shot 15-query episodes of 28x28 images", sampling),
    "environments": ("steps of environments", environments),
    "plan": ("what `plan` measures and chooses", plan),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--seconds", type=float, default=120.0, help="no case begins after it")
    parser.add_argument("--out", type=Path, help="file for the results")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("There is no CUDA device: give --device cpu, and --smoke to be quick.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    about, cases = PARTS[arguments.part]
    setting = Setting(device, arguments.smoke, failures=[])
    end = time.monotonic() + arguments.seconds
    rows: list[Row] = []
    try:
        for name, case in cases(setting).items():
            if time.monotonic() > end:
                print(f"{name} is left out: {arguments.seconds:g} seconds are over.")
                continue
            print(name, flush=True)
            try:
                rows += case()
            except Exception as error:
                setting.fails(name, error)
    finally:
        if rows:
            title = f"{where}: {about}" + ", smoke sizes" * setting.smoke
            facts = setting._asdict() | {"device": str(device)}
            write(f"gpu_{arguments.part}", title, rows, arguments.out, **facts)
    sys.exit(int(bool(setting.failures)))


if __name__ == "__main__":
    main()
