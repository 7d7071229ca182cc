"""How many examples does the next task of a stream need? A library of mappings, against one
network that goes on learning, and against starting afresh.

The base is MAML with an MLP of two hidden layers of 40, meta-trained on sine waves, lines and
parabolas in equal parts (the ranges of `Sinusoid`, `Line` and `Parabola`). Then 50 more such
functions come one after the other, 20 examples of each, and every one is learned by 20 inner
steps: with the library from its weighted start, and added to it; with one network from where
the last task left it. At some places of the stream, new functions are learned from 1 to 20
examples, by ten inner steps from each way's start; their squared error is measured on 100
points of an even grid on [-5, 5]. "Examples needed" is how many make the mean error as small as
10 do for the first task, when nothing is known but the base; between two numbers that were
tried, by a straight line. ± is the 95 % interval over seeds: of base, stream and new tasks.

    python -m benchmarks.mapping_library --out FILE.json --plot FILE.svg
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import quickstudy as qs
from benchmarks.common import write
from quickstudy.evaluate import evaluating
from quickstudy.functional import tree_map, unstack

STREAM, SHOTS, STEPS = 50, 20, 20  # tasks; examples and inner steps of each
EXAMPLES, NEW_STEPS, ENOUGH = [1, 2, 3, 5, 7, 10, 14, 20], 10, 10
PLACES = [0, 9, 24, 49]  # how many tasks came before the new one
FIRST = 10  # tasks that may be forgotten
AFRESH, NETWORK, LIBRARY = "base, afresh each time", "one network", "library of mappings"


def trained(tasks: qs.TaskDistribution, steps: int, seed: int) -> qs.MAML:
    """The base."""
    torch.manual_seed(seed)
    net = qs.nets.MLP(1, 1, hidden=(40, 40))
    learner = qs.MAML(net, lr=0.01, steps=1, criterion=qs.squared_error)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in qs.train(learner, tasks, optimizer, steps=steps, size=25, seed=seed):
        schedule.step()
    return learner


def errors(learner: qs.MAML, starts: Any, tasks: qs.Task[qs.Examples], steps: int) -> Tensor:
    """Of a batch of tasks, each from its start, after some inner steps: (T,)."""
    learner.steps = steps

    def error(start: Any, task: qs.Task[qs.Examples]) -> Tensor:
        state = learner.adapt(task.support, start)
        return qs.squared_error(learner.predict(state, task.query.x), task.query)

    with evaluating(learner):
        return qs.over_tasks(error)(starts, tasks)


def repeated(state: Any, count: int) -> Any:
    return tree_map(lambda leaf: leaf.detach().expand(count, *leaf.shape), state)


def few(tasks: qs.Task[qs.Examples], examples: int) -> qs.Task[qs.Examples]:
    return tasks._replace(support=tree_map(lambda leaf: leaf[:, :examples], tasks.support))


def run(steps: int, count: int, seed: int) -> dict[str, Any]:
    """Of one seed, in a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return stream(Path(folder), steps, count, seed)


def stream(folder: Path, steps: int, count: int, seed: int) -> dict[str, Any]:
    """The mean error of `count` new tasks, by way, place and number of examples; and the errors
    of the first tasks, when they were learned and at the end."""
    kinds = (qs.Sinusoid, qs.Line, qs.Parabola)
    functions = qs.Mixture(*(kind(SHOTS, 100, grid=True) for kind in kinds))
    learner = trained(qs.Mixture(*(kind(10, 10) for kind in kinds)), steps, seed)
    library = qs.MappingLibrary(folder, learner)
    seen = functions.sample(STREAM, torch.Generator().manual_seed(1000 + seed))
    new = functions.sample(count, torch.Generator().manual_seed(2000 + seed))
    network: Any = tree_map(Tensor.detach, learner.start())

    def start_of(way: str, support: qs.Examples) -> Any:
        learner.steps = NEW_STEPS  # of the embedding, always the same
        return library.start(support) if way == LIBRARY else network

    curves: dict[str, list[Any]] = {AFRESH: [], NETWORK: [], LIBRARY: []}
    known: dict[str, list[Any]] = {NETWORK: [], LIBRARY: []}
    for number, task in enumerate([*unstack(seen), None]):
        if number in PLACES:
            afresh = repeated(learner.start(), count)
            for way, found in curves.items():
                if found and way == AFRESH:  # which learns nothing from the stream
                    found.append(found[0])
                    continue
                curve = []
                for examples in EXAMPLES:
                    tasks, starts = few(new, examples), afresh
                    if number > 0:
                        each = [start_of(way, support) for support in unstack(tasks.support)]
                        starts = tree_map(lambda *leaf: torch.stack(leaf), *each)
                    curve.append(errors(learner, starts, tasks, NEW_STEPS).mean().item())
                found.append(curve)
        if task is None:
            break
        for way, states in known.items():
            start = start_of(way, task.support)
            learner.steps = STEPS
            with evaluating(learner):
                state = learner.adapt(task.support, start)
            states.append(state)
            if way == LIBRARY:
                learner.steps = NEW_STEPS
                library.add(f"task {number}", task.support, state=state)
            else:
                network = state
    first = tree_map(lambda leaf: leaf[:FIRST], seen)

    def forgets(states: Sequence[Any]) -> list[float]:
        stacked = tree_map(lambda *leaf: torch.stack(leaf), *states)
        return errors(learner, stacked, first, 0).tolist()

    again = qs.MappingLibrary(folder, learner)
    return {
        "curves": curves,
        "learned": {way: forgets(states[:FIRST]) for way, states in known.items()},
        "end": {
            NETWORK: forgets([network] * FIRST),
            LIBRARY: forgets([again[f"task {number}"].state for number in range(FIRST)]),
        },
    }


