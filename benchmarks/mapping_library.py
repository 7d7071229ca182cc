"""How many examples does the next task of a stream of related tasks need? A library of
mappings, against one network that goes on learning, and against starting afresh.

The base is MAML with an MLP of two hidden layers of 40, meta-trained on sine waves, lines and
parabolas in equal parts (the ranges of `Sinusoid`, `Line` and `Parabola`). The tasks of the
stream are related: ten such functions recur at random, each time changed a little (every
parameter by up to 5 % of its range) and with noise on the examples. Fifty tasks come one after
the other, 20 examples of each, and every one is learned by 20 inner steps: with the library
from its weighted start, and added to it; with one network from where the last task left it.

At some places of the stream, new tasks are learned from 1 to 10 examples, by ten inner steps
from each way's start: further variants of the functions that recur, and variants of functions
that never do. Their squared error is measured on 100 points of an even grid on [-5, 5], without
noise. "Examples needed" is how many make the mean error as small as 10 do for the first task,
when nothing is known but the base; between two numbers that were tried, by a straight line. ±
is the 95 % interval over seeds (of base, functions, stream and new tasks), by Student's t.

Chosen on a seed that is not reported: the inner learning rate of 0.003 after meta-training with
0.01, ten steps of which overshoot, from the base as from the library; and that the library asks
all its mappings, not the 8 nearest. Its temperature is the default.

    python -m benchmarks.mapping_library --out FILE.json --plot FILE.svg
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from scipy.special import stdtrit
from torch import Generator, Tensor

import quickstudy as qs
from benchmarks.common import write
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import tree_map, unstack
from quickstudy.evaluation.protocol import evaluating

STREAM, SHOTS, STEPS = 50, 20, 20  # tasks; examples and inner steps of each
FUNCTIONS, CHANGE, NOISE = 10, 0.05, 0.2  # that recur; of a parameter's range; of y
EXAMPLES, NEW_STEPS, ENOUGH = [1, 2, 3, 5, 7, 10], 10, 10
SHOWN = [1, 2, 3, 5, 10]  # in the table
PLACES = [0, 9, 24, 49]  # how many tasks came before the new one
FIRST = 10  # tasks that may be forgotten
RATE, NEAREST = 0.003, STREAM  # of inner steps after meta-training; mappings that are asked
AFRESH, NETWORK, LIBRARY = "base, afresh each time", "one network", "library of mappings"
RECUR, OTHER = "a function that recurs", "a function that never does"

KINDS = qs.Sinusoid(), qs.tasks.Line(), qs.tasks.Parabola()
RANGES = torch.tensor([bounds for kind in KINDS for bounds in kind.ranges.values()])  # (7, 2)


class Related(qs.TaskDistribution):
    """A task is one of some functions, changed a little, and seen with noise."""

    def __init__(self, functions: int, generator: Generator):
        self.kinds = torch.randint(3, (functions,), generator=generator)
        low, high = RANGES.T
        self.parameters = low + (high - low) * torch.rand(functions, 7, generator=generator)
        self.parameters[:, 4] *= 2 * torch.randint(2, (functions,), generator=generator) - 1

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`size` tasks: x and y (T, N, 1), queries on a grid and without noise."""
        which = torch.randint(len(self.kinds), (n_tasks,), generator=generator)
        width = CHANGE * (RANGES[:, 1] - RANGES[:, 0])
        change = width * (2 * torch.rand(n_tasks, 7, generator=generator) - 1)
        function = (self.parameters[which] + change)[:, None, None].unbind(-1)  # 7 of (T, 1, 1)
        amplitude, phase, grad, intercept, curvature, centre, height = function

        def examples(x: Tensor, noise: float) -> qs.Examples:
            waves = amplitude * torch.sin(x - phase)
            lines = grad * x + intercept
            parabolas = curvature * (x - centre).square() + height
            every = torch.stack([waves, lines, parabolas])  # (3, T, N, 1)
            y = every[self.kinds[which], torch.arange(n_tasks)]
            y = y + noise * torch.randn(y.shape, generator=generator)
            return qs.Examples(x, y, torch.ones(x.shape[:2]))

        support = examples(10 * torch.rand(n_tasks, SHOTS, 1, generator=generator) - 5, NOISE)
        grid = torch.linspace(-5, 5, 100)[:, None].repeat(n_tasks, 1, 1)
        return qs.Task(support, examples(grid, 0.0))


def trained(tasks: qs.TaskDistribution, steps: int, seed: int) -> qs.MAML:
    """The base."""
    torch.manual_seed(seed)
    net = qs.nets.MLP(1, 1, hidden=(40, 40))
    learner = qs.MAML(net, lr=0.01, steps=1, criterion=qs.squared_error)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in qs.train(learner, tasks, optimizer, steps=steps, meta_batch_size=25, seed=seed):
        schedule.step()
    return learner


