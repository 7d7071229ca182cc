"""Recipes: one file per reproduced result, and the runs that come of them.

A recipe is a Python file with a function `recipe(*, ...) -> Experiment`, whose keywords are
its settings, and `PAPER`, the numbers to compare with. A recipe of several results says by
`RESULT`, a format of its settings such as `"caltech101_{learner}_{shots}shot"`, what each is
called; then `PAPER` may have the numbers of each under its name. A run is a folder: checkpoints
while it trains, and `result.json` when it is done.
"""

import difflib
import importlib.util
import inspect
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import tree_map
from quickstudy.core.task import Json, Task, TaskDistribution, batches
from quickstudy.evaluation.cached_embeddings import embed_once
from quickstudy.evaluation.protocol import Metric, evaluate
from quickstudy.evaluation.report import Report, pack
from quickstudy.evaluation.streams import StreamReport, stream_report
from quickstudy.execution.batching import Execution, inference, over_tasks
from quickstudy.learner import Learner
from quickstudy.storage.checkpoints import CheckpointError, Checkpoints, load, read_facts
from quickstudy.tasks.few_shot import FewShot
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.tasks.streams import Streams
from quickstudy.training.embed_together import EmbedTogether
from quickstudy.training.loop import train


@dataclass(frozen=True)
class Benchmark:
    """A row of the result: tasks to report on.

    Where they are `Streams`, `n_tasks` is of streams, which are followed to their ends by
    `stream_report`, unless `evaluate_fn` is, say, `partial(stream_report, task_incremental=True)`.
    """

    tasks: TaskDistribution
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the learner: {"steps": 10}
    metrics: Mapping[str, Metric] | None = None
    n_tasks: int = 600
    meta_batch_size: int = 50  # tasks at a time
    evaluate_fn: Callable[..., Report] = evaluate  # or another that takes what it takes


@dataclass
class Experiment:
    """Everything that a recipe decides. `steps` and `meta_batch_size` are of meta-training."""

    learner: Learner[Any]
    train: TaskDistribution
    validation: TaskDistribution
    benchmarks: Mapping[str, Benchmark]
    optimizer: Optimizer
    steps: int
    meta_batch_size: int
    scheduler: LRScheduler | None = None
    clip: float | None = None
    precision: torch.dtype | None = None
    metrics: Mapping[str, Metric] | None = None  # of validation; the first one chooses
    better: Literal["max", "min"] = "max"  # of that metric
    validate_every: int = 500  # steps between validations
    n_validation_tasks: int = 200
    evaluate_fn: Callable[..., Report] = evaluate  # of validation
    embed_together: bool = False  # see `EmbedTogether`
    on_reopen: Callable[[], None] | None = None  # done once a run is reopened: to fill a memory


class Status(NamedTuple):
    """Where a run stands after a step."""

    step: int
    loss: float  # mean over the batch
    tasks: int  # done in this process since it started
    seconds: float  # since this process started training
    validation: Report | None  # when there was one at this step


