"""`quickstudy demo`: two learners, meta-trained on letters, tested on unseen classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from quickstudy import console, datasets, runs
from quickstudy.evaluation.formatting import format_duration, format_mean
from quickstudy.evaluation.protocol import evaluate
from quickstudy.evaluation.report import Report
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.reports.curves import draw_curves
from quickstudy.reports.episode import draw_episode
from quickstudy.reports.html import (
    Axes,
    Palette,
    figure,
    legend,
    page,
    paragraph,
    section,
    table,
)
from quickstudy.reports.tables import circumstances, protocol_table
from quickstudy.runs import Benchmark, Experiment, Run
from quickstudy.tasks.few_shot import FewShot

RECIPES = {"Prototypical net": "glyphs_protonet", "First-order MAML": "glyphs_fomaml"}
PIXELS = "Nearest mean of pixels"
DIGITS = "digits, 5-shot"
WAYS = 10  # in every test, as FOMAML's net has so many outputs
Reports: TypeAlias = Mapping[str, Mapping[str, Report]]  # by learner and test
TITLE = f"Accuracy in %, {WAYS}-way: mean over tasks ± 95 % interval"
ABOUT = """Two learners were meta-trained on letters of Latin, Cyrillic, Canadian syllabics and
Coptic, to learn new letters from one example of each. Here they learn letters of scripts that
they have never seen (Greek, Georgian, Hebrew, Arabic), and then handwritten digits.

