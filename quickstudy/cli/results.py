"""Results of runs: `quickstudy evaluate`, `quickstudy compare` and `quickstudy report`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from quickstudy import console, datasets, runs
from quickstudy.cli import catalogue
from quickstudy.cli.options import AsJson, Device, RunFolder, dumps
from quickstudy.cli.pictures import read_folder
from quickstudy.core.task import Json
from quickstudy.datasets import Labelled
from quickstudy.evaluation.formatting import format_mean
from quickstudy.reports.write import write
from quickstudy.runs import compare_runs
from quickstudy.runs import result as read_result
from quickstudy.tasks.examples import DatasetTasks
from quickstudy.tasks.few_shot import FewShot


def evaluate(
    run: RunFolder,
    *,
    dataset: str | None = None,
    split: Literal["train", "validation", "test"] | None = None,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    n_tasks: int | None = None,
    seed: int = 1,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Evaluate the best checkpoint of a run.

    By default on the benchmarks of its recipe; --dataset, --ways, ... choose other tasks.

    Example: quickstudy evaluate runs/glyphs_protonet --dataset digits --ways 10 --shots 5

    Args:
        dataset: Name of a data set (`quickstudy list`), or a folder of folders of images, one
            per class.
        split: Part of the data set. Default: test.
        ways: Classes per task.
        shots: Examples per class to learn from.
        queries: Examples per class to predict.
        n_tasks: Number of tasks.
        seed: Seed of the tasks. Two runs evaluated with one seed get the same tasks.
        as_json: Print JSON, with the value of every task.
    """
    base = runs.reopen(run, device=device)
    benchmarks = dict(base.experiment.benchmarks)
    chosen = dataset, split, ways, shots, queries
    if any(option is not None for option in chosen):
        benchmarks = {"custom tasks": _custom(base, *chosen)}
    reports = {}
    for name, benchmark in benchmarks.items():
        total = benchmark.n_tasks if n_tasks is None else n_tasks
        with console.bar(name, total) as advance:
            reports[name] = runs.measure(
                base, benchmark, n_tasks=total, seed=seed, progress=advance
            )
    if as_json:
        return print(dumps({name: report.to_json() for name, report in reports.items()}))
    for name, report in reports.items():
        (line,) = result_rows({"measured": {name: report.to_json()["summary"]}})
        print(f"{line}  [{', '.join(f'{key}: {value}' for key, value in report.card.items())}]")


def compare(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN")]],
    *,
    as_json: AsJson = False,
) -> None:
    """Compare runs task by task on the benchmarks that they share.

    Example: quickstudy compare runs/glyphs_protonet runs/glyphs_fomaml

    Args:
        runs: Folders of finished runs, or files of stored results.
    """
    stems = [run.resolve().stem for run in runs]
    names = stems if len(set(stems)) == len(stems) else map(str, runs)
    comparisons = compare_runs.compare(dict(zip(names, map(read_result, runs), strict=True)))
    if as_json:
        return print(dumps([comparison.to_json() for comparison in comparisons]))
    for comparison in comparisons:
        rows = compare_runs.table(comparison)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print(f"{comparison.test}\n")
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        print()


def report(run: RunFolder, *, out: Path | None = None) -> None:
    """Write an HTML report of a run.

    It has the learning curves, the results, the protocol, and an episode in pictures.

    Example: quickstudy report runs/glyphs_protonet

    Args:
        out: File of the report. Default: report.html in the folder of the run.
    """
    print(write(run, out))


def result_rows(result: Json) -> Iterator[str]:
    """Yield a line for each benchmark of a result.

    Examples:
        >>> accuracy = {"mean": 0.975, "interval": 0.004}
        >>> list(result_rows({"measured": {"5-way 1-shot": {"accuracy": accuracy}}}))
        ['5-way 1-shot: accuracy 97.50 ± 0.40 %']
    """
    for row, metrics in result["measured"].items():
        numbers = {metric: v for metric, v in metrics.items() if metric != "card"}
        yield f"{row}: " + ", ".join(
            metric_text(m, v["mean"], v["interval"]) for m, v in numbers.items()
        )


def metric_text(metric: str, mean: float | None, interval: float | None = None) -> str:
    """Return a metric with its value, as people read it.

    Examples:
        >>> metric_text("accuracy", 0.975)
        'accuracy 97.50 %'
        >>> metric_text("squared_error", None)
        'squared_error not finite'
    """
    return f"{metric} {'not finite' if mean is None else format_mean(metric, mean, interval)}"


def _custom(
    run: runs.Run,
    dataset: str | None,
    split: str | None,
    ways: int | None,
    shots: int | None,
    queries: int | None,
) -> runs.Benchmark:
    """Few-shot tasks with some options replaced, the others as in the recipe's first row."""
    first = next(iter(run.experiment.benchmarks.values()))
    like = first.tasks
    if not isinstance(like, FewShot):
        raise ValueError(
            f"Recipe {run.recipe} has no few-shot classification tasks to change. Leave out "
            "--dataset, --split, --ways, --shots and --queries."
        )
    if dataset is None:
        experiment = run.experiment
        parts = {"train": experiment.train, "validation": experiment.validation}
        source = like if split is None else parts.get(split, like)
        if not isinstance(source, DatasetTasks):
            raise ValueError(
                f"The tasks of recipe {run.recipe} for {split} are of no one data set: leave "
                "out --split, or name a --dataset."
            )
        data = source.dataset
    else:
        data = _data(dataset, split, tuple(like.dataset.x.shape[1:]))
    tasks = FewShot(
        data,
        like.ways if ways is None else ways,
        like.shots if shots is None else shots,
        like.queries if queries is None else queries,
        unlabelled=like.unlabelled,
        distractors=like.distractors,
        imbalanced=like.imbalanced,
        rotations=like.rotations if dataset is None else None,
        within_groups=like.within_groups and dataset is None,
        ordered=like.ordered,
        normalise=like.normalise,
        augment=like.augment,
    )
    return replace(first, tasks=tasks)


def _data(name: str, split: str | None, shape: tuple[int, ...]) -> Labelled:
    """A data set by name, or a folder of images, as images of `shape`."""
    if name and Path(name).is_dir():
        data = read_folder(Path(name), shape)
    elif name not in catalogue.DATASETS:
        raise catalogue.no_such("data set or folder", name, catalogue.DATASETS)
    else:
        data = datasets.digits(size=shape[1]) if name == "digits" else getattr(datasets, name)()
    if isinstance(data, Labelled) and split is not None:
        raise ValueError(f"{name} has no parts: leave out --split.")
    part = data if isinstance(data, Labelled) else getattr(data, split or "test")
    if tuple(part.x.shape[1:]) != shape:
        raise ValueError(
            f"The images of {name} are {tuple(part.x.shape[1:])}, the learner takes {shape}."
        )
    return part