@dataclass
class Run:
    """A recipe with its settings, being carried out in a folder."""

    folder: Path
    recipe: str
    settings: dict[str, Json]
    experiment: Experiment
    seed: int = 0
    start: int = 0  # steps already done
    seconds: float = 0.0  # spent training, in all processes so far
    history: list[dict[str, Json]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run."""
        return Checkpoints(self.folder)


def folders() -> list[Path]:
    """Where recipes are looked for: in the installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    return [place for place in (here / "recipes", here.parent / "recipes") if place.is_dir()]


def names() -> list[str]:
    """The recipes that came with quickstudy."""
    found = {file.stem for place in folders() for file in place.glob("[a-z]*.py")}
    return sorted(found)


def find(name: str) -> ModuleType:
    """A recipe by name, or by the path of a Python file.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    paths = [place / f"{name}.py" for place in folders()]
    paths = [Path(name)] if name.endswith(".py") else paths
    for path in paths:
        if path.is_file():
            spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if not hasattr(module, "recipe"):
                raise ValueError(f"{path} defines no function `recipe`, as a recipe must.")
            return module
    near = difflib.get_close_matches(name, names(), 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names())}."
    raise ValueError(f"There is no recipe {name!r}. {hint}")


def result_name(module: ModuleType, settings: Mapping[str, Json]) -> str:
    """What the result of these settings is called: the recipe's `RESULT`, filled in, or the
    name of its file.

    Raises:
        ValueError: `RESULT` names a setting that the recipe has not, or makes no file name.
    """
    stem = Path(module.__file__ or "").stem
    try:
        name = getattr(module, "RESULT", stem).format(**{**_defaults(module), **settings})
    except KeyError as error:
        raise ValueError(
            f"RESULT of {stem} names {error}, which is no setting of it."
        ) from None
    if not name or Path(name).name != name:
        raise ValueError(f"RESULT of {stem} makes {name!r}, which cannot name a file.")
    return name


def published(module: ModuleType, settings: Mapping[str, Json]) -> Json:
    """The recipe's `PAPER`; where it is by result, that of the result of these settings."""
    paper = getattr(module, "PAPER", {})
    return paper.get(result_name(module, settings), paper)


def stored() -> dict[str, Json]:
    """The results that `quickstudy train --record` has stored, by name."""
    files = sorted(file for place in folders() for file in place.glob("results/*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def result(place: str | Path) -> Json:
    """The result of a finished run, from its folder or from the file it was stored in.

    Raises:
        ValueError: the run is not finished.
    """
    path = Path(place)
    path = path if path.is_file() else path / "result.json"
    if not path.exists():
        raise ValueError(f"{place} has no result.json: finish the run by `quickstudy train`.")
    return json.loads(path.read_text())


def start(
    recipe: str,
    settings: Mapping[str, Json],
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
) -> Run:
    """Begins a run in `folder`, or goes on with the one that is there.

    Raises:
        ValueError: an unknown recipe or setting; or the folder has a run of another recipe or
            of other settings.
    """
    module = find(recipe)
    run = _build(module, recipe, dict(settings), Path(folder), device)
    latest = run.checkpoints.latest()
    if latest is not None:
        experiment = run.experiment
        _same(run, read_facts(latest))
        facts = load(latest, experiment.learner, experiment.optimizer, experiment.scheduler)
        run.start, run.seconds, run.history = facts["step"], facts["seconds"], facts["history"]
    return run


def reopen(
    folder: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    device: torch.device | str = "cpu",
) -> Run:
    """A run from its folder, with the weights of its best (by validation) or last checkpoint.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    checkpoints = Checkpoints(folder)
    path = (checkpoints.best() if which == "best" else None) or checkpoints.latest()
    if path is None:
        raise CheckpointError(
            f"{folder} holds no checkpoint: `quickstudy train RECIPE --out {folder}` makes one."
        )
    facts = read_facts(path)
    module = find(facts["recipe"])
    run = _build(module, facts["recipe"], facts["settings"], Path(folder), device)
    facts = load(path, run.experiment.learner)
    if run.experiment.on_reopen is not None:
        run.experiment.on_reopen()
    last = read_facts(checkpoints.latest() or path)  # knows of the validations after the best
    run.start, run.seconds, run.history = facts["step"], last["seconds"], last["history"]
    return run


def go(
    run: Run,
    *,
    execution: Execution | Literal["compiled"] | None = None,
    save_every: float = 120.0,
) -> Iterator[Status]:
    """Meta-trains, yielding after each step; saves at each validation, every `save_every`
    seconds, and when it is interrupted. Of no steps the checkpoint has the weights that the
    learner begins with.

    Started by `torchrun`, every process draws its own tasks and the first one saves.
    """
    e, rank = run.experiment, int(os.environ.get("RANK", 0))
    module = _wrapped(e, execution)
    done, clock = run.start, _Clock(run.seconds)
    saved, score = clock.total(), run.history[-1].get("score") if run.history else None
    tasks, recent = 0, []

    def keep() -> None:
        if rank == 0:
            run.checkpoints.save(
                done,
                e.learner,
                e.optimizer,
                e.scheduler,
                score=score if run.history and run.history[-1]["step"] == done else None,
                recipe=run.recipe,
                settings=run.settings,
                seconds=clock.total(),
                history=run.history,
            )

    if e.steps == 0:
        if run.checkpoints.latest() is None:
            keep()
        return
    options: dict[str, Any] = {"clip": e.clip, "precision": e.precision, "rank": rank}
    steps = train(
        module,
        e.train,
        e.optimizer,
        steps=e.steps,
        meta_batch_size=e.meta_batch_size,
        start=run.start,
        seed=run.seed,
        **options,
    )
    listening = ExitStack()
    interrupted = listening.enter_context(_between_steps())
    try:
        for step in steps:
            if e.scheduler is not None:
                e.scheduler.step()
            loss = step.loss.mean().item()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The loss is {loss} at step {step.number}. Lower the learning rate, or "
                    f"clip the gradient; the last checkpoint in {run.folder} is from before."
                )
            done, tasks = step.number, tasks + e.meta_batch_size
            recent.append(loss)
            report = None
            if done % e.validate_every == 0 or done == e.steps:
                with clock.stopped():
                    report = e.evaluate_fn(
                        e.learner,
                        e.validation,
                        n_tasks=e.n_validation_tasks,
                        seed=2,  # not the tests' 1: both may draw from one distribution
                        metrics=e.metrics,
                    )
                first = next(iter(report.values))
                score = report.mean(first) * (1 if e.better == "max" else -1)
                summary = {m: report.mean(m) for m in report.values}
                run.history.append(
                    {
                        "step": done,
                        "loss": sum(recent) / len(recent),
                        "seconds": round(clock.total(), 1),
                        "score": score,
                        **{f"validation {m}": value for m, value in summary.items()},
                        "interval": report.interval(first),
                    }
                )
                recent = []
            if report is not None or clock.total() - saved > save_every:
                keep()
                saved = clock.total()
            if interrupted():
                keep()
                raise KeyboardInterrupt
            yield Status(done, loss, tasks, clock.here(), report)
    except GeneratorExit:  # raised at the yield, so between two steps
        keep()
        raise
    finally:
        listening.close()
    run.start, run.seconds = done, clock.total()


def finish(
    run: Run,
    *,
    n_tasks: int | None = None,
    name: str | None = None,
    on_experience: Callable[[str, StreamReport], None] | None = None,
) -> Json:
    """Reports on every test row with the best checkpoint, and writes `result.json`.

    Of a row on streams `streams/ROW.json` gets every number, and what is known is kept after
    every experience: the same call, made again after an interruption, goes on from there.

    Args:
        n_tasks: tasks of every row; None: as many as the recipe says.
        name: of the result; None: as the recipe says.
        watch: called after every experience with the row and what is known of it by then.
    """
    # a fresh learner: the run's own stays as it was
    best = reopen(run.folder, device=_where(run.experiment.learner))
    last = read_facts(run.checkpoints.latest() or run.folder)
    module = find(run.recipe)
    rows, milliseconds = dict[str, Json](), dict[str, float]()
    for row, test in best.experiment.benchmarks.items():
        followed: list[StreamReport] = []

        def see(found: StreamReport) -> None:
            followed[:] = [found]  # noqa: B023
            if on_experience is not None:
                on_experience(row, found)  # noqa: B023

        whole = stream_file(run.folder, row)
        kept = whole.with_suffix("") / f"step-{best.start:08d}-of-{len(best.history)}"
        report = measure(best, test, n_tasks=n_tasks, folder=kept, on_experience=see)
        rows[row] = {**report.to_json()["summary"], "card": dict(report.card)}
        for metric, values in report.values.items():
            rows[row][metric]["values"] = pack(values)
        if followed:
            whole.write_text(json.dumps(followed[0].to_json()) + "\n")
            each = followed[0].seconds.nansum(1).mean().item()
            milliseconds[row] = round(each * 1000, 4)  # to learn a stream
        elif not isinstance(test.tasks, Rollouts):  # which ask nothing after acting
            milliseconds[row] = _milliseconds(best.experiment.learner, test)
    result = {
        "name": name or result_name(module, run.settings),
        "recipe": Path(run.recipe).stem,
        "about": inspect.getdoc(module),
        "paper": published(module, run.settings),
        "measured": rows,
        "better": best.experiment.better,
        "milliseconds": milliseconds,
        "settings": run.settings,
        "steps": last["step"],
        "size": best.experiment.meta_batch_size * int(os.environ.get("WORLD_SIZE", 1)),
        "checkpoint": best.start,
        "seconds": round(last["seconds"], 1),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "history": last["history"],
    }
    (run.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(
    run: Run,
    test: Benchmark,
    *,
    n_tasks: int | None = None,
    seed: int = 1,
    progress: Any = None,
    folder: str | Path | None = None,
    on_experience: Callable[[StreamReport], None] | None = None,
) -> Report:
    """The report of one row, by the run's weights.

    Args:
        folder: as of `evaluate_stream`, where the row is on streams.
        on_experience: as of `stream_report`, where the row is on streams.
    """
    n_tasks, evaluate_fn, metrics = n_tasks or test.n_tasks, test.evaluate_fn, test.metrics
    if isinstance(test.tasks, Streams):
        evaluate_fn = stream_report if evaluate_fn is evaluate else evaluate_fn
        evaluate_fn = partial(evaluate_fn, folder=folder, on_experience=on_experience)
    else:
        metrics = metrics or run.experiment.metrics
    among = f", best of {len(run.history)} validations" if run.history else ""
    learner, tasks = _embedded(run.experiment.learner, test.tasks, n_tasks)
    with _set(learner, test.settings):
        report = evaluate_fn(
            learner,
            tasks,
            n_tasks=n_tasks,
            meta_batch_size=test.meta_batch_size,
            seed=seed,
            metrics=metrics,
            selection=f"step {run.start}{among}",
            progress=progress,
        )
    settings = {"learner": dict(test.settings)} if test.settings else {}
    return Report(report.values, {**report.card, **settings})


def _embedded(
    learner: Learner[Any], tasks: TaskDistribution, n_tasks: int
) -> tuple[Learner[Any], TaskDistribution]:
    """As `embed_once`, where that is possible and saves at least half of the work."""
    if not (isinstance(tasks, FewShot) and isinstance(learner, Embeds)):
        return learner, tasks
    images = len(tasks.dataset) * (1 if tasks.rotations is None else 4)
    if n_tasks * tasks.ways[0] * (tasks.shots[0] + tasks.queries) < 2 * images:
        return learner, tasks
    try:
        head, *embedded = embed_once(learner, tasks)
        return head, embedded[0]
    except ValueError:  # what the net makes of an image depends on the task
        return learner, tasks


def stream_file(folder: str | Path, row: str) -> Path:
    """Where a finished run has the `StreamReport` of a row on streams, as JSON."""
    return Path(folder) / "streams" / f"{quote(row, safe=' ')}.json"


def hardware() -> dict[str, Json]:
    """What numbers of speed were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _build(
    module: ModuleType,
    name: str,
    settings: dict[str, Json],
    folder: Path,
    device: torch.device | str,
) -> Run:
    defaults = _defaults(module)
    for key in settings:
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(defaults)}."
            raise ValueError(f"Recipe {name} has no setting {key!r}: {hint}")
    settings = {**defaults, **settings}
    torch.manual_seed(settings.get("seed", 0))
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device was found: leave out --device, or say --device cpu.")
    experiment: Experiment = module.recipe(**settings)
    experiment.learner.to(device)
    experiment.train.to(device)
    return Run(folder, name, settings, experiment, settings.get("seed", 0))


def _milliseconds(learner: Learner[Any], test: Benchmark, *, repeats: int = 3) -> float:
    """Of adapting to a task and predicting its queries, done as `evaluate` does it.

    The least of some repeats, as whatever else the machine does can only make it more.
    """
    where = _where(learner)
    batch = next(
        iter(batches(test.tasks, min(test.meta_batch_size, test.n_tasks), steps=1, seed=1))
    )
    batch = tree_map(lambda leaf: leaf.to(where), batch)
    took = math.inf

    def work(task: Task[Any]) -> Any:
        return learner.predict(learner.adapt(task.support), task.query.x)

    learner.eval()
    with _set(learner, test.settings), torch.no_grad(), torch.random.fork_rng():
        for _ in range(repeats):
            since = time.perf_counter()
            with inference(learner) as (execution, chunk):
                over_tasks(work, execution, chunk)(batch)
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            took = min(took, time.perf_counter() - since)
    return round(took * 1000 / len(batch.query.x), 4)


def _where(learner: Learner[Any]) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))