def errors(learner: qs.MAML, starts: Any, tasks: qs.Task[qs.Examples], steps: int) -> Tensor:
    """Of a batch of tasks, each from its start, after some inner steps: (T,)."""
    learner.steps = steps

    def error(start: Any, task: qs.Task[qs.Examples]) -> Tensor:
        state = learner.adapt(task.support, start)
        return qs.squared_error(learner.predict(state, task.query.x), task.query)

    with evaluating(learner):
        return qs.execution.over_tasks(error)(starts, tasks)


def repeated(state: Any, count: int) -> Any:
    return tree_map(lambda leaf: leaf.detach().expand(count, *leaf.shape), state)


def few(tasks: qs.Task[qs.Examples], examples: int) -> qs.Task[qs.Examples]:
    return tasks._replace(support=tree_map(lambda leaf: leaf[:, :examples], tasks.support))


def stream(learner: qs.MAML, folder: Path, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """The mean errors of new tasks, by kind, way, place and number of examples; the errors of
    the first tasks, when they were learned and at the end."""
    learner.lr, generator = RATE, Generator().manual_seed(1000 + seed)
    recur, other = Related(FUNCTIONS, generator), Related(counts[OTHER], generator)
    seen = recur.sample(STREAM, generator)
    new = {
        RECUR: recur.sample(counts[RECUR], generator),
        OTHER: other.sample(counts[OTHER], generator),
    }
    library, past = qs.MappingLibrary(folder, learner), unstack(seen)
    network: Any = tree_map(Tensor.detach, learner.initial_params())

    def probe(way: str, tasks: qs.Task[qs.Examples], examples: int) -> float:
        tasks, count = few(tasks, examples), len(tasks.support.x)
        starts = repeated(learner.initial_params() if way == AFRESH else network, count)
        if way == LIBRARY:
            learner.steps = NEW_STEPS  # of the embedding, always the same
            each = [library.start(support, NEAREST) for support in unstack(tasks.support)]
            starts = tree_map(lambda *leaf: torch.stack(leaf), *each)
        return errors(learner, starts, tasks, NEW_STEPS).mean().item()

    curves = {
        kind: {AFRESH: [[probe(AFRESH, tasks, n) for n in EXAMPLES]]}
        for kind, tasks in new.items()
    }
    for ways in curves.values():  # without a past, all start from the base
        ways |= {way: [ways[AFRESH][0]] for way in (NETWORK, LIBRARY)}
    known: dict[str, list[Any]] = {NETWORK: [], LIBRARY: []}
    for number in range(STREAM):
        if number in PLACES[1:]:
            for kind, tasks in new.items():
                for way in known:
                    curves[kind][way].append([probe(way, tasks, n) for n in EXAMPLES])
        support = past[number].support
        learner.steps = NEW_STEPS
        starts = {NETWORK: network, LIBRARY: library.start(support, NEAREST)}
        learner.steps = STEPS
        with evaluating(learner):
            states = {way: learner.adapt(support, start) for way, start in starts.items()}
        learner.steps, network = NEW_STEPS, states[NETWORK]
        library.add(f"task {number}", support, state=states[LIBRARY])
        for way, state in states.items():
            known[way].append(state)
    first = tree_map(lambda leaf: leaf[:FIRST], seen)

    def misses(states: Sequence[Any]) -> list[float]:
        stacked = tree_map(lambda *leaf: torch.stack(leaf), *states)
        return errors(learner, stacked, first, 0).tolist()

    again = qs.MappingLibrary(folder, learner)
    return {
        "curves": curves,
        "learned": {way: misses(states[:FIRST]) for way, states in known.items()},
        "end": {
            NETWORK: misses([network] * FIRST),
            LIBRARY: misses([again[f"task {number}"].state for number in range(FIRST)]),
        },
    }


def run(steps: int, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """Of one seed."""
    kinds = (qs.Sinusoid, qs.tasks.Line, qs.tasks.Parabola)
    learner = trained(qs.tasks.Mixture(*(kind(10, 10) for kind in kinds)), steps, seed)
    with tempfile.TemporaryDirectory() as folder:
        return stream(learner, Path(folder), counts, seed)


def needed(curve: Sequence[float], goal: float) -> float:
    """How many examples make the error `goal`; infinite where ten do not."""
    points = list(zip(EXAMPLES, curve, strict=True))
    for (n, error), (more, less) in zip([(0, math.inf), *points], points, strict=False):
        if less <= goal:
            part = 1 if error == math.inf else (error - goal) / (error - less)
            return n + (more - n) * part
    return math.inf


def with_interval(values: Sequence[float], sign: str = "") -> str:
    """Mean and interval over seeds."""
    numbers = torch.tensor(values, dtype=torch.float64)
    if not numbers.isfinite().all():
        return f"over {EXAMPLES[-1]} in {int((~numbers.isfinite()).sum())} of {len(values)}"
    if len(values) < 2:
        return f"{numbers.item():{sign}.2f}"
    half = stdtrit(len(values) - 1, 0.975) * numbers.std().item() / len(values) ** 0.5
    return f"{numbers.mean():{sign}.2f} ± {half:.2f}"


def summary(seeds: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each kind of new task, way and place."""
    return [
        row(seeds, kind, way, place)
        for kind in (RECUR, OTHER)
        for way in (AFRESH, LIBRARY, NETWORK)
        for place in range(way != AFRESH, 1 if way == AFRESH else len(PLACES))
    ]


def row(seeds: Sequence[dict[str, Any]], kind: str, way: str, place: int) -> dict[str, str]:
    firsts = [seed["curves"][kind][AFRESH][0] for seed in seeds]
    curves = [seed["curves"][kind][way][place] for seed in seeds]
    goals = [curve[EXAMPLES.index(ENOUGH)] for curve in firsts]
    base = [needed(curve, goal) for curve, goal in zip(firsts, goals, strict=True)]
    mine = [needed(curve, goal) for curve, goal in zip(curves, goals, strict=True)]
    gaps = [more - less for more, less in zip(mine, base, strict=True)]
    cells = {
        "new task": kind,
        "way": way,
        "place": f"{PLACES[place] + 1}",
        "examples needed": with_interval(mine),
        "less those of place 1": with_interval(gaps, "+") if place else "",
    }
    for n in SHOWN:
        cells[f"error from {n}"] = with_interval([curve[EXAMPLES.index(n)] for curve in curves])
    for when, label in ("learned", "once learned"), ("end", "after all"):
        last = kind == RECUR and place == len(PLACES) - 1
        means = [sum(seed[when][way]) / FIRST for seed in seeds] if last else []
        cells[f"first {FIRST} tasks, {label}"] = with_interval(means) if means else ""
    return cells


def plot(seeds: Sequence[dict[str, Any]], out: Path) -> None:
    """Errors against examples, one line for each seed and a thick one for the mean."""
    plt.rcParams["svg.hashsalt"] = "mapping_library"  # the same file from the same numbers
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    drawn = [
        (AFRESH, 0, "1st task"),
        (LIBRARY, 1, f"{PLACES[1] + 1}th, library"),
        (LIBRARY, 3, f"{PLACES[3] + 1}th, library"),
        (NETWORK, 3, f"{PLACES[3] + 1}th, one network"),
    ]
    for one, kind in zip(axes, (RECUR, OTHER), strict=False):
        for number, (way, place, label) in enumerate(drawn):
            curves = torch.tensor([seed["curves"][kind][way][place] for seed in seeds])
            for curve in curves:
                one.plot(EXAMPLES, curve, color=f"C{number}", linewidth=0.6, alpha=0.5)
            one.plot(EXAMPLES, curves.mean(0), "o-", color=f"C{number}", label=label)
        one.set(xlabel="examples of the new task", yscale="log", title=f"New: {kind}")
    for color, way in (("C3", NETWORK), ("C2", LIBRARY)):
        for when, style in ("learned", ":"), ("end", "-"):
            error = torch.tensor([seed[when][way] for seed in seeds]).mean(0)
            label = f"{way}, {'once learned' if when == 'learned' else 'after all'}"
            axes[2].plot(range(1, FIRST + 1), error, style, color=color, label=label)
    axes[2].set(xlabel="task of the stream", yscale="log", title="What is left of old tasks")
    axes[0].set_ylabel("squared error")
    for one in axes:
        one.title.set_fontsize(10)
        one.spines[["top", "right"]].set_visible(False)
    for one in axes[[0, 2]]:
        one.legend(frameon=False, fontsize=8)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="of meta-training")
    parser.add_argument("--count", type=int, default=30, help="new tasks that recur")
    parser.add_argument("--others", type=int, default=15, help="new tasks that do not")
    options = parser.parse_args()
    counts = {RECUR: options.count, OTHER: options.others}
    seeds = [run(options.steps, counts, seed) for seed in range(options.seeds)]
    title = (
        f"A stream of {STREAM} related functions: examples needed to learn a new one as well "
        f"as the first was learned from {ENOUGH}"
    )
    more = {"examples": EXAMPLES, "places": PLACES, "steps": options.steps, "seeds": seeds}
    write("mapping_library", title, summary(seeds), options.out, **more)
    if options.plot is not None:
        plot(seeds, options.plot)


if __name__ == "__main__":
    main()
