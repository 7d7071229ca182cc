"""Does learning slow down as more is known? A stream of new classes, from 10 to 10,000.

`LifelongClassifier.partial_fit` is called with 50 examples of 64 features, ten of each of five
new classes. "examples/s" is of the second half of the way to so many classes, what it takes to
make room for them included, by the time of the process, which other work on the machine
disturbs least; short ways are gone several times. "bytes per class" is what the state has for
classes, room for those to come included, divided by the classes; "other bytes" does not grow
with them. Life-long memory writes example after example, each to a table of 256 slots by
classes, so it is not flat by its nature, and followed to 1,000 classes only.

    python -m benchmarks.stream --out FILE.json
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import write
from quickstudy import Learner, LifelongClassifier
from quickstudy.core.tree import leaves
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.memory.life_long_memory import LifeLongMemory
from quickstudy.learners.metric.prototypical import PrototypicalNetwork

FEATURES, NEW, EACH = 64, 5, 10
CALLS = 60  # at least, of which a time is the mean
MARKS = (10, 100, 1000, 10_000)

KINDS: dict[str, tuple[Callable[[], Learner[Any]], int]] = {
    "nearest class mean": (lambda: PrototypicalNetwork(nn.Flatten()), 10_000),
    "streaming LDA": (lambda: StreamingLDA(nn.Flatten()), 10_000),
    "life-long memory": (lambda: LifeLongMemory(nn.Flatten()), 1000),
}


def measure(name: str, classes: int) -> dict[str, Any]:
    """A row."""
    calls = classes // NEW
    timed = calls - calls // 2
    total, model = 0.0, LifelongClassifier()
    repeats = -(-CALLS // timed) if calls < CALLS else 1
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        model = LifelongClassifier(KINDS[name][0]())
        for call in range(calls):
            y = np.repeat(np.arange(NEW) + call * NEW, EACH)
            X = rng.normal(size=(len(y), FEATURES))
            begun = time.process_time()
            model.partial_fit(X, y)
            if call >= calls // 2:
                total += time.process_time() - begun
    parts = leaves(model.state_)
    # no leaf has another axis that is as long as there are columns
    growing = sum(leaf.nbytes for leaf in parts if model._width in leaf.shape)
    return {
        "learner": name,
        "classes": classes,
        "examples/s": round(repeats * timed * NEW * EACH / total),
        "bytes per class": round(growing / classes),
        "other bytes": sum(leaf.nbytes for leaf in parts) - growing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--most", type=int, default=MARKS[-1])
    options = parser.parse_args()
    torch.set_num_threads(1)

    measure("nearest class mean", 100)  # whatever is done once
    rows = []
    for name, (_, most) in KINDS.items():
        mine = [measure(name, mark) for mark in MARKS if mark <= min(most, options.most)]
        first = mine[0]
        for row in mine:
            row["x examples/s"] = round(row["examples/s"] / first["examples/s"], 2)
            row["x bytes per class"] = round(
                row["bytes per class"] / first["bytes per class"], 2
            )
            print(row, flush=True)
        rows += mine
    flat = [row for row in rows if KINDS[row["learner"]][1] == MARKS[-1]]
    holds = all(row["x examples/s"] >= 0.5 and row["x bytes per class"] <= 2 for row in flat)
    claims = {"speed and bytes per class of moments are flat within 2x": holds}
    title = "learning 5 new classes, 10 examples of each, beside so many, one thread"
    write("stream", title, rows, options.out, claims=claims)
    print(f"{'holds' if holds else 'FAILS'}: {next(iter(claims))}")
    if not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