def _defaults(module: ModuleType) -> dict[str, Json]:
    parameters = inspect.signature(module.recipe).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def _same(run: Run, facts: Mapping[str, Json]) -> None:
    changed = {
        key: (facts["settings"].get(key), value)
        for key, value in run.settings.items()
        if key != "steps" and json.loads(json.dumps(value)) != facts["settings"].get(key)
    }
    if facts["recipe"] != run.recipe:
        changed["recipe"] = (facts["recipe"], run.recipe)
    if changed:
        says = ", ".join(
            f"{key} {old!r} there, {new!r} here" for key, (old, new) in changed.items()
        )
        raise ValueError(
            f"{run.folder} has a run with other settings ({says}). "
            "Choose another --out, or give the settings it was started with."
        )


def _wrapped(
    experiment: Experiment, execution: Execution | Literal["compiled"] | None
) -> nn.Module:
    learner: nn.Module = experiment.learner
    if execution in ("vmap", "loop"):
        experiment.learner.execution = execution
    if experiment.embed_together:
        learner = EmbedTogether(experiment.learner)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group()
        learner.train()
        return nn.parallel.DistributedDataParallel(learner)
    if execution == "compiled":
        return torch.compile(learner, fullgraph=True)  # pyright: ignore[reportReturnType]
    return learner


@contextmanager
def _set(learner: Learner[Any], settings: Mapping[str, Any]) -> Iterator[None]:
    """Attributes of a learner, for a while."""
    before = {name: getattr(learner, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(learner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(learner, name, value)


@contextmanager
def _between_steps() -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed, instead of interrupting: half a step must not be saved.
    A second Ctrl-C interrupts at once, and nothing is saved then."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


class _Clock:
    """Seconds of training: those before this process, and those here less the pauses."""

    def __init__(self, before: float):
        self.before, self.paused, self.begun = before, 0.0, time.perf_counter()

    def here(self) -> float:
        return time.perf_counter() - self.begun - self.paused

    def total(self) -> float:
        return self.before + self.here()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self.paused += time.perf_counter() - since


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
