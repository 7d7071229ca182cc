"""One step of meta-training, against the usual loop and other libraries.

Each workload is the gradient of the mean query loss of a batch of tasks. The plain loop does
task by task what a textbook says: `functional_call` of the same `nn.Module`,
`torch.autograd.grad(..., create_graph=True)` and a subtraction; what the others are compared
with is its faster run, of one thread and of all. `weights written out` is the same loop made
for one net only, its layers spelled out as functions of a list of weights. Libraries that are
not installed are left out, with a sentence (`pip install quickstudy[bench] jax[cpu]`). That
gradients are equal is checked in float64, where rounding moves no ReLU to its other side
(compiled: in float32). JAX has one core, as its thread pool cannot be changed in a process.

Ways are run in turns, each for at least 0.2 seconds at a time, as training runs a step again
and again; times are medians of the turns, by the clock and of the process. "first s" is the
first call, compiling included, with no cache on disk. What bounds a workload: the
floating-point operations of its matrix products and convolutions, at the rate of a large matrix
product on all cores; next to it stand the number of operations that PyTorch is asked for and
the bytes that they read and write. That rate, the peak, is measured once, before the workloads;
if its repeats differ by much, the benchmark stops (`--noisy` goes on).
"""

import argparse
import copy
import importlib.metadata
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import MATRIX, Times, in_turns, peaks, steady, write
from benchmarks.rivals import by_higher, by_jax, by_metalearn, by_torchopt
from benchmarks.workloads import WORKLOADS, Net, Step, Workload, gradient
from quickstudy import MAML, Task
from quickstudy.core.criteria import squared_error
from quickstudy.core.tree import tree_map, unstack
from quickstudy.execution.options import compile_learner
from quickstudy.nets.backbones import MLP


def plain(work: Workload, net: Net, tasks: Task) -> Step:
    def step() -> list[Tensor]:
        count = len(tasks.query.x)
        for support, query in unstack(tasks):
            params: dict[str, Tensor] = dict(net.named_parameters())
            fast = [n for n in params if n.startswith("head.") or not work.head_only]
            for _ in range(work.steps):
                loss = work.criterion(functional_call(net, params, (support.x,)), support)
                grads = torch.autograd.grad(
                    loss, [params[n] for n in fast], create_graph=not work.first_order
                )
                for n, grad in zip(fast, grads, strict=True):
                    params[n] = params[n] - work.lr * grad
            loss = work.criterion(functional_call(net, params, (query.x,)), query)
            (loss / count).backward()
        return gradient(net)

    return step


def written_out(work: Workload, net: Net, tasks: Task) -> Step:
    if not (isinstance(net, MLP) and work.criterion is squared_error):
        raise ImportError("it is written for the sinusoid's net")

    def predict(params: Sequence[Tensor], x: Tensor) -> Tensor:
        for layer in (0, 2):
            x = F.linear(x, params[layer], params[layer + 1]).relu()
        return F.linear(x, params[4], params[5])

    def step() -> list[Tensor]:
        losses = []
        for support, query in unstack(tasks):
            params = list(net.parameters())
            for _ in range(work.steps):
                loss = (predict(params, support.x) - support.y).square().mean()
                grads = torch.autograd.grad(loss, params, create_graph=True)
                params = [p - work.lr * grad for p, grad in zip(params, grads, strict=True)]
            losses.append((predict(params, query.x) - query.y).square().mean())
        torch.stack(losses).mean().backward()
        return gradient(net)

    return step


def ours(compiled: bool = False, **settings: Any) -> Callable[[Workload, Net, Task], Step]:
    def make(work: Workload, net: Net, tasks: Task) -> Step:
        if compiled and not work.compiled:
            raise ImportError("convolutions take minutes to compile, and gain little by it")
        learner = MAML(
            net,
            lr=work.lr,
            steps=work.steps,
            first_order=work.first_order,
            adapt_parameters=["head"] if work.head_only else None,
            criterion=work.criterion,
        )
        for name, value in settings.items():
            setattr(learner, name, value)
        forward: Any = compile_learner(learner) if compiled else learner

        def step() -> list[Tensor]:
            forward(tasks).mean().backward()
            return gradient(net)

        return step

    return make


