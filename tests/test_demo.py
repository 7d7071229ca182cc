"""The demo from end to end, and what is shown meanwhile."""

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quickstudy import runs
from quickstudy.cli.demo import PIXELS, demo
from quickstudy.console import bar, show
from quickstudy.evaluation.formatting import format_duration, format_mean
from quickstudy.evaluation.report import Report
from quickstudy.runs import Status
from quickstudy.storage.checkpoint_series import Checkpoints


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in the place of stderr; called in tests, as pytest sets stderr before each."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    return terminal


def a_run(steps: int = 4) -> Any:
    experiment = SimpleNamespace(steps=steps)
    return SimpleNamespace(folder=Path("somewhere/a_run"), start=0, experiment=experiment)


def statuses(steps: int = 4) -> Any:
    for step in range(1, steps + 1):
        report = Report({"accuracy": torch.tensor([0.5, 1.0])}) if step == steps else None
        yield Status(step, 2.0 / step, 8 * step, 0.5 * step, report)


def test_demo_end_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = demo(tmp_path, steps=3, n_tasks=8)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == str(path)
    assert "step 3 of 3" in shown.err

    html = path.read_text(encoding="utf-8")
    for title in ("Prototypical net", "First-order MAML", PIXELS):
        row = re.search(rf"<th>{title}</th><td>([^<]*)</td>", html)
        assert row is not None
        assert row[1] in shown.out
    assert "GREEK" in html or "GEORGIAN" in html or "HEBREW" in html or "ARABIC" in html
    assert "transductive" in html
    assert "http" not in html

    # the second call trains nothing and measures the same
    before = {
        name: Checkpoints(tmp_path / name).latest()
        for name in ("glyphs_protonet", "glyphs_fomaml")
    }
    demo(tmp_path, steps=3, n_tasks=8)
    again = capsys.readouterr()
    assert {
        name: Checkpoints(tmp_path / name).latest()
        for name in ("glyphs_protonet", "glyphs_fomaml")
    } == before
    assert again.out == shown.out
    assert "step 3" not in again.err


@pytest.mark.parametrize("name", ["glyphs_protonet", "glyphs_fomaml"])
def test_recipes_never_choose_by_test_scripts(name: str) -> None:
    experiment: Any = runs.find(name).recipe(steps=1)
    splits = [experiment.train.dataset, experiment.validation.dataset]
    splits += [test.tasks.dataset for test in experiment.benchmarks.values()]
    assert [part.split for part in splits] == ["train", "validation", "test", "test"]
    scripts = [set(part.group_names) for part in splits[:3]]
    assert not scripts[0] & scripts[1] | scripts[0] & scripts[2] | scripts[1] & scripts[2]


def test_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    show(a_run(), statuses())
    shown = capsys.readouterr()
    assert shown.out == ""
    loss = (2 + 1 + 2 / 3 + 1 / 2) / 4
    assert shown.err == (
        f"a_run: step 4 of 4, loss {loss:.4f}, validation accuracy 75.00 ± 317.66 %, "
        "16 tasks/s\n"
    )


def test_other_processes_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    show(a_run(), statuses())
    assert capsys.readouterr() == ("", "")


def test_terminal_sees_bar_loss_and_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = watch(monkeypatch)
    show(a_run(), statuses())
    shown = watched.getvalue()
    for part in ("a_run", "4/4", "loss", "validation accuracy 75.00", "16 tasks/s"):
        assert part in shown
    assert capsys.readouterr().out == ""


def test_interrupted_run_is_closed_before_the_error_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = []

    def training() -> Any:
        try:
            yield from statuses()
        except GeneratorExit:
            saved.append(True)
            raise

    def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("quickstudy.console._best", interrupt)
    with pytest.raises(KeyboardInterrupt):
        show(a_run(), training())
    assert saved == [True]


@pytest.mark.parametrize(("seconds", "appears"), [(0.0, False), (3.0, True)])
def test_bar_appears_when_it_takes_longer(
    monkeypatch: pytest.MonkeyPatch, seconds: float, appears: bool
) -> None:
    watched, now = watch(monkeypatch), time.monotonic()
    monkeypatch.setattr("quickstudy.console.time.monotonic", lambda: now)
    with bar("measuring", 10) as advance:
        now += seconds
        advance(5)
        advance(10)
    assert ("measuring" in watched.getvalue()) == appears


def test_bar_is_quiet_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickstudy.console.PATIENCE", -1)
    with bar("measuring", 10) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")


def test_numbers_as_people_read_them() -> None:
    assert format_mean("accuracy", 0.98765, 0.004) == "98.77 ± 0.40 %"
    assert format_mean("squared_error", 0.32712, 0.0281) == "0.3271 ± 0.028"
    assert format_mean("accuracy", 1.0, float("nan")) == "100.00 %"
    assert [format_duration(s) for s in (5, 75, 3675)] == ["0:05", "1:15", "1:01:15"]
