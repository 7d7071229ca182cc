"""Peak memory and time of one meta-gradient against the number of inner steps.

MAML with second order on Conv4-64 with max-pooling, 28x28 pixels, 5-way 5-shot with 5 queries
of each class, one task, one thread. A row is a way to keep, or not to keep, what the inner
steps compute. "full" to "mixed" are exact: their gradients are compared with the full one's.
"truncated" differentiates the last step only. "implicit" is iMAML with 5 steps of conjugate
gradients, which is another meta-gradient: that of regularised descent come to its end.

Memory is the most bytes that tensors take at any moment, beyond net and task: on a CPU every
allocation is counted, by PyTorch's profiler; on CUDA it is `torch.cuda.max_memory_allocated`.
Times are of the process on a CPU, which other work on the machine disturbs least, and by the
clock on CUDA; the least of the repeats.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from benchmarks.common import write
from quickstudy import MAML, Examples, Learner, Task
from quickstudy.core.tree import tree_map
from quickstudy.execution.ram import peak
from quickstudy.learners.gradient.imaml import IMAML
from quickstudy.nets.backbones import Conv4, use_batch_statistics

WAYS = 5
SHOTS = 5
LR = 0.01
STEPS = (1, 2, 4, 9, 16, 36, 100)


def maml(**settings: Any) -> Callable[[int], Learner[Any]]:
    return lambda steps: MAML(_net(), lr=LR, steps=steps, **settings)


KINDS: dict[str, Callable[[int], Learner[Any]]] = {
    "full": maml(),
    "sqrt": maml(checkpoint="sqrt"),
    "steps": maml(checkpoint="steps"),
    "mixed": maml(checkpoint="mixed"),
    "truncated": maml(truncate=1),
    "first order": maml(first_order=True),
    "implicit": lambda steps: IMAML(_net(), lr=LR, steps=steps),
}
EXACT = ("sqrt", "steps", "mixed")


def _net() -> Conv4:
    torch.manual_seed(0)
    return use_batch_statistics(Conv4(WAYS))


def _task(device: str) -> Task[Examples]:
    """A batch of one."""
    generator = torch.Generator().manual_seed(0)
    y = torch.eye(WAYS).repeat_interleave(SHOTS, 0)[None]
    xs = torch.rand(2, 1, len(y[0]), 1, 28, 28, generator=generator)
    task = Task(*(Examples(x, y, torch.ones(y.shape[:2])) for x in xs))
    return tree_map(lambda leaf: leaf.to(device), task)


def measure(name: str, steps: int, execution: Any, device: str, repeats: int) -> dict[str, Any]:
    """A row, with the gradient under "gradient"."""
    learner = KINDS[name](steps).to(device)
    learner.execution = execution
    task = _task(device)

    def work() -> Tensor:
        grads = torch.autograd.grad(learner(task).sum(), list(learner.parameters()))
        return torch.cat([grad.flatten() for grad in grads])

    gradient = work()
    seconds = []
    for _ in range(repeats):
        begun = _now(device)
        work()
        seconds.append(_now(device) - begun)
    row = {"way": name, "how": execution, "inner steps": steps, "bytes": peak(work, device)}
    return row | {"milliseconds": round(1e3 * min(seconds), 1), "gradient": gradient}


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def claims(rows: list[dict[str, Any]], parameters: int) -> dict[str, bool]:
    """What the checkpoints promise, of rows of one `execution`; `parameters` in bytes."""
    found = {(row["way"], row["inner steps"]): row["bytes"] for row in rows}
    most = max(steps for _, steps in found)
    start = found["full", 1]
    step = (found["full", most] - start) / (most - 1)
    root = start + (step + 2 * parameters) * math.sqrt(most)
    return {
        "sqrt grows at most with the square root of the steps": found["sqrt", most] <= root,
        **{
            f"{way} grows at most by the parameters of a step": (
                found[way, most] - found[way, 4] <= parameters * (most - 4)
            )
            for way in ("steps", "mixed")
        },
    }


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Memory and time against inner steps, a curve for each way."""
    plt.rcParams["svg.hashsalt"] = "memory"  # the same file from the same numbers
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == name]
        steps = [row["inner steps"] for row in mine]
        axes[0].plot(steps, [row["bytes"] / 2**20 for row in mine], ".-", label=name)
        axes[1].plot(steps, [row["milliseconds"] / 1e3 for row in mine], ".-", label=name)
    for axis, label in zip(axes, ("peak memory, MiB", "seconds"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="inner steps", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--execution", choices=("loop", "vmap"), default="loop")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)

    parameters = sum(p.nbytes for p in _net().parameters())
    rows: list[dict[str, Any]] = []
    for steps in options.steps:
        gradients: dict[str, Tensor] = {}
        for name in KINDS:
            row = measure(name, steps, options.execution, options.device, options.repeats)
            gradients[name] = row.pop("gradient")
            reference = gradients["full"]
            apart = (gradients[name] - reference).norm() / reference.norm()
            row["gradient off by"] = f"{apart.item():.0e}" if name in EXACT else ""
            rows.append(row)
            print(row, flush=True)
    found = claims(rows, parameters)
    title = (
        f"a meta-gradient of Conv4-64, 5-way 5-shot, one task, {options.execution}, one thread"
    )
    more = {"claims": found, "parameters": parameters, "device": options.device}
    write("memory", title, rows, options.out, **more)
    if options.plot is not None:
        plot(rows, options.plot)
    for claim, holds in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    if not all(found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
