"""A run as one HTML file: results, protocol, and figures."""

import inspect
from pathlib import Path

from quickstudy.core.task import Json
from quickstudy.reports.adaptation import draw_adaptation
from quickstudy.reports.attention import draw_attention
from quickstudy.reports.curves import draw_curves
from quickstudy.reports.embedding import draw_embedding
from quickstudy.reports.episode import draw_episode
from quickstudy.reports.forgetting import draw_forgetting
from quickstudy.reports.functions import draw_functions
from quickstudy.reports.html import page, section
from quickstudy.reports.retrieval import draw_retrieval
from quickstudy.reports.rl_paths import draw_paths
from quickstudy.reports.tables import circumstances, protocol_table, results_table
from quickstudy.runs import Run, find, hardware, published, reopen
from quickstudy.runs import result as read_result
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.tasks.streams import Streams


def write(run: Run | str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run's best checkpoint and return its path.

    Args:
        run: A run, or its folder.
        path: File of the report. Default: report.html in the folder of the run.

    Raises:
        CheckpointError: The run has no checkpoint yet.

    Examples:
        >>> import tempfile
        >>> from quickstudy import runs
        >>> run = runs.start("sinusoid", {"steps": 0}, tempfile.mkdtemp())
        >>> for status in runs.go(run):
        ...     pass
        >>> write(run).name  # doctest: +SKIP
        'report.html'
    """
    folder = Path(run.folder if isinstance(run, Run) else run)
    result, best = _result(folder), reopen(folder)
    learner, benchmarks = best.experiment.learner, best.experiment.benchmarks
    episodes = {
        row: benchmark
        for row, benchmark in benchmarks.items()
        if not isinstance(benchmark.tasks, Streams | Rollouts)
    }
    measured = result["measured"]
    parts = [section("Results", results_table(measured, result["paper"]))]
    for row, first in list(episodes.items())[:1]:
        parts += [
            section(
                f"Predictions: {row}",
                draw_episode(learner, first),
                draw_functions(learner, first),
            ),
            section("Embedding", draw_embedding(learner, first)),
            section("Memory", draw_attention(learner, first)),
            section("Retrieved tasks", draw_retrieval(learner, first)),
            section("Inside the adaptation", draw_adaptation(learner, episodes)),
        ]
    parts += [section(f"Paths: {row}", draw_paths(learner, b)) for row, b in benchmarks.items()]
    parts += [section(f"Forgetting: {row}", draw_forgetting(folder, row)) for row in benchmarks]
    parts += [
        section("Learning curves", draw_curves(result["history"], best.experiment.better)),
        section(
            "Protocol", protocol_table({row: entry["card"] for row, entry in measured.items()})
        ),
        section("Settings, hardware and time", circumstances(result)),
    ]
    target = folder / "report.html" if path is None else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(result["recipe"], result["about"], *parts), encoding="utf-8")
    return target


def _result(folder: Path) -> dict[str, Json]:
    """The `result.json` of a run, or as much of it as an unfinished run has."""
    if (folder / "result.json").exists():
        return read_result(folder)
    run = reopen(folder, which="last")
    module = find(run.recipe)
    return {
        "recipe": Path(run.recipe).stem,
        "about": inspect.getdoc(module),
        "paper": published(module, run.settings),
        "measured": {},
        "settings": run.settings,
        "steps": run.start,
        "seconds": run.seconds,
        "hardware": hardware(),
        "history": run.history,
    }
