"""A run that goes on under other circumstances than it was begun in."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import quickstudy as qs
from quickstudy import runs
from quickstudy.runs import runs as runs_module

RECIPE = '''"""A tiny recipe."""
import torch
import quickstudy as qs

def recipe(*, steps: int | None = None, schedule: str = "cosine", seed: int = 0):
    steps = 10 if steps is None else steps
    learner = qs.MAML(qs.nets.MLP(1, 1, hidden=(4,)), lr=0.01, criterion=qs.squared_error)
    adam = torch.optim.Adam(learner.parameters(), 1e-2)
    optimizer = qs.training.MultiEpoch(adam, 2) if schedule == "epochs" else adam
    schedules = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "epochs": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=steps),
        "none": lambda: None,
    }
    tasks = qs.Sinusoid(3, 3)
    rows = {"3-shot": qs.runs.Benchmark(tasks, n_tasks=4, meta_batch_size=4)}
    return qs.runs.Experiment(
        learner, tasks, tasks, rows, optimizer, steps, 2, scheduler=schedules[schedule](),
        validate_every=100, n_validation_tasks=2,
    )
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "tiny.py"
    file.write_text(RECIPE)
    return str(file)


def trained(recipe: str, folder: Path, **settings: Any) -> runs.Run:
    run = runs.start(recipe, settings, folder)
    for _ in runs.go(run):
        pass
    return run


def rate(run: runs.Run) -> float:
    return run.experiment.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("before", [{}, {"steps": 10}])  # 10 is the recipe's own number
@pytest.mark.parametrize("schedule", ["cosine", "epochs"])
def test_more_steps_have_the_schedule_of_so_many_steps(
    recipe: str, tmp_path: Path, schedule: str, before: dict[str, int]
):
    trained(recipe, tmp_path / "run", schedule=schedule, **before)
    with pytest.warns(UserWarning, match="begun with 10 steps and goes on to 40"):
        run = runs.start(recipe, {"schedule": schedule, "steps": 40}, tmp_path / "run")
    assert run.start == 10
    rates = [rate(run)]
    for _ in runs.go(run):
        rates.append(rate(run))
    expected = [1e-2 * (1 + math.cos(math.pi * step / 40)) / 2 for step in range(10, 41)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_what_a_schedule_changes_besides_the_rate_follows_too(recipe: str, tmp_path: Path):
    trained(recipe, tmp_path / "run", schedule="cycle")
    with pytest.warns(UserWarning, match="goes on to 40"):
        run = runs.start(recipe, {"schedule": "cycle", "steps": 40}, tmp_path / "run")
    for _ in runs.go(run):
        pass
    group = run.experiment.optimizer.param_groups[0]
    weight = torch.nn.Parameter(torch.zeros(1))
    alone = torch.optim.Adam([weight], 1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(alone, 0.1, total_steps=40)
    for _ in range(40):
        alone.step()
        cycle.step() if cycle.last_epoch < 40 else None
    assert group["lr"] == pytest.approx(alone.param_groups[0]["lr"])
    assert group["betas"] == pytest.approx(alone.param_groups[0]["betas"])


def test_a_run_that_is_stopped_and_goes_on_with_its_own_steps_is_as_without_a_break(
    recipe: str, tmp_path: Path
):
    whole = trained(recipe, tmp_path / "whole", steps=12)
    statuses = runs.go(runs.start(recipe, {"steps": 12}, tmp_path / "run"))
    for status in statuses:
        if status.step == 5:
            statuses.close()  # pyright: ignore
            break
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = trained(recipe, tmp_path / "run", steps=12)
    for a, b in zip(
        again.experiment.learner.parameters(),
        whole.experiment.learner.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_more_steps_without_a_schedule_are_as_many_at_once(recipe: str, tmp_path: Path):
    whole = trained(recipe, tmp_path / "whole", steps=12, schedule="none")
    trained(recipe, tmp_path / "run", steps=5, schedule="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = trained(recipe, tmp_path / "run", steps=12, schedule="none")
    for a, b in zip(
        again.experiment.learner.parameters(),
        whole.experiment.learner.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_fewer_steps_than_there_are_is_refused(recipe: str, tmp_path: Path):
    trained(recipe, tmp_path / "run", steps=6)
    with pytest.raises(ValueError, match="has 6 steps already: give --steps 6 or more"):
        runs.start(recipe, {"steps": 5}, tmp_path / "run")


def test_an_edited_recipe_is_named(recipe: str, tmp_path: Path):
    folder = tmp_path / "run"
    trained(recipe, folder, steps=4)
    Path(recipe).write_text(RECIPE.replace("lr=0.01", "lr=0.02"))
    with pytest.warns(UserWarning, match=r"tiny\.py was edited"):
        runs.reopen(folder)
    with pytest.warns(UserWarning, match=r"tiny\.py was edited"):
        run = runs.start(recipe, {"steps": 4}, folder)
    with pytest.warns(UserWarning, match=r"tiny\.py was edited"):
        runs.finish(run)


def test_an_edit_during_training_stays_known(recipe: str, tmp_path: Path):
    folder = tmp_path / "run"
    statuses = runs.go(runs.start(recipe, {"steps": 8}, folder))
    next(statuses)
    statuses.close()  # pyright: ignore
    Path(recipe).write_text(RECIPE + "\n# edited\n")
    with pytest.warns(UserWarning, match="was edited"):
        trained(recipe, folder, steps=8)  # its last checkpoint is of today's recipe
    with pytest.warns(UserWarning, match="was edited"):
        runs.reopen(folder)


def test_another_version_is_named(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "run"
    trained(recipe, folder, steps=4)
    monkeypatch.setattr(runs_module, "__version__", "9.9.9")
    with pytest.warns(UserWarning, match=r"quickstudy [\d.]+ trained it, and this is 9\.9\.9"):
        runs.reopen(folder)
    with pytest.warns(UserWarning, match=r"this is 9\.9\.9"):
        runs.start(recipe, {"steps": 4}, folder)


def test_nothing_is_said_of_a_run_that_is_as_it_was(recipe: str, tmp_path: Path):
    trained(recipe, tmp_path / "run", steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs.reopen(tmp_path / "run")
        runs.start(recipe, {"steps": 4}, tmp_path / "run")


@pytest.mark.parametrize("which", ["first", "", 0])
def test_an_unknown_checkpoint_is_not_the_last(recipe: str, tmp_path: Path, which: Any):
    trained(recipe, tmp_path / "run", steps=2)
    with pytest.raises(ValueError, match="give 'best' or 'last'"):
        runs.reopen(tmp_path / "run", which=which)


def test_an_unknown_execution_is_refused(recipe: str, tmp_path: Path):
    run = runs.start(recipe, {"steps": 2}, tmp_path / "run")
    with pytest.raises(ValueError, match="give 'auto', 'recipe', 'vmap', 'loop' or"):
        next(runs.go(run, execution="fast"))  # pyright: ignore


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
    "cycle": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n),
    "linear": lambda o, n: lr_scheduler.LinearLR(o, total_iters=n),
    "restarts": lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, n),
    "steps": lambda o, n: lr_scheduler.StepLR(o, n),
    "milestones": lambda o, n: lr_scheduler.MultiStepLR(o, [n // 2, n]),
    "in turn": lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.CosineAnnealingLR(o, n)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_another_length_is_not_replaced_in_silence(tmp_path: Path, name: str):
    learner = qs.MAML(qs.nets.MLP(1, 1))
    adam = torch.optim.Adam(learner.parameters())
    qs.save(tmp_path, learner, adam, SCHEDULES[name](adam, 10))
    qs.load(tmp_path, learner, adam, SCHEDULES[name](adam, 10))
    with pytest.raises(qs.storage.CheckpointError, match="build it as it was then"):
        qs.load(tmp_path, learner, adam, SCHEDULES[name](adam, 20))
