"""One step of second-order MAML, against the usual loop and other libraries.

Sinusoid regression as in the paper (MLP 40-40, 10 support and 10 query examples, 5 inner
steps), 32 tasks, the gradient of the mean query loss, one thread. The plain loop does task by
task what a textbook says, with nothing around it: the net written out as linear functions of a
list of weights, `torch.autograd.grad(..., create_graph=True)` and a subtraction.
Libraries that are not installed are left out (`pip install quickstudy[bench]`). Times are
medians of runs taken in turns; ratios are those of CPU time, which other work on the machine
disturbs least.
"""

import argparse
import copy
import importlib.metadata
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write
from quickstudy import MAML, Sinusoid, Task, squared_error
from quickstudy.execution import How
from quickstudy.functional import unstack
from quickstudy.nets import MLP

TASKS, STEPS, LR = 32, 5, 0.01
Step = Callable[[], list[Tensor]]  # does a step; the gradient


def error(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y).square().mean()


def gradient(net: nn.Module) -> list[Tensor]:
    found = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad()  # sets to None, so what was found stays
    return found


def plain(net: MLP, tasks: Task) -> Step:
    def predict(params: Sequence[Tensor], x: Tensor) -> Tensor:
        for layer in (0, 2):
            x = F.linear(x, params[layer], params[layer + 1]).relu()
        return F.linear(x, params[4], params[5])

    def step() -> list[Tensor]:
        losses = []
        for support, query in unstack(tasks):
            params = list(net.parameters())
            for _ in range(STEPS):
                loss = error(predict(params, support.x), support.y)
                slopes = torch.autograd.grad(loss, params, create_graph=True)
                params = [p - LR * slope for p, slope in zip(params, slopes, strict=True)]
            losses.append(error(predict(params, query.x), query.y))
        torch.stack(losses).mean().backward()
        return gradient(net)

    return step


def ours(net: MLP, tasks: Task, how: How = "vmap", compiled: bool = False) -> Step:
    learner = MAML(net, lr=LR, steps=STEPS, criterion=squared_error)
    learner.how = how
    forward = torch.compile(learner, fullgraph=True) if compiled else learner

    def step() -> list[Tensor]:
        forward(tasks).mean().backward()  # pyright: ignore[reportAttributeAccessIssue]
        return gradient(net)

    return step


def by_higher(net: MLP, tasks: Task) -> Step:
    import higher  # pyright: ignore[reportMissingImports]

    optimizer = torch.optim.SGD(net.parameters(), LR)

    def step() -> list[Tensor]:
        for support, query in unstack(tasks):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(STEPS):
                    inner.step(error(fast(support.x), support.y))
                (error(fast(query.x), query.y) / TASKS).backward()
        return gradient(net)

    return step


def by_torchopt(net: MLP, tasks: Task) -> Step:
    import torchopt  # pyright: ignore[reportMissingImports]

    inner = torchopt.MetaSGD(net, lr=LR)

    def step() -> list[Tensor]:
        before = torchopt.extract_state_dict(net, by="reference")
        fresh = torchopt.extract_state_dict(inner, by="reference")
        start = list(net.parameters())
        losses = []
        for support, query in unstack(tasks):
            for _ in range(STEPS):
                inner.step(error(net(support.x), support.y))
            losses.append(error(net(query.x), query.y))
            torchopt.recover_state_dict(net, before)
            torchopt.recover_state_dict(inner, fresh)
        return list(torch.autograd.grad(torch.stack(losses).mean(), start))

    return step


def by_metalearn(net: MLP, tasks: Task) -> Step:
    from metalearn.algorithms import MAML as Theirs  # pyright: ignore[reportMissingImports]
    from metalearn.inner_optimizers import InnerSGD  # pyright: ignore[reportMissingImports]
    from metalearn.loss import BaseLoss  # pyright: ignore[reportMissingImports]
    from metalearn.model_wrappers import MAML_Model  # pyright: ignore[reportMissingImports]

    class Part(nn.Module):  # their modules are called with more than x
        def __init__(self, part: nn.Module):
            super().__init__()
            self.part = part

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return self.part(x)

    class Squared(BaseLoss):
        def forward(self, out_dict: Any, targets: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            loss = error(out_dict["logits"], targets)
            return loss, loss.detach()

    model = MAML_Model(Part(net.body), Part(net.head))
    theirs = Theirs(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.0),  # it steps; the start stays
        inner_optimizer=InnerSGD(model.get_fast_weights(), inner_lr=LR, learn_lr=False),
        support_loss_fn=Squared(),
        inner_steps=STEPS,
        device=torch.device("cpu"),
    )
    batch = (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)

    def step() -> list[Tensor]:
        theirs.step(iter([batch]))
        return gradient(net)

    return step


WAYS: dict[str, Callable[[MLP, Task], Step]] = {
    "plain loop": plain,
    "quickstudy loop": lambda net, tasks: ours(net, tasks, "loop"),
    "quickstudy vmap": ours,
    "quickstudy compiled": lambda net, tasks: ours(net, tasks, compiled=True),
    "higher": by_higher,
    "torchopt": by_torchopt,
    "parallel-metalearn": by_metalearn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = MLP(1, 1, hidden=(40, 40))
    tasks = Sinusoid(10, 10).sample(TASKS, torch.Generator().manual_seed(0))

    steps: dict[str, Step] = {}
    apart: dict[str, float] = {}
    reference = torch.cat([slope.flatten() for slope in plain(copy.deepcopy(net), tasks)()])
    for name, make in WAYS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about newer ones
                step = make(copy.deepcopy(net), tasks)
                found = torch.cat([slope.flatten() for slope in step()])
        except ImportError as missing:
            print(f"{name} is left out: {missing}")
            continue
        apart[name] = ((found - reference).norm() / reference.norm()).item()
        steps[name] = step
        for _ in range(3):
            step()

    busy: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            begun, worked = time.perf_counter(), time.process_time()
            step()
            busy[name].append(time.process_time() - worked)
            wall[name].append(time.perf_counter() - begun)
    plainly = statistics.median(busy["plain loop"])
    rows = [
        {
            "way": name,
            "CPU ms": round(1e3 * statistics.median(busy[name]), 2),
            "wall ms": round(1e3 * statistics.median(wall[name]), 2),
            "x plain": round(plainly / statistics.median(busy[name]), 1),
            "gradient off by": f"{apart[name]:.0e}",
        }
        for name in steps
    ]
    known = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    versions = {
        name: importlib.metadata.version(name)
        for name in ("torch", "higher", "torchopt", "parallel-metalearn")
        if name in known
    }
    title = f"second-order MAML, sinusoid, {TASKS} tasks, {STEPS} steps, one thread"
    load = round(os.getloadavg()[0], 1)
    write("meta_step", title, rows, options.out, versions=versions, load=load)


if __name__ == "__main__":
    main()
