"""Learning to learn, watched: what `quickstudy demo` does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from torch import nn

from quickstudy import console, datasets
from quickstudy.console import said
from quickstudy.evaluation.protocol import evaluate
from quickstudy.evaluation.report import Report
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import PrototypicalNetwork
from quickstudy.reports import report
from quickstudy.runs import recipes
from quickstudy.runs.recipes import Benchmark, Experiment, Run
from quickstudy.tasks.few_shot import FewShot

RECIPES = {"Prototypical net": "glyphs_protonet", "First-order MAML": "glyphs_fomaml"}
PIXELS = "Nearest mean of pixels"
DIGITS = "digits, 5-shot"
WAYS = 10  # in every test, as FOMAML's net has so many outputs
TITLE = f"Accuracy in %, {WAYS}-way: mean over tasks ± 95 % interval"
ABOUT = """Two learners were meta-trained on letters of Latin, Cyrillic, Canadian syllabics and
Coptic, to learn new letters from one example of each. Here they learn letters of scripts that
they have never seen (Greek, Georgian, Hebrew, Arabic), and then handwritten digits.

Every number is the share of queries that were classified right, the mean over tasks with its
95 % interval. All learners had the same tasks. The baselines have learned nothing before a
task: one compares pixels with the mean picture of each class, the others are the same nets
before meta-training."""


class Contestant(NamedTuple):
    """What is measured in the demo."""

    learner: Learner[Any]
    selection: str  # how its weights were chosen
    settings: Mapping[str, Any]  # of the learner in tests


def demo(
    out: str | Path = Path("runs/demo"),
    *,
    seed: int = 0,
    steps: int | None = None,
    n_tasks: int = 200,
) -> Path:
    """Meta-trains two learners on letters, measures them on scripts that they have not seen and
    on handwritten digits, and writes an HTML report, whose path it returns.

    The same call goes on where an interrupted one stopped.

    Args:
        out: folder of the two runs and of `page.html`.
        seed: of meta-training; what is tested on stays the same.
        steps: of meta-training, fewer (or more) than the recipes have.
        n_tasks: tasks behind each number.
    """
    folder = Path(out)
    asked = {"seed": seed} | ({} if steps is None else {"steps": steps})
    runs = {title: _trained(name, asked, folder) for title, name in RECIPES.items()}
    better = max(runs, key=lambda title: max(entry["score"] for entry in runs[title].history))

    learners: dict[str, Contestant] = {}
    for title, run in runs.items():
        when = f"step {run.start}, best of {len(run.history)} validations"
        learners[title] = _contestant(run.experiment, when)
    learners[PIXELS] = Contestant(PrototypicalNetwork(nn.Flatten()), "nothing is trained", {})
    for title, run in runs.items():
        torch.manual_seed(seed)
        fresh = recipes.find(run.recipe).recipe(**run.settings)
        learners[f"{title}, untrained"] = _contestant(fresh, "step 0")

    of_better = runs[better].experiment.benchmarks  # their tasks are those of the other, too
    tests = {name.replace(f"{WAYS}-way", "new scripts,"): t for name, t in of_better.items()}
    digits = FewShot(datasets.digits(size=28), WAYS, 5, 5)
    tests[DIGITS] = replace(next(iter(tests.values())), tasks=digits)
    measured = {
        title: {
            name: _measured(f"{title}: {name}", contestant, test, n_tasks)
            for name, test in tests.items()
        }
        for title, contestant in learners.items()
    }
    _print(measured)
    path = folder / "report.html"
    path.write_text(_page(runs, better, tests, measured), "utf-8")
    print(path)
    return path


def _trained(name: str, settings: Mapping[str, Any], folder: Path) -> Run:
    """The best checkpoint of a run, which is begun or gone on with before, if need be."""
    run = recipes.start(name, settings, folder / name)
    console.show(run, recipes.go(run))
    return recipes.reopen(run.folder)


def _contestant(experiment: Experiment, selection: str) -> Contestant:
    """The learner of a recipe, with the settings that the recipe tests it with."""
    settings = next(iter(experiment.benchmarks.values())).settings
    for name, value in settings.items():
        setattr(experiment.learner, name, value)
    return Contestant(experiment.learner, selection, settings)


def _measured(title: str, contestant: Contestant, test: Benchmark, count: int) -> Report:
    learner, selection, settings = contestant
    options = {
        "n_tasks": count,
        "meta_batch_size": test.meta_batch_size,
        "selection": selection,
    }
    with console.bar(title, count) as advance:
        found = evaluate(learner, test.tasks, **options, progress=advance)
    return Report(found.values, {**found.card, "learner": dict(settings)})


def _head(measured: Mapping[str, Mapping[str, Report]]) -> list[str]:
    names = list(measured[PIXELS])
    return ["", *names, f"above pixels, {names[0].split()[-1]}"]


def _rows(measured: Mapping[str, Mapping[str, Report]]) -> list[list[str]]:
    """A row for each learner; the last cell compares it with pixels, task by task."""
    rows = []
    for title, reports in measured.items():
        numbers = [
            f"{100 * found.mean('accuracy'):.1f} ± {100 * found.interval('accuracy'):.1f}"
            for found in reports.values()
        ]
        first = next(iter(reports))
        gain = reports[first].paired_difference(measured[PIXELS][first])
        gained = f"{100 * gain.mean:+.1f} ± {100 * gain.interval:.1f}"
        rows.append([title, *numbers, "" if title == PIXELS else gained])
    return rows


def _print(measured: Mapping[str, Mapping[str, Report]]) -> None:
    shown = Table(
        title=TITLE, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, title in enumerate(_head(measured)):
        shown.add_column(title.replace(", ", "\n"), justify="right" if i else "left")
    for row in _rows(measured):
        shown.add_row(*row)
    Console().print(shown)


def _page(
    runs: Mapping[str, Run],
    better: str,
    tests: Mapping[str, Benchmark],
    measured: Mapping[str, Mapping[str, Report]],
) -> str:
    learner = runs[better].experiment.learner
    first = next(iter(tests))
    times = " and ".join(console.clock(run.seconds) for run in runs.values())
    shares = {
        title: said("accuracy", found.mean("accuracy"), found.interval("accuracy"))
        for title, found in ((t, measured[t][DIGITS]) for t in (better, PIXELS))
    }
    digits = (
        f"{better} was better on the validation scripts, so it goes on to scikit-learn's "
        f"handwritten digits. Shown five of each, it gets {shares[better]} of others right; "
        f"comparing pixels gets {shares[PIXELS]}. It was meta-trained on printed letters only: "
        "for digits it adapts, as it does for new letters."
    )
    protocol = {
        f"{title}: {name}": found.card
        for title, reports in measured.items()
        for name, found in reports.items()
    }
    circumstances = {
        title: report.facts(
            report.circumstances(
                {
                    "settings": run.settings,
                    "steps": run.experiment.steps,
                    "checkpoint": run.start,
                    "seconds": run.seconds,
                    "hardware": recipes.hardware(),
                }
            )
        )
        for title, run in runs.items()
    }
    return report.page(
        "Learning to learn letters",
        ABOUT,
        report.section(
            "Accuracy on what was never seen",
            report.figure(
                lambda axes, palette: _draw(axes, palette, measured),
                "accuracy of each learner",
                (7.5, 3.6),
            ),
            report.paragraph(TITLE),
            report.table(_head(measured), _rows(measured)),
            report.paragraph(f"Meta-training took {times}."),
        ),
        report.section(
            "Handwritten digits",
            report.paragraph(digits, "text"),
            report.picture(learner, tests[DIGITS]),
        ),
        report.section(f"{first[0].upper()}{first[1:]}", report.picture(learner, tests[first])),
        *(
            report.section(f"How it learned: {title}", report.curves(run.history))
            for title, run in runs.items()
        ),
        report.section("Protocol", report.cards(protocol)),
        *(report.section(f"Settings: {title}", text) for title, text in circumstances.items()),
    )


def _draw(
    axes: Axes, palette: Mapping[str, str], measured: Mapping[str, Mapping[str, Report]]
) -> None:
    """Every learner a line, every test a mark."""
    places = np.arange(len(measured))[::-1]
    colours = (palette["main"], palette["ink"], palette["other"])
    for i, name in enumerate(next(iter(measured.values()))):
        found = [reports[name] for reports in measured.values()]
        axes.errorbar(
            [100 * each.mean("accuracy") for each in found],
            places + 0.2 * (1 - i),
            xerr=[100 * each.interval("accuracy") for each in found],
            fmt="osD"[i],
            markersize=6,
            color=colours[i],
            label=name,
        )
    axes.axvline(100 / WAYS, color=palette["frame"], linestyle=":", label="chance")
    axes.set_yticks(places, list(measured))
    axes.set(xlabel="accuracy (%)", xlim=(0, 101))
    style = {"frameon": False, "labelcolor": palette["ink"], "fontsize": 8}
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, **style)
