"""One step of meta-training, against the usual loop and other libraries.

Each workload is the gradient of the mean query loss of a batch of tasks. The plain loop does
task by task what a textbook says: `functional_call` of the same `nn.Module`,
`torch.autograd.grad(..., create_graph=True)` and a subtraction; what the others are compared
with is its faster run, of one thread and of all. `weights written out` is the same loop made
for one net only, its layers spelled out as functions of a list of weights. Libraries that are
not installed are left out (`pip install quickstudy[bench]`). That gradients are equal is
checked in float64, where rounding moves no ReLU to its other side (compiled: in float32).

Ways are run in turns, each for at least 0.2 seconds at a time, as training runs a step again
and again; times are medians of the turns. What bounds a workload: the floating-point operations
of its matrix products and convolutions, at the rate of a large matrix product on all cores of
the same machine; next to it stand the number of operations that PyTorch is asked for and the
bytes that they read and write.
"""

import argparse
import copy
import importlib.metadata
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write
from quickstudy import MAML, Examples, Sinusoid, Task
from quickstudy.core.criteria import Criterion, squared_error
from quickstudy.core.tree import tree_map, unstack
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics

Step = Callable[[], list[Tensor]]  # does a step; the gradient
Net = MLP | Conv4


class Workload(NamedTuple):
    make: Callable[[], Net]
    tasks: Callable[[], Task]
    criterion: Criterion
    lr: float
    steps: int
    first_order: bool = False
    head_only: bool = False
    compiled: bool = False  # also compiled: convolutions take minutes to, and gain little


def images(tasks: int, ways: int, queries: int, shape: tuple[int, ...]) -> Task:
    """Random pictures: the time of a step does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(tasks, ways * each, *shape, generator=generator)
        y = torch.eye(ways).repeat(each, 1).expand(tasks, -1, -1).contiguous()
        return Examples(x, y, torch.ones(tasks, ways * each))

    return Task(examples(1), examples(queries))


def trajectories(tasks: int, steps: int) -> Task:
    """Observations (17), actions (6) and advantages, as of HalfCheetah."""
    generator = torch.Generator().manual_seed(0)

    def examples() -> Examples:
        x = torch.randn(tasks, steps, 17, generator=generator)
        y = torch.randn(tasks, steps, 7, generator=generator)
        return Examples(x, y, torch.ones(tasks, steps))

    return Task(examples(), examples())


def surrogate(mean: Tensor, examples: Examples) -> Tensor:
    """What REINFORCE descends: -log-probability times advantage, of a unit Gaussian policy."""
    actions, advantage = examples.y[:, :6], examples.y[:, 6]
    return (0.5 * (actions - mean).square().sum(-1) * advantage).mean()


def classes(logits: Tensor, examples: Examples) -> Tensor:
    return F.cross_entropy(logits, examples.y)


def sine() -> Task:
    return Sinusoid(10, 10).sample(32, torch.Generator().manual_seed(0))


def omniglot(ways: int) -> Callable[[], Net]:
    return lambda: use_batch_statistics(Conv4(ways))


def photographs() -> Net:
    return use_batch_statistics(Conv4(5, channels=32, inputs=3, size=84))


def policy() -> Net:
    return MLP(17, 6, hidden=(64, 64), activation=nn.Tanh)


GREY, COLOUR = (1, 28, 28), (3, 84, 84)
OMNIGLOT_5 = Workload(omniglot(5), lambda: images(32, 5, 1, GREY), classes, 0.4, 1)
OMNIGLOT_20 = Workload(omniglot(20), lambda: images(16, 20, 1, GREY), classes, 0.1, 5)
PHOTOGRAPHS = Workload(photographs, lambda: images(4, 5, 15, COLOUR), classes, 0.01, 5)
WORKLOADS = {
    "sinusoid, MLP 40-40, 32 tasks, 5 steps": Workload(
        lambda: MLP(1, 1, hidden=(40, 40)), sine, squared_error, 0.01, 5, compiled=True
    ),
    "Omniglot 5-way, Conv4-64, 32 tasks, 1 step": OMNIGLOT_5,
    "Omniglot 5-way, first order": OMNIGLOT_5._replace(first_order=True),
    "Omniglot 20-way, Conv4-64, 16 tasks, 5 steps": OMNIGLOT_20,
    "Omniglot 20-way, first order": OMNIGLOT_20._replace(first_order=True),
    "84x84, Conv4-32, 15 queries, 4 tasks, 5 steps": PHOTOGRAPHS,
    "84x84, first order": PHOTOGRAPHS._replace(first_order=True),
    "84x84, ANIL": PHOTOGRAPHS._replace(head_only=True),
    "policy, MLP 64-64, 40 tasks of 2000, 1 step": Workload(
        policy, lambda: trajectories(40, 2000), surrogate, 0.1, 1, compiled=True
    ),
}


def gradient(net: nn.Module) -> list[Tensor]:
    found = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad()  # sets to None, so what was found stays
    return found


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
        forward: Any = torch.compile(learner, fullgraph=True) if compiled else learner

        def step() -> list[Tensor]:
            forward(tasks).mean().backward()
            return gradient(net)

        return step

    return make


def by_higher(work: Workload, net: Net, tasks: Task) -> Step:
    import higher  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)
    optimizer = torch.optim.SGD(net.parameters(), work.lr)

    def step() -> list[Tensor]:
        count = len(tasks.query.x)
        for support, query in unstack(tasks):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(work.steps):
                    inner.step(work.criterion(fast(support.x), support))
                (work.criterion(fast(query.x), query) / count).backward()
        return gradient(net)

    return step


def by_torchopt(work: Workload, net: Net, tasks: Task) -> Step:
    import torchopt  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)
    inner = torchopt.MetaSGD(net, lr=work.lr)

    def step() -> list[Tensor]:
        before = torchopt.extract_state_dict(net, by="reference")
        fresh = torchopt.extract_state_dict(inner, by="reference")
        start = list(net.parameters())
        found: list[Tensor] = []
        count = len(tasks.query.x)
        for support, query in unstack(tasks):
            for _ in range(work.steps):
                inner.step(work.criterion(net(support.x), support))
            grads = torch.autograd.grad(work.criterion(net(query.x), query) / count, start)
            found = [a + b for a, b in zip(found, grads, strict=True)] if found else [*grads]
            torchopt.recover_state_dict(net, before)
            torchopt.recover_state_dict(inner, fresh)
        return found

    return step


def by_metalearn(work: Workload, net: Net, tasks: Task) -> Step:
    from metalearn.algorithms import MAML as Theirs  # pyright: ignore[reportMissingImports]
    from metalearn.inner_optimizers import InnerSGD  # pyright: ignore[reportMissingImports]
    from metalearn.loss import BaseLoss  # pyright: ignore[reportMissingImports]
    from metalearn.model_wrappers import MAML_Model  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)

    class Part(nn.Module):  # their modules are called with more than x
        def __init__(self, part: nn.Module):
            super().__init__()
            self.part = part

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return self.part(x)

    class Criterion(BaseLoss):
        def forward(self, out_dict: Any, targets: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            examples = Examples(targets, targets, torch.ones(len(targets)))
            loss = work.criterion(out_dict["logits"], examples)
            return loss, loss.detach()

    model = MAML_Model(Part(net.body), Part(net.head))
    theirs = Theirs(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.0),  # it steps; the start stays
        inner_optimizer=InnerSGD(model.get_fast_weights(), inner_lr=work.lr, learn_lr=False),
        support_loss_fn=Criterion(),
        inner_steps=work.steps,
        device=torch.device("cpu"),
    )
    batch = (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)

    def step() -> list[Tensor]:
        theirs.step(iter([batch]))
        return gradient(net)

    return step


def _second_order_of_all(work: Workload) -> None:
    if work.first_order or work.head_only:
        raise ImportError("rivals are measured on the second order of all parameters")


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
    "quickstudy compiled": ours(compiled=True),
    "quickstudy compiled, one thread": ours(compiled=True),
    "higher": by_higher,
    "torchopt": by_torchopt,
    "parallel-metalearn": by_metalearn,
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


def peak_rate() -> float:
    """Floating-point operations per second of a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(times)


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


