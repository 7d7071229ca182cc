"""Training: `quickstudy train`, `stream`, `reproduce` and `diagnose`."""

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import tyro
from tyro.conf import Positional, arg

from quickstudy import console, runs
from quickstudy.cli import catalogue
from quickstudy.cli.options import AsJson, Device, Execution, MemoryLimit, dumps
from quickstudy.cli.results import metric_text, result_rows
from quickstudy.core.task import Json, Task, batches
from quickstudy.execution import diagnosis, planning
from quickstudy.runs import recipes
from quickstudy.tasks.streams import Streams

OPTIONS: list[Any] = [
    ("out", Annotated[Path | None, arg(help="Folder of the run. Default: runs/RESULT.")], None),
    ("execution", Execution, "recipe"),
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
    _train(recipe, chosen, live=command == "stream", **options)


def stream(recipe: str, arguments: Sequence[str]) -> None:
    """Train a recipe and show its evaluation on streams live.

    The terminal shows a matrix: the accuracy on every experience after each. The same command
    continues after the last experience that was learned.

    Example: quickstudy stream streams --out runs/split
    """
    train(recipe, arguments, "stream")


def reproduce(
    results: Positional[Annotated[tuple[str, ...], arg(metavar="RESULT")]],
    *,
    execution: Execution = "recipe",
    device: Device = "cpu",
) -> None:
    """Repeat stored results with their settings, which takes hours.

    Runs are in runs/RESULT. The same command resumes them.

    Example: quickstudy reproduce glyphs_protonet glyphs_fomaml

    Args:
        results: Names of results (`quickstudy list --results`). Default: all.
    """
    stored = runs.stored()
    for name in results:
        if name not in stored:
            raise catalogue.no_such("stored result", name, stored)
    for name in results or stored:
        print(f"{name}:", file=sys.stderr)
        _train(
            stored[name]["recipe"],
            stored[name]["settings"],
            out=Path("runs") / name,
            execution=execution,
            device=device,
            record=True,
            stored=name,
            as_json=False,
        )


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


def _train(
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
) -> None:
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
    if execution == "auto" or memory_limit is not None:
        learner, task = run.experiment.learner, _first_batch(run.experiment)
        plan = planning.plan(learner, task, memory_limit=memory_limit)
        print(plan, file=sys.stderr)
        plan.apply(learner)
    mode: Any = None if automatic else execution
    console.show(run, runs.go(run, execution=mode))
    if int(os.environ.get("RANK", 0)) > 0:
        return
    with console.streaming() if live else nullcontext() as on_experience:
        result = runs.finish(run, name=stored, on_experience=on_experience)
    if record:
        folder = recipes.folders()[0] / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{stored}.json").write_text(dumps(result) + "\n")
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


def _first_batch(experiment: runs.Experiment) -> Task[Any]:
    return next(iter(batches(experiment.train, experiment.meta_batch_size, steps=1)))