def needed(curve: Sequence[float], goal: float) -> float:
    """How many examples make the error `goal`; infinite where 20 do not."""
    points = list(zip(EXAMPLES, curve, strict=True))
    for (n, error), (more, less) in zip([(0, math.inf), *points], points, strict=False):
        if less <= goal:
            part = 1 if error == math.inf else (error - goal) / (error - less)
            return n + (more - n) * part
    return math.inf


def said(values: Sequence[float]) -> str:
    """Mean and interval over seeds."""
    numbers = torch.tensor(values, dtype=torch.float64)
    if not numbers.isfinite().all():
        return f"over {EXAMPLES[-1]} in {int((~numbers.isfinite()).sum())} of {len(values)}"
    if len(values) < 2:
        return f"{numbers.item():.2f}"
    half = 1.96 * numbers.std().item() / len(values) ** 0.5
    return f"{numbers.mean():.2f} ± {half:.2f}"


def summary(seeds: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each way."""
    rows, goals = [], [seed["curves"][AFRESH][0][EXAMPLES.index(ENOUGH)] for seed in seeds]
    for way in (AFRESH, NETWORK, LIBRARY):
        row = {"way": way}
        for place, tasks in enumerate(PLACES):
            each = [
                needed(seed["curves"][way][place], goals[i]) for i, seed in enumerate(seeds)
            ]
            row[f"examples needed by task {tasks + 1}"] = said(each)
        for when, label in ("learned", "once learned"), ("end", "after all"):
            lists = [seed[when][way] for seed in seeds if way != AFRESH]
            each = [sum(some) / len(some) for some in lists]
            row[f"error on the first {FIRST} tasks {label}"] = said(each) if each else ""
        rows.append(row)
    return rows


def plot(seeds: Sequence[dict[str, Any]], out: Path) -> None:
    """Errors against examples, one line for each seed and a thick one for the mean."""
    plt.rcParams["svg.hashsalt"] = "mapping_library"  # the same file from the same numbers
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    drawn = [
        (AFRESH, 0, "1st task"),
        (LIBRARY, 1, f"{PLACES[1] + 1}th, library"),
        (LIBRARY, 3, f"{PLACES[3] + 1}th, library"),
        (NETWORK, 3, f"{PLACES[3] + 1}th, one network"),
    ]
    for number, (way, place, label) in enumerate(drawn):
        curves = torch.tensor([seed["curves"][way][place] for seed in seeds])
        for curve in curves:
            left.plot(EXAMPLES, curve, color=f"C{number}", linewidth=0.6, alpha=0.5)
        left.plot(EXAMPLES, curves.mean(0), "o-", color=f"C{number}", label=label)
    left.set(xlabel="examples of the new task", ylabel="squared error", yscale="log")
    left.legend(frameon=False, fontsize=8)
    for color, way in (("C3", NETWORK), ("C2", LIBRARY)):
        for when, style in ("learned", ":"), ("end", "-"):
            error = torch.tensor([seed[when][way] for seed in seeds]).mean(0)
            label = f"{way}, {'once learned' if when == 'learned' else 'after all'}"
            right.plot(range(1, FIRST + 1), error, style, color=color, label=label)
    right.set(xlabel="task of the stream", ylabel="squared error", yscale="log")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--count", type=int, default=30)
    options = parser.parse_args()
    work = partial(run, options.steps, options.count)
    with get_context("spawn").Pool(options.processes) as pool:
        seeds = pool.map(work, range(options.seeds), chunksize=1)
    title = (
        f"A stream of {STREAM} functions: examples needed to learn a new one as well as the "
        f"first was learned from {ENOUGH}"
    )
    more = {"examples": EXAMPLES, "places": PLACES, "steps": options.steps, "seeds": seeds}
    write("mapping_library", title, summary(seeds), options.out, **more)
    if options.plot is not None:
        plot(seeds, options.plot)


if __name__ == "__main__":
    main()
