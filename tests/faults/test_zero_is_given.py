"""0, "" and {} are values: they are taken as given, or refused, and never as the default."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy as qs
from quickstudy import runs
from quickstudy.cli import app
from quickstudy.core.task import seeds

RECIPE = '''"""Digits."""
import torch
import quickstudy as qs

def recipe(*, steps: int = 2, seed: int = 0):
    embed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    learner = qs.PrototypicalNetwork(embed)
    splits = qs.datasets.split_classes(qs.datasets.digits(), (0.4, 0.3, 0.3))
    def tasks(split, **options):
        return qs.FewShot(split, (2, 3), 1, 4, unlabelled=2, **options)
    rows = {"3-way": qs.runs.Benchmark(tasks(splits.test), n_tasks=6, meta_batch_size=3)}
    adam = torch.optim.Adam(learner.parameters())
    train = qs.tasks.Presentations(tasks(splits.train))
    return qs.runs.Experiment(learner, train, tasks(splits.validation), rows, adam, steps, 2)
'''
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(str(stop.value.code)), out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    (place / "digits.py").write_text(RECIPE)
    for _ in runs.go(runs.start(str(place / "digits.py"), {}, place / "run")):
        pass
    return place / "run"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--ways", 0),
        ("--ways", 1),
        ("--shots", 0),
        ("--queries", 0),
        ("--n-tasks", 0),
        ("--dataset", ""),
        ("--seed", 2**64),
        ("--seed", 2**32),
        ("--seed", -1),
        ("--device", ""),
        ("--device", "abacus"),
    ],
)
def test_what_makes_no_sense_is_refused(
    command: Command, folder: Path, option: str, value: object
):
    code, out, err = command("evaluate", folder, f"{option}={value}")
    assert code == 2 and not out
    assert err.startswith("Error: ") and err.count("\n") == 1


def test_tasks_that_are_changed_keep_all_else(command: Command, folder: Path):
    code, out, _ = command("evaluate", folder, "--queries", 3, "--json")
    assert code == 0
    card = json.loads(out)["custom tasks"]["card"]
    assert (card["ways"], card["queries"], card["unlabelled"]) == ([2, 3], 3, 2)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_a_split_of_what_has_none_is_refused(
    command: Command, folder: Path, tmp_path: Path, name: str
):
    data = "digits"
    if name == "folder":
        data = tmp_path / "pictures"
        for part in ("a", "b", "c"):
            (data / part).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(
                    data / part / f"{i}.png"
                )
    for split in ("train", "test"):
        code, _, err = command("evaluate", folder, "--dataset", data, "--split", split)
        assert code == 2 and "leave out --split" in err
    assert command("evaluate", folder, "--dataset", data)[0] == 0


def test_a_split_is_of_the_recipe_or_refused(command: Command, folder: Path):
    cards = {}
    for split in ("validation", "test"):
        code, out, _ = command("evaluate", folder, "--split", split, "--json")
        assert code == 0
        cards[split] = json.loads(out)["custom tasks"]["card"]["hash"]
    assert cards["validation"] != cards["test"]
    code, _, err = command("evaluate", folder, "--split", "train")  # mixed: no data set
    assert code == 2 and "leave out --split" in err


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_seed_that_is_none_is_refused_everywhere(tmp_path: Path, seed: int):
    file = tmp_path / "digits.py"
    file.write_text(RECIPE)
    train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
    learner = qs.PrototypicalNetwork(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    )
    tasks = qs.FewShot(qs.datasets.digits(), 2, 1, 1)
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    calls: list[Callable[[], Any]] = [
        lambda: runs.start(str(file), {"seed": seed}, tmp_path / "run"),
        lambda: qs.evaluate(learner, tasks, n_tasks=2, seed=seed),
        lambda: next(qs.train(learner, tasks, adam, steps=1, meta_batch_size=1, seed=seed)),
        lambda: qs.tasks.class_incremental(train, test, seed=seed),
        lambda: qs.tasks.permuted(train, test, seed=seed),
        lambda: qs.tasks.rotated(train, test, seed=seed),
        lambda: qs.tasks.recurring(train, test, seed=seed),
        lambda: qs.datasets.split_examples(qs.datasets.digits(), seed=seed),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"seed|Seed"):
            call()


def test_seeds_below_the_limit_give_batches_of_their_own():
    drawn = {
        seeds(seed, rank, step)
        for seed in (0, 1, 2**32 - 1)
        for rank in (0, 1)
        for step in (0, 1)
    }
    assert len(drawn) == 12


def experiment(**changes: Any) -> runs.Experiment:
    learner = qs.MAML(qs.nets.MLP(1, 1), criterion=qs.squared_error)
    tasks = qs.Sinusoid(5, 5)
    settings: dict[str, Any] = {
        "benchmarks": {"5-shot": runs.Benchmark(tasks, n_tasks=2)},
        "steps": 10,
        "meta_batch_size": 2,
        **changes,
    }
    adam = torch.optim.Adam(learner.parameters())
    return runs.Experiment(learner, tasks, tasks, optimizer=adam, **settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"better": "least"},
        {"better": ""},
        {"benchmarks": {}},
        {"steps": -1},
        {"meta_batch_size": 0},
        {"validate_every": 0},
        {"n_validation_tasks": 0},
    ],
)
def test_an_experiment_that_cannot_be_meant_is_refused(changes: dict[str, Any]):
    experiment()
    with pytest.raises(ValueError, match=f"{next(iter(changes))}"):
        experiment(**changes)


def test_no_tasks_are_not_the_benchmarks_number(tmp_path: Path):
    run = runs.Run(tmp_path, "mine", {}, experiment())
    with pytest.raises(ValueError, match="n_tasks=0"):
        runs.measure(run, runs.Benchmark(qs.Sinusoid(5, 5), n_tasks=2), n_tasks=0)


def test_streams_of_nothing_are_refused():
    train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
    for make in (qs.tasks.class_incremental, qs.tasks.permuted, qs.tasks.recurring):
        with pytest.raises(ValueError, match="examples"):
            make(train, test, examples=0)
    for make in (qs.tasks.permuted, qs.tasks.rotated, qs.tasks.recurring):
        with pytest.raises(ValueError, match="tasks=0"):
            make(train, test, tasks=0)
    with pytest.raises(ValueError, match="were requested"):
        qs.tasks.class_incremental(train, test, tasks=0)
    with pytest.raises(ValueError, match="were requested"):
        qs.tasks.class_incremental(train, test, per_task=0)


def test_an_unknown_unit_is_not_the_class():
    with pytest.raises(ValueError, match="give 'class' or 'group'"):
        qs.datasets.split_classes(qs.datasets.digits(), by="groups")  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("omniglot_metric", "ways"),
        ("omniglot_metric", "shots"),
        ("omniglot_metric", "queries"),
        ("omniglot_metric", "meta_batch_size"),
        ("rl_bandit", "meta_batch_size"),
    ],
)
def test_zero_in_a_recipe_is_not_its_default(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch
):
    small = qs.datasets.Labelled(
        torch.zeros(400, 1, 28, 28), torch.arange(400) % 20, tuple(map(str, range(20)))
    )
    monkeypatch.setattr(
        qs.datasets, "omniglot", lambda **_: qs.datasets.Splits(small, small, small)
    )
    with pytest.raises(ValueError, match=setting):
        runs.find(name).recipe(**{setting: 0})


@pytest.mark.parametrize("name", ["omniglot_gradient", "rl_grid", "rl_bandit"])
def test_a_rate_of_zero_in_a_recipe_is_zero(name: str, monkeypatch: pytest.MonkeyPatch):
    module: ModuleType = runs.find(name)
    small = qs.datasets.Labelled(
        torch.zeros(400, 1, 28, 28), torch.arange(400) % 20, tuple(map(str, range(20)))
    )
    monkeypatch.setattr(
        qs.datasets, "omniglot", lambda **_: qs.datasets.Splits(small, small, small)
    )
    if name == "omniglot_gradient":
        assert module.recipe(inner_lr=0.0).learner.lr == 0.0
    else:
        assert module.recipe(lr=0.0).optimizer.param_groups[0]["lr"] == 0.0


def test_steps_of_zero_in_a_recipe_are_zero():
    assert runs.find("rl_bandit").recipe(steps=0).steps == 0


@pytest.mark.parametrize("pool", ["", "average"])
def test_an_unknown_pooling_is_not_none(pool: Any):
    with pytest.raises(ValueError, match="give 'max' or 'stride'"):
        qs.nets.Conv4(pool=pool)


def test_nothing_to_decode_is_not_everything():
    grid = qs.environments.HiddenGoal(size=3, horizon=4)
    with pytest.raises(ValueError, match="decoded=0"):
        qs.VariBAD(grid, latent=2, hidden=8, decoded=0)


@pytest.mark.parametrize("option", ["--out", "--run", "--support"])
@pytest.mark.parametrize("command", ["train", "adapt", "predict", "cluster"])
def test_an_empty_path_is_not_the_current_directory(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([option, ""], [f"{option}="]):
        with pytest.raises(SystemExit) as stop:
            app.main([command, "glyphs_protonet", *options])
        assert stop.value.code == 2
        assert f"{option} is empty: name a file" in capsys.readouterr().err
