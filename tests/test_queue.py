"""`quickstudy reproduce --queue`: the order, the budget, what is recorded, and kills."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

from quickstudy import runs
from quickstudy.cli.app import main
from quickstudy.runs.queue import FOLDER

RECIPE = '''"""Sine waves, for tests."""

from typing import Literal

import torch

import quickstudy as qs
from quickstudy.runs import Benchmark, Experiment

RESULT = "waves_{learner}"
TRAINING = {"steps": 100, "meta_batch_size": 4}
PAPER = {
    "waves_maml": {"5 shots": {"squared_error": 1e-6, **TRAINING}},
    "waves_fomaml": {"5 shots": {"squared_error": 1e-6}},
    "waves_anil": {"5 shots": {"squared_error": 1e6}},
    "waves_lost": {"5 shots": {"squared_error": 1e-6}},
}


def recipe(
    *,
    learner: Literal["maml", "fomaml", "anil", "boil", "lost"] = "maml",
    steps: int | None = None,
    seed: int = 0,
) -> Experiment:
    if learner == "lost":
        raise FileNotFoundError("There are no waves here: set QUICKSTUDY_DATA.")
    net = qs.nets.MLP(1, 1, hidden=(4,))
    model = getattr(qs, learner.replace("maml", "MAML") if learner == "maml" else learner)(
        net, criterion=qs.squared_error
    )
    tasks = qs.Sinusoid(5, 5)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    return Experiment(
        model,
        tasks,
        tasks,
        {"5 shots": Benchmark(tasks, n_tasks=4)},
        adam,
        5 if steps is None else steps,
        2,
        metrics={"squared_error": qs.squared_error},
        better="min",
        validate_every=1_000_000,
        n_validation_tasks=2,
    )
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one recipe of several results."""
    (tmp_path / "recipes" / "results").mkdir(parents=True)
    (tmp_path / "recipes" / "waves.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quickstudy.runs.recipes.folders", lambda: [tmp_path / "recipes"])
    monkeypatch.setattr(os, "nice", lambda increment: 0, raising=False)  # not of the tests
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def record(place: Path, learner: str, steps: int, mean: float, **more: Any) -> None:
    """Store a result as if it had been measured."""
    content = {
        "recipe": "waves",
        "settings": {"learner": learner, "steps": steps, "seed": 0},
        "steps": steps,
        "size": 2,
        "seconds": 2.0 * steps,
        "better": "min",
        "measured": {"5 shots": {"squared_error": {"mean": mean, "interval": 0.1}, "card": {}}},
    }
    file = place / "recipes" / "results" / f"waves_{learner}.json"
    file.write_text(json.dumps(content | more))


def stored(place: Path, learner: str) -> Any:
    return json.loads((place / "recipes" / "results" / f"waves_{learner}.json").read_text())


