"""Results: what a finished run measures on its benchmarks, as `result.json`."""

import inspect
import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from quickstudy.capabilities import Embeds
from quickstudy.core.parameters import device_of
from quickstudy.core.task import Json, Task, TaskDistribution, batches
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.cached_embeddings import embed_once
from quickstudy.evaluation.protocol import evaluate, evaluating
from quickstudy.evaluation.report import Report, pack
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.evaluation.streams import stream_report
from quickstudy.execution.batching import inference, over_tasks
from quickstudy.learner import Learner
from quickstudy.runs import recipes
from quickstudy.runs.host import hardware
from quickstudy.runs.recipes import Benchmark, settings_applied
from quickstudy.runs.runs import Run, reopen
from quickstudy.storage import renamed
from quickstudy.storage.checkpoints import read_facts
from quickstudy.storage.files import replace_file
from quickstudy.tasks.few_shot import FewShot
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.tasks.streams import Streams


def stored() -> dict[str, Json]:
    """Return the results that `quickstudy train --record` has stored, by name.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.stored()["glyphs_protonet"]["recipe"]
        'glyphs_protonet'
    """
    return {
        file.stem: result(file)
        for folder in recipes.folders()
        for file in sorted(folder.glob("results/*.json"))
    }


def result(place: str | Path) -> Json:
    """Return the result of a finished run.

    Args:
        place: the run's folder, or the file that the result was stored in.

    Raises:
        ValueError: the run is not finished, or the file is damaged.

    Examples:
        >>> import quickstudy as qs
        >>> file = qs.runs.folders()[0] / "results" / "glyphs_protonet.json"
        >>> list(qs.runs.result(file)["measured"])
        ['10-way 1-shot', '10-way 5-shot']
    """
    path = Path(place)
    path = path if path.is_file() else path / "result.json"
    if not path.exists():
        raise ValueError(f"{place} has no result.json: finish the run by `quickstudy train`.")
    try:
        content = json.loads(path.read_text("utf-8"))
        return renamed.result(content, recipes.names())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and run `quickstudy train` again."
        ) from error


def stream_file(folder: str | Path, row: str) -> Path:
    """Return the path of the `StreamReport` of a benchmark on streams, in a finished run.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.stream_file("runs/split", "task known").as_posix()
        'runs/split/streams/task known.json'
    """
    return Path(folder) / "streams" / f"{quote(row, safe=' ')}.json"


def finish(
    run: Run,
    *,
    n_tasks: int | None = None,
    name: str | None = None,
    on_experience: Callable[[str, StreamReport], None] | None = None,
) -> Json:
    """Measure every benchmark with the best checkpoint, and write `result.json`.

    A benchmark on streams also writes all its numbers to `streams/ROW.json`. It is saved after
    every experience: the same call resumes it after an interruption.

    Args:
        n_tasks: tasks of every benchmark; None: those of the recipe.
        name: of the result; None: that of the recipe.
        on_experience: called after every experience with the name of the benchmark and the
            report so far.

    Returns:
        The result.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import quickstudy as qs
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "tiny.py").write_text('''
        ... import torch
        ... import quickstudy as qs
        ... def recipe(*, steps=1):
        ...     learner = qs.MAML(qs.nets.MLP(1, 1, hidden=(4,)), criterion=qs.squared_error)
        ...     tasks, adam = qs.Sinusoid(5, 5), torch.optim.Adam(learner.parameters())
        ...     rows = {"5-shot": qs.runs.Benchmark(tasks, n_tasks=4)}
        ...     settings = {"steps": steps, "meta_batch_size": 2, "n_validation_tasks": 2}
        ...     return qs.runs.Experiment(learner, tasks, tasks, rows, adam, **settings)
        ... ''')
        >>> run = qs.runs.start(str(folder / "tiny.py"), {}, folder)
        >>> [status.step for status in qs.runs.go(run)]
        [1]
        >>> list(qs.runs.finish(run)["measured"])
        ['5-shot']
    """
    # a fresh learner: the run's own stays as it is
    best = reopen(run.folder, device=device_of(run.experiment.learner))
    last = read_facts(run.checkpoints.latest() or run.folder)
    module = recipes.find(run.recipe)
    rows, milliseconds = dict[str, Json](), dict[str, float]()
    for row, benchmark in best.experiment.benchmarks.items():
        reports: list[StreamReport] = []

        def note(report: StreamReport) -> None:
            reports[:] = [report]  # noqa: B023
            if on_experience is not None:
                on_experience(row, report)  # noqa: B023

        file = stream_file(run.folder, row)
        progress = file.with_suffix("") / f"step-{best.start:08d}-of-{len(best.history)}"
        report = measure(best, benchmark, n_tasks=n_tasks, folder=progress, on_experience=note)
        rows[row] = {**report.to_json()["summary"], "card": dict(report.card)}
        for metric, values in report.values.items():
            rows[row][metric]["values"] = pack(values)
        if reports:
            replace_file(file, f"{json.dumps(reports[0].to_json())}\n".encode())
            seconds = reports[0].seconds.nansum(1).mean().item()
            milliseconds[row] = round(seconds * 1000, 4)  # to learn a stream
        elif not isinstance(benchmark.tasks, Rollouts):  # these have no queries
            milliseconds[row] = _milliseconds(best.experiment.learner, benchmark)
    meta_batch_size = best.experiment.meta_batch_size * int(os.environ.get("WORLD_SIZE", 1))
    paper = recipes.published(module, run.settings)
    whole = recipes.paper_steps(paper, meta_batch_size)
    content = {
        "name": recipes.result_name(module, run.settings) if name is None else name,
        "recipe": Path(run.recipe).stem,
        "about": inspect.getdoc(module),
        "paper": paper,
        "measured": rows,
        "better": best.experiment.better,
        "milliseconds": milliseconds,
        "settings": run.settings,
        "steps": last["step"],
        "planned_steps": best.experiment.steps,
        "paper_fraction": None if whole is None else last["step"] / whole,  # of its tasks
        "size": meta_batch_size,
        "checkpoint": best.start,
        "seconds": round(last["seconds"], 1),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "history": last["history"],
    }
    _write(run.folder / "result.json", content)
    return content