def measure(
    name: str, work: Workload, turns: int, cores: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every way, and what bounds them all."""
    torch.manual_seed(0)
    net, tasks = work.make(), tree_map(torch.Tensor.contiguous, work.tasks())
    steps: dict[str, Step] = {}
    apart: dict[str, float] = {}
    reference: Tensor | None = None
    for way, make in WAYS.items():
        torch.set_num_threads(1 if "one thread" in way else cores)
        dtype = torch.float32 if "compiled" in way else torch.float64
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about newer ones
                exact = tree_map(lambda leaf, dtype=dtype: leaf.to(dtype), tasks)
                step = make(work, copy.deepcopy(net).to(dtype), exact)
                found = torch.cat([grad.double().flatten() for grad in step()])
                step = make(work, copy.deepcopy(net), tasks)
                step()
        except ImportError as missing:
            print(f"{name}: {way} is left out: {missing}")
            continue
        except Exception as error:
            print(f"{name}: {way} fails: {type(error).__name__}: {error}")
            continue
        reference = found if reference is None else reference
        apart[way] = ((found - reference).norm() / reference.norm()).item()
        steps[way] = step
    spent: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(turns):
        for way, step in steps.items():
            torch.set_num_threads(1 if "one thread" in way else cores)
            step()  # the caches are its own then
            begun, times = time.perf_counter(), 0
            while times == 0 or time.perf_counter() - begun < 0.2:
                step()
                times += 1
            spent[way].append((time.perf_counter() - begun) / times)
    torch.set_num_threads(cores)
    median = {way: statistics.median(times) for way, times in spent.items()}
    base = min(seconds for way, seconds in median.items() if way.startswith(PLAIN))
    limits = bounds(work, tasks, peak_rate())
    rows = [
        {
            "workload": name,
            "way": way,
            "ms": float(f"{1e3 * seconds:.3g}"),
            "x plain loop": float(f"{base / seconds:.3g}"),
            "x bound": float(f"{1e3 * seconds / limits['bound ms']:.3g}"),
            "gradient off by": f"{apart[way]:.0e}",
        }
        for way, seconds in median.items()
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
    options = parser.parse_args()
    # freed, this makes the C library keep what is freed after it, for all ways
    torch.empty(31 << 20, dtype=torch.uint8)
    rows: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []
    for name, work in WORKLOADS.items():
        if options.only in name:
            more, limit = measure(name, work, options.turns, torch.get_num_threads())
            rows += more
            limits.append(limit)
    known = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "higher", "torchopt", "parallel-metalearn")
        if name in known
    }
    load = round(os.getloadavg()[0], 1)
    title = f"the gradient of a meta-step, {torch.get_num_threads()} threads"
    write("meta_step", title, rows, options.out, limits=limits, versions=versions, load=load)
    if options.out is not None:
        plot(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