def queue(*options: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "--queue", *map(str, options)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def names(rows: list[runs.Row]) -> list[str]:
    return [row.name.removeprefix("waves_") for row in rows]


def test_missing_results_come_first_then_the_largest_gap(place: Path) -> None:
    record(place, "maml", 8, 1.0)
    record(place, "fomaml", 8, 3.0)
    record(place, "anil", 8, 2.0)  # better than published
    record(place, "boil", 8, 2.0)  # nothing is published
    rows = runs.remaining()
    assert names(rows) == ["lost", "fomaml", "maml"]
    lost, fomaml, maml = rows
    assert lost.gap == math.inf and lost.recorded == 0 and lost.seconds_left is None
    assert fomaml.gap == pytest.approx((3.0 - 1e-6) / 1e-6) and fomaml.fraction is None
    # 8 steps of 2 tasks are 4 % of 100 steps of 4; four times as many are next, at 2 s each
    assert maml.fraction == 0.04 and maml.steps == 32 and maml.seconds_left == 64.0
    assert maml.settings == {"learner": "maml", "steps": 32, "seed": 0}
    assert names(runs.remaining(["waves_maml"])) == ["maml", "lost", "fomaml"]
    assert names(runs.remaining(only=["waves_fomaml", "waves_anil"])) == ["fomaml"]


def test_training_is_at_most_as_long_as_the_papers(place: Path) -> None:
    record(place, "maml", 60, 1.0)
    (row,) = runs.remaining(only=["waves_maml"])
    assert row.steps == 200  # of 2 tasks, as many as 100 of 4
    record(place, "maml", 200, 1.0)
    assert runs.remaining(only=["waves_maml"]) == []
    record(place, "maml", 30, 1.0, planned_steps=50)  # was stopped
    (row,) = runs.remaining(only=["waves_maml"])
    assert row.steps == 30 and row.settings["steps"] == 30


def test_a_result_that_is_not_finite_has_the_largest_gap(place: Path) -> None:
    content = {"measured": {"5": {"return": {"mean": None}}, "9": {"return": {"mean": -21.0}}}}
    paper = {"5": {"return": -20.0, "interval": 3.0}, "9": {"return": -20.0}}
    assert runs.largest_gap(content, paper) == math.inf
    del paper["5"]
    assert runs.largest_gap(content, paper) == pytest.approx(0.05)
    assert runs.largest_gap(content, {}) is None


def test_the_queue_trains_until_nothing_is_left(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(place, "maml", 50, 1.0)
    record(place, "fomaml", 8, 1e-9)
    assert queue("--first", "waves_anil") == 0
    shown = capsys.readouterr().err
    # anil and maml are trained, lost has no data, fomaml is as good as published
    order = [line.split(":")[0] for line in shown.splitlines() if " results wait" in line]
    assert order == ["waves_anil", "waves_lost", "waves_maml"]
    assert "waves_lost is skipped: There are no waves here: set QUICKSTUDY_DATA." in shown
    assert "Nothing is left to train." in shown
    maml = stored(place, "maml")
    assert maml["steps"] == 200 == maml["planned_steps"] and maml["paper_fraction"] == 1.0
    assert maml["hardware"]["threads"] == 1
    assert stored(place, "anil")["steps"] == 5  # those of the recipe
    assert stored(place, "fomaml")["steps"] == 8


def test_rows_take_turns(place: Path) -> None:
    first = ["waves_maml", "waves_fomaml"]
    assert names(runs.remaining(first))[:2] == ["maml", "fomaml"]
    finished = FOLDER / "waves_maml-5" / "result.json"
    finished.parent.mkdir(parents=True)
    content = {"recipe": "waves", "settings": {}, "planned_steps": 5}
    finished.write_text(json.dumps(content | {"steps": 5}))
    assert names(runs.remaining(first))[:2] == ["fomaml", "maml"]
    finished.write_text(json.dumps(content | {"steps": 3}))
    assert names(runs.remaining(first))[:2] == ["maml", "fomaml"]


def test_a_budget_of_nothing_trains_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert queue("--budget", "0") == 0
    assert "The budget is over" in capsys.readouterr().err
    assert not list(FOLDER.glob("*/")) and not list((place / "recipes/results").glob("*"))


def test_the_end_of_the_budget_records_what_was_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(0.0, 0.1)  # the clock is read after each step
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("quickstudy.cli.reproduce.time", clock)
    record(place, "fomaml", 10**6, 1.0)
    record(place, "maml", 1, 1.0, planned_steps=3, settings={"learner": "maml", "steps": 10**6})
    assert queue("--budget", "2s", "waves_maml") == 0
    first = stored(place, "maml")
    assert 1 < first["steps"] < 20 and first["planned_steps"] == 10**6
    assert first["paper_fraction"] == first["steps"] / 200
    assert queue("--budget", "2s", "waves_maml") == 0
    assert first["steps"] < stored(place, "maml")["steps"] < 40
    # less than what is recorded: saved, but not recorded
    assert queue("--budget", "2s", "waves_fomaml") == 0
    assert stored(place, "fomaml")["seconds"] == 2.0 * 10**6
    (run,) = FOLDER.glob("waves_fomaml-*/step-*")
    assert int(run.name.removeprefix("step-")) > 0


def test_a_second_queue_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FOLDER.mkdir(parents=True)
    with FileLock(FOLDER / "queue.lock"):
        assert queue() == 2
        assert "Another queue is training" in capsys.readouterr().err
        assert queue("--dry-run") == 0
    assert queue("waves_anil") == 0


def test_a_dry_run_lists_and_trains_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(place, "maml", 8, 1.0)
    assert queue("--dry-run", "--first", "waves_maml") == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.startswith("Result") and head.endswith("Time")
    assert row.split() == ["waves_maml", "99999900.0%", "8", "4.00%", "32", "1:04"]
    assert not FOLDER.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queue", "--budget", "soon"], "'soon' is no duration"),
        (["--queue", "--jobs", "0"], "give 1 or more"),
        (["--queue", "waves_mamll"], "Did you mean 'waves_maml'?"),
        (["--queue", "--first", "waves_mamll"], "Did you mean 'waves_maml'?"),
        (["--budget", "2h"], "belong to --queue"),
    ],
)
def test_a_wrong_option_gets_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err


