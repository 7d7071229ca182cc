"""SIGTERM stops a run as Ctrl-C does: what was done is saved."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quickstudy import runs
from quickstudy.cli import app
from quickstudy.runs.host import interrupts_deferred
from tests.faults.test_resumed_runs import RECIPE, trained


def recipe(place: Path) -> str:
    file = place / "tiny.py"
    file.write_text(RECIPE)
    return str(file)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_last_whole_step(tmp_path: Path, number: int, code: int):
    name, out = recipe(tmp_path), tmp_path / "run"
    command = [sys.executable, "-m", "quickstudy", "train", name, "--out", str(out)]
    settings = ["--schedule", "none", "--steps", "100000", "--execution", "recipe"]
    child = subprocess.Popen(
        command + settings,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("step-*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert f"Continue with: quickstudy train {name}" in err and "Traceback" not in err
    latest = max(out.glob("step-*"))
    reached = json.loads((latest / "run.json").read_text())["facts"]["step"]
    trained(name, tmp_path / "straight", steps=reached, schedule="none")
    (straight,) = (tmp_path / "straight").glob(f"step-{reached:08d}/learner-*")
    assert straight.name in {file.name for file in latest.iterdir()}  # named by its contents


def test_a_script_is_stopped_after_the_step_and_exits_with_143(tmp_path: Path):
    run = runs.start(recipe(tmp_path), {"steps": 50}, tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        for status in runs.go(run):
            if status.step == 3:
                signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143
    latest = run.checkpoints.latest()
    assert latest is not None and latest.name == "step-00000004"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_come_back(number: int):
    before = signal.getsignal(number)
    with interrupts_deferred() as interrupted:
        assert interrupted() is None
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_the_second_signal_stops_at_once():
    with pytest.raises(SystemExit, match="143"), interrupts_deferred() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert isinstance(interrupted(), KeyboardInterrupt)
        signal.raise_signal(signal.SIGTERM)


def test_in_another_thread_signals_are_left_alone():
    answers = list[object]()

    def work() -> None:
        with interrupts_deferred() as interrupted:
            answers.append(interrupted())
        with pytest.raises(SystemExit):
            app.main(["--version"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [None]


def test_a_command_that_trains_nothing_exits_with_143_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(app, "_dispatch", lambda given: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        app.main(["list"])
    assert stop.value.code == 143 and capsys.readouterr().err == "Stopped.\n"
    assert signal.getsignal(signal.SIGTERM) is before