Every number is the share of queries that were classified correctly: the mean over tasks with
its 95 % interval. All learners had the same tasks. The baselines learn nothing before a task:
one compares pixels with the mean image of each class, the others are the same nets before
meta-training."""


class Contestant(NamedTuple):
    """A learner that the demo evaluates.

    Examples:
        >>> Contestant(PrototypicalNetwork(nn.Flatten()), "nothing is trained", {}).selection
        'nothing is trained'
    """

    learner: Learner[Any]
    selection: str  # how its weights were chosen
    settings: Mapping[str, Any]  # of the learner in tests


def demo(
    out: Path = Path("runs/demo"),
    *,
    seed: int = 0,
    steps: int | None = None,
    n_tasks: int = 200,
) -> Path:
    """Meta-train two learners on alphabets and test them on unseen ones.

    It takes a few minutes on two cores and writes an HTML report. The same command resumes an
    interrupted demo.

    Example: quickstudy demo

    Args:
        out: Folder of the two runs and of `report.html`.
        seed: Seed of meta-training. The tests are the same for every seed.
        steps: Steps of meta-training. Default: those of the recipes.
        n_tasks: Number of tasks behind each number.
    """
    if n_tasks < 1:
        raise ValueError(f"n_tasks={n_tasks}: give at least one task.")
    folder = Path(out)
    settings = {"seed": seed} | ({} if steps is None else {"steps": steps})
    trained = {title: _trained(name, settings, folder) for title, name in RECIPES.items()}
    validations = {title: runs.best_validation(run.history) for title, run in trained.items()}
    scores = {title: row["score"] for title, row in validations.items() if row is not None}
    best = max(scores or trained, key=lambda title: scores.get(title, 0.0))

    contestants: dict[str, Contestant] = {}
    for title, run in trained.items():
        contestants[title] = _contestant(
            run.experiment, f"step {run.start}, best of {len(run.history)} validations"
        )
    contestants[PIXELS] = Contestant(
        PrototypicalNetwork(nn.Flatten()), "nothing is trained", {}
    )
    for title, run in trained.items():
        torch.manual_seed(seed)
        contestants[f"{title}, untrained"] = _contestant(
            runs.find(run.recipe).recipe(**run.settings), "step 0"
        )

    scripts = trained[best].experiment.benchmarks  # their tasks are those of the other, too
    benchmarks = {name.replace(f"{WAYS}-way", "new scripts,"): b for name, b in scripts.items()}
    benchmarks[DIGITS] = replace(
        next(iter(benchmarks.values())), tasks=FewShot(datasets.digits(size=28), WAYS, 5, 5)
    )
    reports = {
        title: {
            name: _evaluated(f"{title}: {name}", contestant, benchmark, n_tasks)
            for name, benchmark in benchmarks.items()
        }
        for title, contestant in contestants.items()
    }
    _print(reports)
    path = folder / "report.html"
    path.write_text(_page(trained, best, benchmarks, reports), "utf-8")
    print(path)
    return path


def _trained(name: str, settings: Mapping[str, Any], folder: Path) -> Run:
    """The best checkpoint of a run, which is started or resumed if it is not finished."""
    run = runs.start(name, settings, folder / name)
    console.show(run, runs.go(run))
    return runs.reopen(run.folder)


def _contestant(experiment: Experiment, selection: str) -> Contestant:
    """The learner of a recipe, with the settings that the recipe tests it with."""
    settings = next(iter(experiment.benchmarks.values())).settings
    for name, value in settings.items():
        setattr(experiment.learner, name, value)
    return Contestant(experiment.learner, selection, settings)


def _evaluated(
    title: str, contestant: Contestant, benchmark: Benchmark, n_tasks: int
) -> Report:
    learner, selection, settings = contestant
    with console.bar(title, n_tasks) as advance:
        report = evaluate(
            learner,
            benchmark.tasks,
            n_tasks=n_tasks,
            meta_batch_size=benchmark.meta_batch_size,
            selection=selection,
            progress=advance,
        )
    return Report(report.values, {**report.card, "learner": dict(settings)})


def _head(reports: Reports) -> list[str]:
    names = list(reports[PIXELS])
    return ["", *names, f"above pixels, {names[0].split()[-1]}"]


def _rows(reports: Reports) -> list[list[str]]:
    """A row for each learner. The last cell is its paired difference from pixels."""
    rows = []
    for title, by_test in reports.items():
        numbers = [
            f"{100 * report.mean('accuracy'):.1f} ± {100 * report.interval('accuracy'):.1f}"
            for report in by_test.values()
        ]
        first = next(iter(by_test))
        gain = by_test[first].paired_difference(reports[PIXELS][first])
        difference = f"{100 * gain.mean:+.1f} ± {100 * gain.interval:.1f}"
        rows.append([title, *numbers, "" if title == PIXELS else difference])
    return rows


def _print(reports: Reports) -> None:
    shown = Table(
        title=TITLE, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, title in enumerate(_head(reports)):
        shown.add_column(title.replace(", ", "\n"), justify="right" if i else "left")
    for row in _rows(reports):
        shown.add_row(*row)
    Console().print(shown)


def _page(
    trained: Mapping[str, Run], best: str, benchmarks: Mapping[str, Benchmark], reports: Reports
) -> str:
    learner = trained[best].experiment.learner
    first = next(iter(benchmarks))
    times = " and ".join(format_duration(run.seconds) for run in trained.values())
    shares = {
        title: format_mean("accuracy", report.mean("accuracy"), report.interval("accuracy"))
        for title, report in ((t, reports[t][DIGITS]) for t in (best, PIXELS))
    }
    digits = (
        f"{best} was better on the validation scripts, so it goes on to scikit-learn's "
        f"handwritten digits. From five examples of each, it classifies {shares[best]} of "
        f"others correctly; comparing pixels classifies {shares[PIXELS]}. It was meta-trained "
        "on printed letters only, and adapts to digits as it does to new letters."
    )
    cards = {
        f"{title}: {name}": report.card
        for title, by_test in reports.items()
        for name, report in by_test.items()
    }
    hardware = runs.hardware()
    return page(
        "Learning to learn letters",
        ABOUT,
        section(
            "Accuracy on unseen classes",
            figure(
                lambda axes, palette: _draw(axes, palette, reports),
                "accuracy of each learner",
                (7.5, 3.6),
            ),
            paragraph(TITLE),
            table(_head(reports), _rows(reports)),
            paragraph(f"Meta-training took {times}."),
        ),
        section(
            "Handwritten digits",
            paragraph(digits, "text"),
            draw_episode(learner, benchmarks[DIGITS]),
        ),
        section(f"{first[0].upper()}{first[1:]}", draw_episode(learner, benchmarks[first])),
        *(
            section(f"Learning curves: {title}", draw_curves(run.history))
            for title, run in trained.items()
        ),
        section("Protocol", protocol_table(cards)),
        *(
            section(
                f"Settings: {title}",
                circumstances(
                    {
                        "settings": run.settings,
                        "steps": run.experiment.steps,
                        "checkpoint": run.start,
                        "seconds": run.seconds,
                        "hardware": hardware,
                    }
                ),
            )
            for title, run in trained.items()
        ),
    )


def _draw(axes: Axes, palette: Palette, reports: Reports) -> None:
    """A line for each learner, a mark for each test."""
    places = np.arange(len(reports))[::-1]
    colours = (palette["main"], palette["ink"], palette["other"])
    for i, name in enumerate(next(iter(reports.values()))):
        column = [by_test[name] for by_test in reports.values()]
        axes.errorbar(
            [100 * report.mean("accuracy") for report in column],
            places + 0.2 * (1 - i),
            xerr=[100 * report.interval("accuracy") for report in column],
            fmt="osD"[i],
            markersize=6,
            color=colours[i],
            label=name,
        )
    axes.axvline(100 / WAYS, color=palette["frame"], linestyle=":", label="chance")
    axes.set_yticks(places, list(reports))
    axes.set(xlabel="accuracy (%)", xlim=(0, 101))
    legend(axes, palette, ncols=4, bbox_to_anchor=(0.4, 1.0), fontsize=8)