def in_bfloat16(work: Workload, net: Net, tasks: Task) -> Step:
    """Its gradient is compared in float32, so what it is off by is the error of bfloat16."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.exists() else ""
    if "amx_bf16" not in flags and "avx512_bf16" not in flags:
        raise ImportError("the CPU has neither AMX nor AVX512-BF16")
    step = ours()(work, net, tasks)

    def in_autocast() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return step()

    return in_autocast


PLAIN = "plain loop"
WAYS: dict[str, Callable[[Workload, Net, Task], Step]] = {
    PLAIN: plain,
    f"{PLAIN}, one thread": plain,
    "weights written out, one thread": written_out,
    "quickstudy loop": ours(execution="loop"),
    "quickstudy loop, a task per thread": ours(
        execution="loop", threads=torch.get_num_threads()
    ),
    "quickstudy vmap": ours(),
    "quickstudy vmap, one thread": ours(),
    "quickstudy vmap, bfloat16, one thread": in_bfloat16,
    "quickstudy compiled": ours(compiled=True),
    "quickstudy compiled, one thread": ours(compiled=True),
    "higher": by_higher,
    "torchopt": by_torchopt,
    "parallel-metalearn": by_metalearn,
    "JAX, vmap and jit, one thread": by_jax,
}


class Traffic(TorchDispatchMode):
    """Counts operations and the bytes of their arguments and results."""

    operations = bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            flat = tree_leaves((args, result))
            self.bytes += sum(t.nbytes for t in flat if isinstance(t, Tensor))
        return result


def bounds(work: Workload, tasks: Task, rate: float) -> dict[str, Any]:
    step = plain(work, work.make(), tasks)
    step()
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:
        step()
    total = flops.get_total_flops()
    return {
        "GFLOP": round(total / 1e9, 2),
        "bound ms": round(1e3 * total / rate, 2),
        "operations of the plain loop": traffic.operations,
        "its GB": round(traffic.bytes / 1e9, 2),
    }


def on(threads: int, step: Step) -> Step:
    def work() -> list[Tensor]:
        torch.set_num_threads(threads)
        return step()

    return work


def prepared(
    name: str, work: Workload, cores: int
) -> tuple[dict[str, Step], dict[str, float], dict[str, float]]:
    """The steps of all ways that there are, how far off their gradients are, and the seconds of
    their first calls."""
    torch.manual_seed(0)
    net, tasks = work.make(), tree_map(torch.Tensor.contiguous, work.tasks())
    steps: dict[str, Step] = {}
    apart: dict[str, float] = {}
    first: dict[str, float] = {}
    reference: Tensor | None = None
    for way, make in WAYS.items():
        threads = 1 if "one thread" in way else cores
        dtype = torch.float32 if "compiled" in way or "bfloat16" in way else torch.float64
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about newer ones
                exact = tree_map(lambda leaf, dtype=dtype: leaf.to(dtype), tasks)
                step = on(threads, make(work, copy.deepcopy(net).to(dtype), exact))
                begun = time.perf_counter()
                found = torch.cat([grad.double().flatten() for grad in step()])
                seconds = time.perf_counter() - begun
                if dtype == torch.float64:
                    step = on(threads, make(work, copy.deepcopy(net), tasks))
                    begun = time.perf_counter()
                    step()
                    seconds = time.perf_counter() - begun
        except ImportError as missing:
            print(f"{name}: {way} is left out: {missing}", flush=True)
            continue
        except Exception as error:
            print(f"{name}: {way} fails: {type(error).__name__}: {error}", flush=True)
            continue
        reference = found if reference is None else reference
        apart[way] = ((found - reference).norm() / reference.norm()).item()
        steps[way], first[way] = step, seconds
    return steps, apart, first


def measure(
    name: str, work: Workload, turns: int, cores: int, rate: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every way, and what bounds them all; `rate` is the peak, in GFLOP/s."""
    steps, apart, first = prepared(name, work, cores)
    times: dict[str, Times] = in_turns(steps, turns)
    torch.set_num_threads(cores)
    base = min(spent.wall for way, spent in times.items() if way.startswith(PLAIN))
    limits = bounds(work, work.tasks(), 1e9 * rate)
    rows = [
        {
            "workload": name,
            "way": way,
            "ms": float(f"{1e3 * spent.wall:.3g}"),
            "CPU ms": float(f"{1e3 * spent.cpu:.3g}"),
            "x plain loop": float(f"{base / spent.wall:.3g}"),
            "x bound": float(f"{1e3 * spent.wall / limits['bound ms']:.3g}"),
            "first s": float(f"{first[way]:.2g}"),
            "gradient off by": f"{apart[way]:.0e}",
        }
        for way, spent in times.items()
    ]
    return rows, {"workload": name} | limits


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(row["workload"] for row in rows))
    figure = Figure(figsize=(8, 1.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        some = [row for row in rows if row["workload"] == name]
        colours = ["C0" if "quickstudy" in row["way"] else "0.6" for row in some]
        bars = ax.barh([row["way"] for row in some], [row["ms"] for row in some], color=colours)
        ax.bar_label(bars, [f"{row['x plain loop']:g}x" for row in some], fontsize=5, padding=2)
        ax.set_title(name, fontsize=7, loc="left")
        ax.tick_params(labelsize=5)
        ax.set_xscale("log")
        ax.invert_yaxis()
    axes[-1].set_xlabel("milliseconds per step", fontsize=6)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--noisy", action="store_true", help="go on if the peak is not steady")
    options = parser.parse_args()
    # JAX reads it once, when its devices are made
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    # freed, this makes the C library keep what is freed after it, for all ways
    torch.empty(31 << 20, dtype=torch.uint8)
    found = peaks()
    steadiness = steady(found, options.noisy)
    print(steadiness)
    rows: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []
    cores = torch.get_num_threads()
    for name, work in WORKLOADS.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
                more, limit = measure(name, work, options.turns, cores, found[MATRIX].gflops)
            rows += more
            limits.append(limit)
    known = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "higher", "torchopt", "parallel-metalearn", "jax")
        if name in known
    }
    rates = [
        {
            "peak": shape,
            "GFLOP/s": rate.gflops,
            "spread": rate.spread,
            "share of cores": rate.share,
        }
        for shape, rate in found.items()
    ]
    write(
        "meta_step",
        f"the gradient of a meta-step, {cores} threads",
        rows,
        options.out,
        limits=limits,
        peaks=rates,
        steadiness=steadiness,
        versions=versions,
    )
    if options.out is not None:
        plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
