"""Results of runs: `quickstudy evaluate`, `quickstudy compare` and `quickstudy report`."""

from collections.abc import Iterator
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
from quickstudy.tasks.few_shot import FewShot


def evaluate(
    run: RunFolder,
    *,
    dataset: str | None = None,
    split: Literal["train", "validation", "test"] = "test",
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
        split: Part of the data set.
        ways: Classes per task.
        shots: Examples per class to learn from.
        queries: Examples per class to predict.
        n_tasks: Number of tasks.
        seed: Seed of the tasks. Two runs evaluated with one seed get the same tasks.
        as_json: Print JSON, with the value of every task.
    """
    base = runs.reopen(run, device=device)
    benchmarks = dict(base.experiment.benchmarks)
    if dataset or split != "test" or ways or shots or queries:
        benchmarks = {"custom tasks": _custom(base, dataset, split, ways, shots, queries)}
    reports = {}
    for name, benchmark in benchmarks.items():
        with console.bar(name, n_tasks or benchmark.n_tasks) as advance:
            reports[name] = runs.measure(
                base, benchmark, n_tasks=n_tasks, seed=seed, progress=advance
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
    split: str,
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
    if dataset is not None:
        data = _data(dataset, split, tuple(like.dataset.x.shape[1:]))
    else:
        parts = {"train": run.experiment.train, "validation": run.experiment.validation}
        tasks = parts.get(split, like)
        data = tasks.dataset if isinstance(tasks, FewShot) else like.dataset
    tasks = FewShot(
        data,
        ways or like.ways[1],
        shots or like.shots[1],
        queries or like.queries,
        rotations=like.rotations if dataset is None else None,
        normalise=like.normalise,
    )
    return runs.Benchmark(
        tasks, first.settings, first.metrics, first.n_tasks, first.meta_batch_size
    )


def _data(name: str, split: str, shape: tuple[int, ...]) -> Labelled:
    """A data set by name, or a folder of images, as images of `shape`."""
    if Path(name).is_dir():
        return read_folder(Path(name), shape)
    if name not in catalogue.DATASETS:
        raise catalogue.no_such("data set or folder", name, catalogue.DATASETS)
    data = datasets.digits(size=shape[1]) if name == "digits" else getattr(datasets, name)()
    part = data if isinstance(data, Labelled) else getattr(data, split)
    if tuple(part.x.shape[1:]) != shape:
        raise ValueError(
            f"The images of {name} are {tuple(part.x.shape[1:])}, the learner takes {shape}."
        )
    return part
