"""600 episodes with a Conv4 prototypical network, against embedding each episode alone.

5-way 1-shot with 15 queries, 28x28 images (random pixels), one thread. The rival is the usual
evaluation loop: draw an episode, embed its support set, embed its query set, measure
distances, count. easyfsl's `PrototypicalNetworks` is a row where it is installed. All get the
same episodes, and must find the same accuracies; drawing is not timed (see `sampling`). Blocks
of episodes are taken in turns; ratios are those of CPU time, which other work on the machine
disturbs least.
"""

import argparse
import importlib
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import write
from quickstudy import FewShot, PrototypicalNetwork, TaskDistribution, batches, evaluate
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import unstack
from quickstudy.datasets import Labelled
from quickstudy.nets.backbones import Conv4

BLOCK = 100


class Drawn(TaskDistribution):
    """A batch of tasks that were drawn before."""

    def __init__(self, batch: TaskBatch):
        self.batch = batch

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        return self.batch


def alone(learner: PrototypicalNetwork, batch: TaskBatch) -> Tensor:
    """The accuracy of each episode (T,)."""
    net = learner.embed.eval()
    found = []
    with torch.no_grad():
        for support, query in unstack(batch):
            means = support.y.T @ net(support.x) / support.y.sum(0)[:, None]
            guess = torch.cdist(net(query.x), means).argmin(1)
            found.append((guess == query.y.argmax(1)).double().mean())
    return torch.stack(found)


def easyfsl(learner: PrototypicalNetwork, batch: TaskBatch) -> Tensor:
    """The accuracy of each episode (T,), by easyfsl's prototypical network."""
    from easyfsl.methods import PrototypicalNetworks  # pyright: ignore[reportMissingImports]

    theirs = PrototypicalNetworks(learner.embed.eval())
    accuracies = []
    with torch.no_grad():
        for support, query in unstack(batch):
            theirs.process_support_set(support.x, support.y.argmax(1))
            guess = theirs(query.x).argmax(1)
            accuracies.append((guess == query.y.argmax(1)).double().mean())
    return torch.stack(accuracies)


def together(learner: PrototypicalNetwork, batch: TaskBatch) -> Tensor:
    report = evaluate(learner, Drawn(batch), n_tasks=BLOCK, meta_batch_size=BLOCK)
    return report.values["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    classes = 200
    x = torch.randint(0, 256, (classes * 20, 1, 28, 28), dtype=torch.uint8)
    y = torch.arange(classes).repeat_interleave(20)
    tasks = FewShot(Labelled(x, y, tuple(map(str, range(classes)))), 5, 1, 15)
    learner = PrototypicalNetwork(Conv4())

    ways = {"each episode alone": alone, "quickstudy.evaluate": together}
    try:
        importlib.import_module("easyfsl.methods")
        ways["easyfsl"] = easyfsl
    except ImportError as missing:
        print(f"easyfsl is left out: {missing}")
    busy, wall = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    apart = 0.0
    for batch in batches(tasks, BLOCK, steps=options.count // BLOCK):
        found: list[Tensor] = []
        for name, way in ways.items():
            begun, worked = time.perf_counter(), time.process_time()
            found.append(way(learner, batch))
            busy[name] += time.process_time() - worked
            wall[name] += time.perf_counter() - begun
        apart = max(apart, *((found[0] - other).abs().max().item() for other in found[1:]))
    rows = [
        {
            "way": name,
            "CPU s": round(busy[name], 2),
            "wall s": round(wall[name], 2),
            "episodes/s": round(options.count / busy[name], 1),
            "x alone": round(busy["each episode alone"] / busy[name], 2),
        }
        for name in ways
    ]
    title = f"{options.count} episodes, 5-way 1-shot 15-query, Conv4, one thread"
    more = {"largest difference of an accuracy": apart, "torch": torch.__version__}
    write("evaluate", title, rows, options.out, **more)


if __name__ == "__main__":
    main()
