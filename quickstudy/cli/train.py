"""Training: `quickstudy train`, `stream` and `diagnose`."""

import inspect
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro
from tyro.conf import Positional, arg

from quickstudy import console, runs
from quickstudy.cli.options import AsJson, Device, Execution, MemoryLimit, dumps
from quickstudy.cli.results import metric_text, result_rows
from quickstudy.core.task import Json, Task, batches
from quickstudy.execution import diagnosis, planning
from quickstudy.tasks.streams import Streams

OPTIONS: list[Any] = [
    ("out", Annotated[Path | None, arg(help="Folder of the run. Default: runs/RESULT.")], None),
    ("execution", Execution, "auto"),
    ("memory_limit", MemoryLimit, None),
    ("device", Device, "cpu"),
    ("record", Annotated[bool, arg(help="Also store the result in recipes/results.")], False),
    ("variant", Annotated[str, arg(help="Suffix of the result name, such as full.")], ""),
    ("as_json", AsJson, False),
]


def train(recipe: str, arguments: Sequence[str], command: str = "train") -> None:
    """Train and evaluate a recipe; resume it if it was interrupted.

    Args:
        recipe: Name of a recipe, or path of its file.
        arguments: Options: the keywords of its function `recipe`, and `OPTIONS`.
        command: Name of the command, for the help.
    """
    module = runs.find(recipe)
    parameters = inspect.signature(module.recipe).parameters
    helps = {
        entry.arg_name: entry.description
        for entry in docstring_parser.parse(inspect.getdoc(module.recipe) or "").params
    }
    settings: list[Any] = [
        (name, Annotated[p.annotation, arg(help=helps.get(name))], p.default)
        for name, p in parameters.items()
    ]
    fields = [
        (name, kind, field(default=default)) for name, kind, default in settings + OPTIONS
    ]
    short = " --steps 200" if "steps" in parameters else ""
    description = (
        f"{inspect.getdoc(module) or recipe}\n\nThe same command resumes an interrupted run.\n"
        f"Example: quickstudy {command} {recipe}{short} --out runs/short"
    )
    values = vars(
        tyro.cli(
            make_dataclass("Settings", fields),
            args=arguments,
            prog=f"quickstudy {command} {recipe}",
            description=description,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )
    chosen = {name: values[name] for name in parameters}
    options = {name: values[name] for name in values if name not in parameters}
    suffix = options.pop("variant")
    stored = runs.result_name(module, chosen) + (f"_{suffix}" if suffix else "")
    options |= {"stored": stored, "out": options["out"] or Path("runs") / stored}
    carry_out(recipe, chosen, live=command == "stream", **options)


def stream(recipe: str, arguments: Sequence[str]) -> None:
    """Train a recipe and show its evaluation on streams live.

    The terminal shows a matrix: the accuracy on every experience after each. The same command
    continues after the last experience that was learned.

    Example: quickstudy stream streams --out runs/split
    """
    train(recipe, arguments, "stream")


def carry_out(
    recipe: str,
    settings: Mapping[str, Json],
    *,
    out: Path,
    execution: str,
    device: str,
    record: bool,
    stored: str,
    as_json: bool,
    memory_limit: str | None = None,
    live: bool = False,
    stop: Callable[[], bool] | None = None,
    longer_than: int = -1,
) -> None:
    """Start a run or resume it, train it, measure its benchmarks and print them.

    Args:
        recipe: name of the recipe, or path of its file.
        settings: keywords of its function `recipe`.
        out: folder of the run.
        execution: value of the option `--execution`.
        record: also store the result beside the recipes.
        stored: name of the result.
        memory_limit: value of the option `--memory-limit`.
        live: show streams as they are learned.
        stop: called after each step. Once it returns True, training stops and is saved.
        longer_than: a run of no more steps is neither measured nor recorded.

    Raises:
        ValueError: as `runs.start`, or an option does not fit.

    Examples:
        >>> import tempfile
        >>> options = {"execution": "recipe", "device": "cpu", "record": False}
        >>> options |= {"stored": "mine", "as_json": False}
        >>> folder, settings = Path(tempfile.mkdtemp()), {"steps": 1, "meta_batch_size": 1}
        >>> carry_out("sinusoid", settings, out=folder, longer_than=9, **options)
    """
    run = runs.start(recipe, settings, out, device=device)
    if live and not any(
        isinstance(benchmark.tasks, Streams) for benchmark in run.experiment.benchmarks.values()
    ):
        raise ValueError(
            f"{recipe} has no benchmark on streams. Use `quickstudy train {recipe}`."
        )
    if run.start:
        print(f"Resuming {out} at step {run.start}.", file=sys.stderr)
    automatic = execution in ("recipe", "auto")
    if memory_limit is not None and not automatic:
        raise ValueError(
            f"--memory-limit chooses how to execute tasks. Leave out --execution {execution}."
        )
    mode: Any = execution
    if memory_limit is not None:
        learner, task = run.experiment.learner, _first_batch(run.experiment)
        plan = planning.plan(learner, task, memory_limit=memory_limit)
        print(plan, file=sys.stderr)
        plan.apply(learner)
        mode = "recipe"  # as the plan has set
    console.show(run, _until(stop, runs.go(run, execution=mode)))
    if int(os.environ.get("RANK", 0)) > 0 or run.start <= longer_than:
        return
    with console.streaming() if live else nullcontext() as on_experience:
        result = runs.finish(run, name=stored, on_experience=on_experience)
    if record:
        runs.store(result, stored)
    if as_json:
        return print(dumps(result))
    for row, line in zip(result["measured"], result_rows(result), strict=True):
        paper = result["paper"].get(row, {})
        published = ", ".join(
            metric_text(metric, paper[metric], paper.get("interval"))
            for metric in result["measured"][row]
            if metric in paper
        )
        print(line + (f"  (published: {published})" if published else ""))
    print(f"{out / 'result.json'}; pictures: quickstudy report {out}", file=sys.stderr)


def diagnose(
    learner: Positional[Annotated[str, arg(metavar="RUN|RECIPE")]],
    *,
    compiled: bool = False,
    device: Device = "cpu",
) -> None:
    """Measure the ways to execute a learner.

    The table has the speed and memory of each way, or why it is impossible.

    Example: quickstudy diagnose glyphs_fomaml

    Args:
        learner: Folder of a run, or name of a recipe.
        compiled: Try torch.compile too, which can take minutes.
    """
    if Path(learner).is_dir():
        experiment = runs.reopen(learner, device=device).experiment
    else:
        experiment = runs.start(learner, {}, Path("runs/.none"), device=device).experiment
    print(
        diagnosis.diagnose(
            experiment.learner,
            _first_batch(experiment),
            compiled=compiled,
            steps=experiment.steps,
        )
    )


def _first_batch(experiment: runs.Experiment) -> Task[Any]:
    return next(iter(batches(experiment.train, experiment.meta_batch_size, steps=1)))


def _until(
    stop: Callable[[], bool] | None, statuses: Generator[runs.Status, None, None]
) -> Generator[runs.Status, None, None]:
    """Yield statuses until `stop` returns True; closing `statuses` saves the run."""
    with closing(statuses):
        for status in statuses:
            yield status
            if stop is not None and stop():
                return
