"""Every template of docs/templates does what a thing of its kind must do."""

import doctest
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn

import quickstudy as qs
from quickstudy.cli import app
from quickstudy.datasets.files import Remote
from quickstudy.environments import Environment
from quickstudy.reports.html import page
from quickstudy.runs import Benchmark
from quickstudy.storage.files import file_sha256
from quickstudy.tasks import Rollouts
from quickstudy.testing import Blobs, check_actor, check_learner, check_tasks
from tests.environments import test_environments

FOLDER = Path(__file__).parents[1] / "docs" / "templates"
FILES = sorted(FOLDER.glob("*.py"))
ENVIRONMENT_CHECKS = [
    function
    for function in vars(test_environments).values()
    for mark in getattr(function, "pytestmark", ())
    if mark.args[0] == "environment"
]


def load(name: str) -> ModuleType:
    """A template as a module that pickle finds."""
    spec = importlib.util.spec_from_file_location(f"template_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_run(file: Path) -> None:
    assert "    Examples:\n        >>> " in file.read_text()
    assert not doctest.testmod(load(file.stem)).failed


def test_learner() -> None:
    torch.manual_seed(0)
    learner = load("learner").NearestExamples(nn.Linear(8, 8))
    check_learner(learner, Blobs(), declared={"additive"})


def test_actor() -> None:
    torch.manual_seed(0)
    grid = qs.environments.HiddenGoal(3, horizon=4)
    learner = load("actor").RecurrentReinforce(grid, hidden=8)
    check_actor(Rollouts(grid, learner, episodes=2, trial=True))


def test_task_distribution() -> None:
    check_tasks(load("task_distribution").HalfPlanes())


def test_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = load("data_set")
    file = tmp_path / "patterns" / template.FILE.name
    file.parent.mkdir()
    images = np.random.RandomState(0).randint(0, 256, (200, 8, 8), np.uint8)
    names = np.array(list("abcdefghij"))
    np.savez(file, images=images, label=np.arange(200) % 10, class_name=names)
    monkeypatch.setattr(template, "FILE", Remote(template.FILE.url, file_sha256(file)))
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))

    splits = template.patterns()
    assert [len(part.classes) for part in splits] == [6, 2, 2]
    task = qs.FewShot(splits.train, 5, 1, 3).sample(4, Generator().manual_seed(0))
    assert task.query.x.shape == (4, 15, 1, 8, 8)

    file.write_bytes(b"another file")
    with pytest.raises(ValueError, match="sha256"):
        template.patterns()


@pytest.fixture
def corridor() -> Environment:
    return load("environment").Corridor(3, horizon=5)


def test_environment_in_a_rollout(corridor: Environment) -> None:
    learner = qs.RL2(corridor, hidden=4)
    trials = Rollouts(corridor, learner, episodes=2, trial=True)
    task = trials.sample(4, Generator().manual_seed(0))
    # an episode that does not end at the goal goes on to the horizon
    lengths = task.query.weight.sum(-1)
    ended = (task.query.done * task.query.weight).sum(-1)
    assert ((lengths == 5) | (ended == 1)).all()


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_environment(
    check: Callable[..., None], corridor: Environment, request: pytest.FixtureRequest
) -> None:
    fixtures = [name for name in inspect.signature(check).parameters if name != "environment"]
    check(corridor, **{name: request.getfixturevalue(name) for name in fixtures})


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("command")
    monkeypatch.setitem(sys.modules, "quickstudy.cli.classes", module)
    monkeypatch.setitem(app.COMMANDS, "classes", "classes.classes")

    def run(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            app.main(["classes", *arguments])
        out, error = capsys.readouterr()
        return stop.value.code, out, error

    assert run("digits")[1].startswith("0: 178\n1: ")
    code, out, _ = run("digits", "--json")
    assert code == 0 and sum(json.loads(out).values()) == 1797
    code, _, error = run("digts")
    assert code == 2 and "Did you mean 'digits'?" in error
    assert "Count the examples" in run("--help")[1]


def test_figure() -> None:
    learner = qs.MAML(nn.Linear(1, 1), criterion=qs.squared_error)
    draw = load("figure").draw_losses
    html = page("Waves", None, draw(learner, Benchmark(qs.Sinusoid(), meta_batch_size=8)))
    assert html.count("data:image/png") == 2  # for light and dark readers
    assert draw(learner, Benchmark(qs.Sinusoid(), meta_batch_size=1)) == ""
