"""How time and memory grow with ways, shots, rows and classes.

Each row is one piece of work at two sizes, one ten times the other: the gradient of a learner's
loss on one task (64 features, a linear embedding of 64; by ways, with one shot and one query of
each class; by shots, of five ways with 75 queries), or a call of an estimator, a library or an
evaluation. "operations" are multiplications of matrix products, and numbers that other
operations write, as PyTorch calls them. "bytes" are the most that tensors take at a moment of
the work. "time" is of the process, the least of the repeats, one thread. The three columns are
powers of the size: 1 is ten times as much for ten times the size. "mathematics" is the power of
the formula's operations, counted by hand, and no count of operations may exceed it. Fixed parts
make a power lower.

    python -m benchmarks.scale --out FILE.json
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import quickstudy as qs
from benchmarks.common import write
from quickstudy.evaluation import embed_once
from quickstudy.execution.ram import peak
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.testing.learners import Blobs

WIDTH = 64
Work = Callable[[], Any]


class Operations(TorchDispatchMode):
    """Counts multiplications of matrix products, and numbers that other operations write."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flops = flop_registry.get(func.overloadpacket)
        if flops is not None:
            self.count += flops(*args, **(kwargs or {}), out_val=out) // 2
        elif func.overloadpacket in (torch.ops.aten.index_copy_, torch.ops.aten.index_put_):
            self.count += next(x for x in reversed(args) if isinstance(x, Tensor)).numel()
        elif not func.is_view:
            parts = out if isinstance(out, tuple | list) else (out,)
            self.count += sum(part.numel() for part in parts if isinstance(part, Tensor))
        return out


def operations(work: Work) -> int:
    """Return what `Operations` counts in this thread."""
    with Operations() as mode:
        work()
    return mode.count


class Case(NamedTuple):
    """A piece of work, and how it should grow."""

    name: str
    axis: str
    sizes: tuple[int, int]
    power: float  # of the size, in the operation count of the formula
    prepare: Callable[[int], Work]


# Learners: (constructor, powers by ways, by shots); one shot and query of each of C ways are
# C x C numbers of logits, distances or scores; a solve of C examples is C³.
NET = partial(nn.Linear, WIDTH, WIDTH)
LEARNERS: dict[str, tuple[Callable[[int], qs.Learner[Any]], float, float]] = {
    "prototypical": (lambda _: qs.PrototypicalNetwork(NET()), 2, 1),
    "prototypical, cosine": (lambda _: qs.cosine_prototypical(NET()), 2, 1),
    "matching": (lambda _: qs.MatchingNetwork(NET()), 2, 1),
    "Siamese, contrastive": (lambda _: qs.contrastive_siamese(NET()), 2, 2),
    "R2-D2": (lambda _: qs.R2D2(NET()), 3, 3),
    "life-long memory": (lambda _: qs.LifeLongMemory(NET()), 2, 1),
    "memory network": (lambda _: qs.few_shot_memory_network(NET(), WIDTH, hops=2), 2, 1),
    "streaming LDA": (lambda _: StreamingLDA(NET()), 2, 1),
    "MAML": (lambda ways: qs.MAML(nn.Linear(WIDTH, ways)), 2, 1),
    "ProtoMAML": (lambda _: qs.ProtoMAML(NET()), 2, 1),
}


def gradient(
    make: Callable[[int], qs.Learner[Any]], ways: int, shots: int, queries: int
) -> Work:
    torch.manual_seed(0)
    learner = make(ways)
    tasks = Blobs(ways=ways, shots=shots, queries=queries, shape=(WIDTH,))
    batch = tasks.sample(1, torch.Generator().manual_seed(0))

    def work() -> None:
        learner.zero_grad()
        learner(batch).sum().backward()

    return work