START = """
import sys
from pathlib import Path
from quickstudy.runs import meta_training, recipes

meta_training.SAVE_EVERY = 0.0
recipes.folders = lambda: [Path("recipes").resolve()]

if __name__ == "__main__":  # not in the processes of jobs
    from quickstudy.cli.app import main
    main(sys.argv[1:])
"""


def start(place: Path, *options: str) -> subprocess.Popen[str]:
    """The queue in a process of its own."""
    (place / "start.py").write_text(START)
    command = [sys.executable, "start.py", "reproduce", "--queue", *options]
    source = str(Path(runs.__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    return subprocess.Popen(
        command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for_a_save(result: str) -> int:
    """The step of the first checkpoint that is seen of a result."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for file in FOLDER.glob(f"{result}-*/step-*/run.json"):
            return int(file.parent.name.removeprefix("step-"))
        time.sleep(0.05)
    raise AssertionError("nothing was saved")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("SIGKILL", -9),
        ("SIGTERM", 143),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_killed_it_goes_on_where_it_was(place: Path, number: str, code: int) -> None:
    record(place, "maml", 1, 1.0, planned_steps=3, settings={"learner": "maml", "steps": 200})
    child = start(place, "waves_maml")
    saved = wait_for_a_save("waves_maml")
    child.send_signal(getattr(signal, number))
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert ("Continue with: quickstudy reproduce --queue waves_maml" in err) == (code > 0)
    assert stored(place, "maml")["steps"] == 1  # it is recorded when the budget ends
    assert queue("waves_maml") == 0
    killed = stored(place, "maml")
    assert killed["steps"] == 200 > saved
    settings = {"learner": "maml", "steps": 200}
    run = runs.start("waves", settings, place / "straight")
    for _ in runs.go(run, execution="recipe"):
        pass
    straight = runs.finish(run)
    assert killed["measured"] == straight["measured"]  # to the bit


def test_jobs_train_at_the_same_time(place: Path) -> None:
    both = ["waves_maml", "waves_fomaml"]
    for name in both:
        learner = name.removeprefix("waves_")
        settings = {"learner": learner, "steps": 10**6}
        record(place, learner, 1, 1.0, planned_steps=3, settings=settings)
    child = start(place, *both, "--jobs", "2")
    assert all(wait_for_a_save(name) > 0 for name in both)  # neither is finished
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 143 and "job-2.log" in err
    for name in both:
        FileLock(FOLDER / f"{name}.lock").acquire(timeout=0).lock.release()  # no job is left