def store(result: Json, name: str) -> Path:
    """Store a result beside the recipes, where `stored` reads it, and return its file.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from unittest import mock
        >>> import quickstudy as qs
        >>> here = Path(tempfile.mkdtemp())
        >>> with mock.patch("quickstudy.runs.recipes.folders", lambda: [here]):
        ...     qs.runs.store({"steps": 3}, "mine").name
        'mine.json'
    """
    file = recipes.folders()[0] / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    _write(file, result)
    return file


def _write(file: Path, result: Json) -> None:
    replace_file(file, f"{json.dumps(result, indent=1)}\n".encode())


def measure(
    run: Run,
    benchmark: Benchmark,
    *,
    n_tasks: int | None = None,
    seed: int = 1,
    progress: Any = None,
    folder: str | Path | None = None,
    on_experience: Callable[[StreamReport], None] | None = None,
) -> Report:
    """Return the report of one benchmark, with the run's weights.

    Args:
        n_tasks: tasks; None: those of the benchmark.
        progress: as in `evaluate`.
        folder: as in `evaluate_stream`, for a benchmark on streams.
        on_experience: as in `stream_report`, for a benchmark on streams.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1, hidden=(4,)), criterion=qs.squared_error)
        >>> tasks, adam = qs.Sinusoid(5, 5), torch.optim.Adam(learner.parameters())
        >>> benchmark = qs.runs.Benchmark(tasks, n_tasks=4)
        >>> rows = {"10-shot": benchmark}
        >>> experiment = qs.runs.Experiment(learner, tasks, tasks, rows, adam, 100, 2)
        >>> run = qs.runs.Run(Path("runs/mine"), "mine", {}, experiment)
        >>> qs.runs.measure(run, benchmark).card["selection"]
        'step 0'
    """
    n_tasks = benchmark.n_tasks if n_tasks is None else n_tasks
    evaluate_fn, metrics = benchmark.evaluate_fn, benchmark.metrics
    if isinstance(benchmark.tasks, Streams):
        evaluate_fn = stream_report if evaluate_fn is evaluate else evaluate_fn
        evaluate_fn = partial(evaluate_fn, folder=folder, on_experience=on_experience)
    else:
        metrics = run.experiment.metrics if metrics is None else metrics
    among = f", best of {len(run.history)} validations" if run.history else ""
    learner, tasks = _embedded(run.experiment.learner, benchmark.tasks, n_tasks)
    with settings_applied(learner, benchmark.settings):
        report = evaluate_fn(
            learner,
            tasks,
            n_tasks=n_tasks,
            meta_batch_size=benchmark.meta_batch_size,
            seed=seed,
            metrics=metrics,
            selection=f"step {run.start}{among}",
            progress=progress,
        )
    settings = {"learner": dict(benchmark.settings)} if benchmark.settings else {}
    return Report(report.values, {**report.card, **settings})


def _embedded(
    learner: Learner[Any], tasks: TaskDistribution, n_tasks: int
) -> tuple[Learner[Any], TaskDistribution]:
    """Apply `embed_once` if it is possible and saves at least half of the work."""
    if not (isinstance(tasks, FewShot) and isinstance(learner, Embeds)):
        return learner, tasks
    images = len(tasks.dataset) * (1 if tasks.rotations is None else 4)
    if n_tasks * tasks.ways[0] * (tasks.shots[0] + tasks.queries) < 2 * images:
        return learner, tasks
    try:
        head, *embedded = embed_once(learner, tasks)
        return head, embedded[0]
    except ValueError:  # the embedding of an image depends on the task
        return learner, tasks


def _milliseconds(learner: Learner[Any], benchmark: Benchmark, *, repeats: int = 3) -> float:
    """Measure the time to adapt to a task and predict its queries, as `evaluate` does.

    The least of some repeats counts: other work of the machine can only add to it.
    """
    device, size = device_of(learner), min(benchmark.meta_batch_size, benchmark.n_tasks)
    batch = next(iter(batches(benchmark.tasks, size, steps=1, seed=1)))
    batch = tree_map(lambda leaf: leaf.to(device), batch)
    least = math.inf

    def predictions(learner: Learner[Any], task: Task[Any]) -> Any:
        return learner.predict(learner.adapt(task.support), task.query.x)

    with evaluating(learner) as copy, settings_applied(copy, benchmark.settings):
        for _ in range(repeats):
            start = time.perf_counter()
            with inference(copy) as (fast, execution, chunk):
                over_tasks(partial(predictions, fast), execution, chunk)(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            least = min(least, time.perf_counter() - start)
    return round(least * 1000 / len(batch.query.x), 4)
