"""The command line as a stranger meets it: good commands, wrong ones, Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy
from quickstudy.cli.app import main

RECIPE = '''"""Tiny patterns, told apart by prototypes.

For tests.
"""

import torch

import quickstudy as qs
from quickstudy.runs import Benchmark, Experiment

PAPER = {"3-way 2-shot": {"accuracy": 0.9}}


def recipe(*, steps: int = 6, lr: float = 1e-2, seed: int = 0) -> Experiment:
    """Prototypes of noisy patterns.

    Args:
        steps: Steps of meta-training.
        lr: Learning rate of Adam.
    """
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randint(0, 200, (10, 1, 1, 8, 8), generator=generator)
    noise = torch.randint(0, 56, (10, 12, 1, 8, 8), generator=generator)
    x = (patterns + noise).to(torch.uint8).flatten(0, 1)
    y = torch.arange(10).repeat_interleave(12)
    data = qs.datasets.Labelled(x, y, tuple("abcdefghij"), name="patterns")
    embed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    learner = qs.PrototypicalNetwork(embed)
    tasks = qs.FewShot(data, 3, 2, 3)
    return Experiment(
        learner,
        tasks,
        tasks,
        {"3-way 2-shot": Benchmark(tasks, n_tasks=20, meta_batch_size=10)},
        torch.optim.Adam(learner.parameters(), lr),
        steps,
        4,
        validate_every=3,
        n_validation_tasks=10,
    )
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Two classes of two images, one dark and one light."""
    for name, grey in (("dark", 20), ("light", 230)):
        (tmp_path / "letters" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((8, 8), grey + 5 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "letters" / name / f"{i}.png")
    return tmp_path / "letters"


class Answer:
    def __init__(self, code: Any, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return Answer(stop.value.code, *map(str, capsys.readouterr()))

    return call


def test_train_evaluate_resume(run: Any, recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run("train", recipe, "--out", out, "--json")
    assert first.code == 0, first.err
    result = json.loads(first.out)
    assert result == json.loads((out / "result.json").read_text())
    row = result["measured"]["3-way 2-shot"]
    assert row["accuracy"]["mean"] > 0.5 and row["card"]["episodes"] == 20
    assert row["card"]["transductive"] is False
    assert result["paper"] == {"3-way 2-shot": {"accuracy": 0.9}}
    assert result["steps"] == 6 and result["hardware"]["torch"] == str(torch.__version__)
    assert [point["step"] for point in result["history"]] == [3, 6]

    longer = run("train", recipe, "--out", out, "--steps", 9)
    assert longer.code == 0 and "at step 6" in longer.err

    straight = tmp_path / "straight"
    assert run("train", recipe, "--out", straight, "--steps", 9).code == 0
    assert weights(out) == weights(straight)  # to the bit

    custom = run("evaluate", out, "--ways", 4, "--shots", 1, "--n-tasks", 12, "--json")
    report = json.loads(custom.out)["custom tasks"]
    assert report["card"]["ways"] == 4 and report["card"]["shots"] == 1
    assert len(report["values"]["accuracy"]) == 12
    again = run("evaluate", out, "--ways", 4, "--shots", 1, "--n-tasks", 12, "--json")
    assert again.out == custom.out
    other = run(
        "evaluate", out, "--ways", 4, "--shots", 1, "--n-tasks", 12, "--seed", 7, "--json"
    )
    assert other.out != custom.out
    assert "3-way 2-shot: accuracy" in run("evaluate", out, "--n-tasks", 5).out


def weights(folder: Path) -> set[str]:
    """The files of the last checkpoint, which are named after what is in them."""
    last = max(folder.glob("step-*"))
    return {path.name for path in last.glob("*.safetensors")}


def test_a_limit_of_memory(run: Any, recipe: str, tmp_path: Path) -> None:
    done = run("train", recipe, "--out", tmp_path / "run", "--memory-limit", "1GiB")
    assert done.code == 0 and "memory" in done.err and "chosen: " in done.err
    out = tmp_path / "other"
    assert "One task takes" in run("train", recipe, "--out", out, "--memory-limit", "1B").err
    both = run("train", recipe, "--out", out, "--memory-limit", "1GiB", "--execution", "loop")
    assert "Leave out --execution loop" in both.err


def test_a_recipe_of_several_results(
    run: Any, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quickstudy.runs.recipes.folders", lambda: [tmp_path / "recipes"])
    (tmp_path / "recipes").mkdir()
    Path(recipe).write_text(RECIPE + '\n\nRESULT = "tiny_{lr}_{seed}"\n')
    for seed in (0, 1):
        done = run("train", recipe, "--seed", seed, "--record")
        assert done.code == 0, done.err
        stored = tmp_path / "recipes" / "results" / f"tiny_0.01_{seed}.json"
        assert json.loads(stored.read_text())["settings"]["seed"] == seed
        assert (tmp_path / "runs" / f"tiny_0.01_{seed}" / "result.json").exists()
    assert run("train", recipe, "--steps", 9, "--variant", "full", "--record").code == 0
    results = json.loads(run("list", "--results", "--json").out)["results"]
    assert list(results) == ["tiny_0.01_0", "tiny_0.01_0_full", "tiny_0.01_1"]

    both = [tmp_path / "runs" / "tiny_0.01_0", tmp_path / "runs" / "tiny_0.01_1"]
    (compared,) = json.loads(run("compare", *both, "--json").out)
    best, other = compared["entries"]
    assert best["difference"] is None and best["tasks"] == 24 and best["milliseconds"] > 0
    gap = other["difference"]["mean"]
    assert gap == pytest.approx(other["mean"] - best["mean"], abs=2e-4)
    stored = tmp_path / "recipes" / "results" / "tiny_0.01_0.json"
    table = run("compare", stored, *both).out
    assert "3-way 2-shot" in table and table.count("best") > 1

    shutil.rmtree("runs")
    shutil.copy(recipe, tmp_path / "recipes")
    before = json.loads(stored.read_text())
    assert run("reproduce", "tiny_0.01_0").code == 0
    again = json.loads(stored.read_text())
    assert again["measured"] == before["measured"] and again["settings"] == before["settings"]

    Path(recipe).write_text(RECIPE + '\n\nRESULT = "tiny_{shape}"\n')
    assert "'shape'" in run("train", recipe).err


def test_adapt_and_predict(run: Any, recipe: str, letters: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "run", tmp_path / "my.safetensors"
    run("train", recipe, "--out", out)
    adapted = run("adapt", out, "--support", letters, "--out", model, "--invert")
    assert adapted.code == 0 and "2 classes from 4 images" in adapted.err
    assert model.stat().st_size < 10_000
    images = [letters / "dark" / "0.png", letters / "light" / "1.png"]
    answers = json.loads(run("predict", model, *images, "--json").out)
    assert [answer["label"] for answer in answers] == ["dark", "light"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
    completed = run("predict", model, images[0])
    assert re.search(r"0\.png: dark  \(dark \d+\.\d%, light", completed.out)

    (letters / "dark" / "note.txt").write_text("no image")
    refused = run("adapt", out, "--support", letters, "--out", tmp_path / "two")
    assert refused.code == 2 and "note.txt" in refused.err
    assert not (tmp_path / "two").exists()
    assert (
        run(
            "adapt", out, "--support", letters, "--out", tmp_path / "two", "--skip-unreadable"
        ).code
        == 0
    )
    assert "note.txt" in run("predict", model, letters / "dark" / "note.txt").err
    assert "gone.png" in run("predict", model, tmp_path / "gone.png").err
    data = model.read_bytes()
    model.write_bytes(data[:-3])
    assert run("predict", model, images[0]).code == 2
    model.write_bytes(data)
    moved = out.rename(tmp_path / "elsewhere")
    assert run("predict", model, images[0]).code == 2
    assert run("predict", model, images[0], "--run", moved).code == 0


def test_a_transductive_model_says_so(
    run: Any, recipe: str, letters: Path, tmp_path: Path
) -> None:
    path = Path(recipe)
    path.write_text(
        RECIPE.replace(
            "torch.nn.Linear(64, 8))",
            "torch.nn.BatchNorm1d(64, track_running_stats=False), torch.nn.Linear(64, 8))",
        )
    )
    out, model = tmp_path / "run", tmp_path / "my.safetensors"
    trained = run("train", path, "--out", out, "--json")
    assert json.loads(trained.out)["measured"]["3-way 2-shot"]["card"]["transductive"] is True
    assert run("adapt", out, "--support", letters, "--out", model).code == 0
    completed = run("predict", model, letters / "dark" / "0.png", letters / "light" / "0.png")
    assert completed.code == 0 and "not one alone" in completed.err


def test_list_doctor_report(run: Any, recipe: str, tmp_path: Path) -> None:
    found = json.loads(run("list", "--json").out)
    assert {"MAML", "anil", "PrototypicalNetwork"} <= set(found["learners"])
    assert {"glyphs", "omniglot"} <= set(found["datasets"])
    assert "omniglot_metric" in found["recipes"]
    assert all(found["recipes"].values()), "every recipe says what it is"
    out = tmp_path / "run"
    run("train", recipe, "--out", out)
    diagnose = run("diagnose", out)
    assert diagnose.code == 0 and "vmap" in diagnose.out and "loop" in diagnose.out
    assert run("report", out).code == 0
    assert "3-way 2-shot" in (out / "report.html").read_text()


def test_every_command_has_help_with_an_example(run: Any) -> None:
    assert "demo" in run("--help").out
    for command in (
        "demo",
        "list",
        "evaluate",
        "adapt",
        "predict",
        "diagnose",
        "compare",
        "report",
        "reproduce",
        "train",
    ):
        answer = run(command, "--help")
        assert answer.code == 0
        assert f"Example: quickstudy {command}" in " ".join(answer.out.split()), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "Did you mean 'train'?"),
        (["train", "omniglot_metrc"], "Did you mean 'omniglot_metric'?"),
        (["train", "nothing/here.py"], "no recipe"),
        (["train", "{recipe}", "--step", "3"], "--steps"),
        (["train", "{recipe}", "--steps", "many"], "--steps"),
        (["train", "{recipe}", "--out", "{recipe}"], "Cannot write"),
        (["train", "{recipe}", "--device", "cuda"], "CUDA"),
        (["train", "{recipe}", "--execution", "fast"], "--execution"),
        (["evaluate", "{empty}"], "holds no checkpoint"),
        (["evaluate", "{run}", "--dataset", "glyfs"], "Did you mean 'glyphs'?"),
        (["evaluate", "{run}", "--dataset", "glyphs"], "the learner takes"),
        (["evaluate", "{run}", "--ways", "11"], "11 ways were asked for"),
        (["evaluate", "{run}", "--shots", "30"], "fewer than 30 shots"),
        (["adapt", "{run}", "--support", "{empty}/no", "--out", "x"], "no folder"),
        (["adapt", "{run}", "--support", "{empty}", "--out", "x"], "class"),
        (["predict", "{empty}/no.safetensors", "a.png"], "no file"),
        (["diagnose", "nothing"], "no recipe"),
        (["report", "{empty}"], "no checkpoint"),
        (["compare", "{empty}", "{empty}"], "finish the run"),
        (["reproduce", "glyphs_protonett"], "Did you mean 'glyphs_protonet'?"),
    ],
)
def test_a_wrong_command_gets_one_sentence(
    run: Any, recipe: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "empty").mkdir()
    if "{run}" in arguments:
        run("train", recipe, "--out", tmp_path / "run")
    places = {"recipe": recipe, "empty": tmp_path / "empty", "run": tmp_path / "run"}
    answer = run(*(argument.format(**places) for argument in arguments))
    assert answer.code == 2
    assert message in answer.err + answer.out
    assert "Traceback" not in answer.err
    if "full helptext" not in answer.err:  # which tyro says of wrong options, in a frame
        assert answer.err.splitlines()[-1].startswith("Error: ")


def test_help_describes_the_settings_of_a_recipe(run: Any, recipe: str) -> None:
    text = " ".join(run("train", recipe, "--help").out.split())
    assert "--steps INT Steps of meta-training. (default: 6)" in text
    assert "Learning rate of Adam." in text and "Suffix of the result name" in text


def test_version_and_completion(run: Any) -> None:
    assert run("--version").out == f"quickstudy {quickstudy.__version__}\n"
    for shell in ("bash", "zsh"):
        script = run("--tyro-print-completion", shell)
        assert not script.code  # tyro exits without one
        for word in ("predict", "--skip-unreadable"):
            assert word in script.out


def test_names_in_the_help_of_verify(run: Any) -> None:
    assert "RUN A B" in run("verify", "--help").out


def test_debug_shows_where(run: Any) -> None:
    assert "Traceback" in run("train", "nowhere", "--debug").err


def test_other_settings_are_not_mixed_into_a_run(run: Any, recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("train", recipe, "--out", out)
    before = weights(out)
    answer = run("train", recipe, "--out", out, "--lr", 0.5, "--steps", 9)
    assert answer.code == 2 and "lr 0.01 there, 0.5 here" in answer.err
    assert weights(out) == before


def test_a_tampered_checkpoint_is_refused(run: Any, recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("train", recipe, "--out", out)
    for path in out.glob("step-*/learner-*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    answer = run("evaluate", out)
    assert answer.code == 2 and "sha256" in answer.err


def test_a_loss_that_is_no_number_stops_the_run(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "wild.py"
    path.write_text(RECIPE.replace("1e-2", "1e30"))
    answer = run("train", path, "--out", tmp_path / "run", "--steps", 50)
    assert answer.code == 2 and "Lower the learning rate" in answer.err


def test_ctrl_c_saves_and_the_same_command_goes_on(
    run: Any, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "quickstudy", "train", recipe, "--out", str(out)]
    command += ["--steps", "100000", "--execution", "recipe"]
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("step-*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"Continue with: quickstudy train {recipe}" in err and "Traceback" not in err
    reached = json.loads((max(out.glob("step-*")) / "run.json").read_text())["facts"]["step"]
    assert reached > 0
    straight = tmp_path / "straight"
    assert run("train", recipe, "--out", straight, "--steps", reached).code == 0
    assert weights(out) == weights(straight)  # no half step was saved


def test_torchrun_trains_in_two_processes(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "quickstudy"]
    command += ["train", recipe, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "result.json").read_text())["steps"] == 6
    assert done.stdout.count("3-way 2-shot") == 1  # the first process alone speaks