def rows(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples with labels, in random order."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(classes), each))
    return rng.normal(size=(len(y), WIDTH)), y


def fitting(classes: int, each: int) -> Work:
    X, y = rows(classes, each)
    return lambda: qs.FewShotClassifier().fit(X, y)


def predicting(classes: int, count: int) -> Work:
    model = qs.FewShotClassifier().fit(*rows(classes, 2))
    X = np.random.default_rng(1).normal(size=(count, WIDTH))
    return lambda: model.predict(X)


def learning_on(classes: int) -> Work:
    """Ten examples of old classes, beside so many."""
    X, y = rows(classes, 2)
    model = qs.LifelongClassifier().fit(X, y)
    return lambda: model.partial_fit(X[:10], y[:10])


def library(folder: Path, count: int) -> qs.MappingLibrary:
    """A library of so many mappings."""
    mappings = qs.MappingLibrary(folder, qs.PrototypicalNetwork(nn.Flatten()))
    X, y = torch.randn(3, 4), torch.eye(3)
    for number in range(count):
        mappings.add(f"task {number}", qs.Examples(X + number, y, torch.ones(3)))
    return mappings


def adding(count: int) -> Work:
    folder = Path(tempfile.mkdtemp())
    mappings = library(folder, count)
    support = qs.Examples(torch.randn(3, 4), torch.eye(3), torch.ones(3))
    return lambda: mappings.add("one more", support)


def opening(count: int) -> Work:
    folder = Path(tempfile.mkdtemp())
    learner = library(folder, count).learner
    return lambda: qs.MappingLibrary(folder, learner)


def embedding(count: int) -> Work:
    """Twenty episodes of a data set of so many images."""
    data = qs.datasets.Labelled(
        torch.randn(count, WIDTH), torch.arange(count) % 10, tuple("abcdefghij")
    )
    learner, tasks = qs.PrototypicalNetwork(NET()), qs.FewShot(data, 5, 1, 3)

    def work() -> None:
        qs.evaluate(*embed_once(learner, tasks), n_tasks=20, meta_batch_size=20)

    return work


def cases(scale: int) -> list[Case]:
    """All of them; `scale` multiplies sizes."""

    def ten(size: int) -> tuple[int, int]:
        return size * scale, size * scale * 10

    found = list[Case]()
    for name, (make, by_ways, by_shots) in LEARNERS.items():
        found += [
            Case(name, "ways", ten(5), by_ways, partial(gradient, make, shots=1, queries=1)),
            Case(name, "shots", ten(10), by_shots,
                 partial(lambda make, shots: gradient(make, 5, shots, 15), make)),
        ]  # fmt: skip
    return [
        *found,
        Case("FewShotClassifier.fit", "classes, 2 rows of each", ten(1000), 1,
             partial(fitting, each=2)),
        Case("FewShotClassifier.fit", "rows of 5 classes", ten(1000), 1,
             lambda count: fitting(5, count // 5)),
        Case("FewShotClassifier.predict, 100 rows", "classes", ten(1000), 1,
             partial(predicting, count=100)),
        Case("FewShotClassifier.predict, 100 classes", "rows", ten(1000), 1,
             partial(predicting, 100)),
        Case("LifelongClassifier.partial_fit, 10 rows", "classes", ten(1000), 0, learning_on),
        Case("MappingLibrary.add", "mappings", ten(20), 0, adding),
        Case("opening a MappingLibrary", "mappings", ten(20), 1, opening),
        Case("embed_once and 20 episodes", "images", ten(10_000), 1, embedding),
    ]  # fmt: skip


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """A row."""
    sizes = case.sizes
    counts, memory, seconds = list[float](), list[float](), list[float]()
    for size in sizes:
        work = case.prepare(size)
        work()
        counts.append(operations(work))
        memory.append(peak(work, "cpu"))
        times = list[float]()
        for _ in range(repeats):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
        seconds.append(min(times))
    return {
        "what": case.name,
        "grows": case.axis,
        "from": sizes[0],
        "to": sizes[1],
        "mathematics": case.power,
        "operations": power(counts, sizes),
        "bytes": power(memory, sizes),
        "time": power(seconds, sizes),
        "largest, MB": round(memory[1] / 1e6, 1),
        "largest, ms": round(1000 * seconds[1], 1),
    }


def power(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the power of the size with which values grow."""
    more = max(values[1], 1e-9) / max(values[0], 1e-9)
    return round(math.log(more) / math.log(sizes[1] / sizes[0]), 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--smoke", action="store_true", help="a quarter of all sizes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = list[dict[str, Any]]()
    for case in cases(1 if options.smoke else 4):
        if options.only in case.name:
            found.append(measure(case, options.repeats))
            print(found[-1], flush=True)
    load = round(os.getloadavg()[0], 1)
    faster = [row for row in found if row["operations"] > row["mathematics"] + 0.1]
    claims = {"no count of operations grows with a larger power than the formula": not faster}
    title = f"growth with ten times the size, one thread, load {load}"
    write("scale", title, found, options.out, claims=claims, load=load)
    if faster:
        raise SystemExit(f"{len(faster)} grow faster: {faster}")


if __name__ == "__main__":
    main()
