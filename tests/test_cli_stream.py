"""`quickstudy stream`: what it shows and stores, Ctrl-C, and the report of such a run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from quickstudy import console, runs
from quickstudy.cli.app import main
from quickstudy.evaluation import StreamReport
from quickstudy.reports.write import write

RECIPE = '''"""Tiny streams."""

from functools import partial

import torch

import quickstudy as qs
from quickstudy.datasets import Labelled, split_examples
from quickstudy.runs import Benchmark, Experiment


def recipe(*, steps: int = 0, lr: float = 0.05, seed: int = 0) -> Experiment:
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randint(0, 200, (6, 1, 1, 8, 8), generator=generator)
    noise = torch.randint(0, 56, (6, 10, 1, 8, 8), generator=generator)
    x = (patterns + noise).to(torch.uint8).flatten(0, 1)
    y = torch.arange(6).repeat_interleave(10)
    train, test = split_examples(Labelled(x, y, tuple("abcdef"), name="patterns"), 0.8)
    learner = qs.ExperienceReplay(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6)), lr=lr, memory_size=12
    )
    streams = qs.tasks.Streams(partial(qs.tasks.class_incremental, train, test, examples=7))
    known = partial(qs.evaluation.stream_report, task_incremental=True)
    tests = {
        "all": Benchmark(streams, n_tasks=2),
        "task known": Benchmark(streams, n_tasks=1, evaluate_fn=known),
    }
    return Experiment(
        learner,
        streams,
        streams,
        tests,
        torch.optim.Adam(learner.parameters(), 1e-3),
        steps,
        2,
        validate_every=2,
        n_validation_tasks=2,
    )
'''

PLAIN = RECIPE.replace(
    "Benchmark(streams, n_tasks=2)", "Benchmark(qs.Sinusoid(), n_tasks=2)"
).replace(
    "Benchmark(streams, n_tasks=1, evaluate_fn=known)", "Benchmark(qs.Sinusoid(), n_tasks=1)"
)
ROWS = {"all", "task known"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    file = tmp_path / "tiny.py"
    file.write_text(RECIPE)

    def call(verb: str, *arguments: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([verb, *([str(file)] * (verb != "compare")), *map(str, arguments)])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def numbers(result: Any) -> Any:
    """What is measured, but for time."""
    return {
        row: {m: v for m, v in found.items() if m not in ("card", "milliseconds per example")}
        for row, found in result["measured"].items()
    }


def test_a_stream_is_followed_shown_and_stored(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    code, output, shown = run("stream", "--out", out, "--json")
    assert code == 0, shown
    result = json.loads(output)
    assert result["measured"].keys() == ROWS and result["steps"] == 0
    assert result["milliseconds"].keys() == ROWS
    lines = [line for line in shown.splitlines() if "experience" in line]
    assert len(lines) == 2 * 4  # of both rows three experiences, and the start
    assert lines[2].startswith("all: mean of 2 streams, experience 2 of 3, accuracy of all")
    assert lines[-1].startswith(
        "task known: stream 1, experience 3 of 3, accuracy of all so far"
    )
    row = result["measured"]["all"]
    assert row["card"]["known task"] is False and row["card"]["streams"] == 2
    assert row["card"]["selection"] == "step 0"
    assert result["measured"]["task known"]["card"]["known task"] is True
    assert row["accuracy"]["values"] and row["forgetting"]["values"]
    whole = StreamReport.from_json(json.loads((out / "streams" / "all.json").read_text()))
    assert whole.matrix.shape == (2, 4, 3)
    assert whole.report.mean("accuracy") == pytest.approx(row["accuracy"]["mean"], abs=1e-5)

    # Ctrl-C at the seventh line, in the second row; then the same command
    heading, calls = console.heading, list[int]()

    def interrupted(*arguments: Any) -> str:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return heading(*arguments)

    monkeypatch.setattr(console, "heading", interrupted)
    other = tmp_path / "other"
    code, _, shown = run("stream", "--out", other)
    assert code == 130 and "Progress is saved. Continue with: quickstudy stream" in shown
    code, output, shown = run("stream", "--out", other)
    assert code == 0 and "all: accuracy" in output
    assert "experience 1 " not in shown and "known: stream 1, experience 3" in shown
    again = runs.result(other)
    assert numbers(again) == numbers(result)

    # by `train` the same, with nothing shown; and longer, by other weights, anew
    code, output, shown = run("train", "--out", tmp_path / "quiet")
    assert code == 0 and "experience" not in shown
    assert numbers(runs.result(tmp_path / "quiet")) == numbers(result)
    code, _, shown = run("train", "--out", out, "--steps", 2)
    assert code == 0, shown
    longer = runs.result(out)
    assert longer["measured"]["all"]["card"]["selection"] == "step 2, best of 1 validations"
    folders = {each.name for each in (out / "streams" / "all").iterdir()}
    assert folders == {"step-00000000-of-0", "step-00000002-of-1"}
    code, output, _ = run("compare", out, other)
    assert code == 0 and "of tasks" in output

    page = write(other).read_text()
    assert "Forgetting: all" in page and "Forgetting: task known" in page
    assert "Predictions" not in page and "The first of 2 streams." in page


def test_what_is_no_recipe_of_streams_is_said(run: Any, tmp_path: Path):
    (tmp_path / "tiny.py").write_text(PLAIN)
    code, _, shown = run("stream", "--out", tmp_path / "run")
    assert code == 2 and "no benchmark on streams. Use `quickstudy train" in shown


def test_help_without_a_recipe(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["stream", "--help"])
    assert stop.value.code == 0 and "usage: quickstudy stream RECIPE" in capsys.readouterr().out


def after_two(tests: int) -> StreamReport:
    scores = torch.full((1, tests + 1, tests), torch.nan, dtype=torch.float64)
    scores[0, :3] = torch.arange(tests) / tests
    learned = torch.full((1, tests), torch.nan, dtype=torch.float64)
    learned[0, :2] = 1.0
    return StreamReport(scores, learned, learned, learned)


@pytest.mark.parametrize("tests", [4, 30])
def test_the_matrix_of_a_terminal(tests: int):
    found = after_two(tests)
    terminal = Console(width=120, record=True, force_terminal=True, color_system="truecolor")
    with terminal.capture() as caught:
        terminal.print(console.matrix("row", found))
    text = caught.get()
    assert "row: stream 1, experience 2 of" in text
    assert f"{100 / tests:.3g}" in text and "\x1b[" in text
    lines = text.strip().splitlines()
    assert len(lines) == (4 if tests == 4 else 2)


def test_a_terminal_keeps_the_last_matrix_of_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.streaming() as show:
        show("first", after_two(4))
        show("second", after_two(4))
    text = capsys.readouterr().err
    assert "first: stream 1" in text.split("second: stream 1")[0]
