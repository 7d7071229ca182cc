"""The commands `verify` and `cluster`, as a stranger meets them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy import runs
from quickstudy.cli.app import main
from quickstudy.estimators.verifier import FewShotVerifier
from tests.test_cli import RECIPE, Answer

GRADIENT = '''"""Of the gradient."""
import torch
import quickstudy as qs
from quickstudy.runs import Benchmark, Experiment


def recipe(*, steps: int = 1, seed: int = 0) -> Experiment:
    learner = qs.MAML(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), steps=1)
    data = qs.datasets.digits()
    tasks = qs.FewShot(data, 3, 1, 1)
    optimizer = torch.optim.Adam(learner.parameters())
    return Experiment(
        learner, tasks, tasks, {"a": Benchmark(tasks)}, optimizer, steps, 1,
        n_validation_tasks=2
    )
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run."""
    return trained(tmp_path_factory.mktemp("runs"), RECIPE)


def trained(place: Path, text: str) -> Path:
    (place / "tiny.py").write_text(text)
    run = runs.start(str(place / "tiny.py"), {}, place / "run")
    for _ in runs.go(run):
        pass
    return run.folder


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Three classes of three images."""
    rng = np.random.default_rng(0)
    for name in ("alef", "bet", "gimel"):
        (tmp_path / "letters" / name).mkdir(parents=True)
        pattern = rng.integers(0, 200, (8, 8))
        for i in range(3):
            pixels = (pattern + rng.integers(0, 20, (8, 8))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "letters" / name / f"{i}.png")
    return tmp_path / "letters"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return Answer(stop.value.code, *map(str, capsys.readouterr()))

    return call


def test_verify(run: Callable[..., Answer], folder: Path, letters: Path) -> None:
    alef, bet = letters / "alef", letters / "bet"
    result = run("verify", folder, alef / "0.png", alef / "1.png", "--support", letters)
    assert result.code == 0, result.err
    assert "1.png: same  (score -" in result.out
    assert "accepts 0.0% of 27 pairs of two classes and" in result.out
    assert "rejects 0.0% of 9 pairs of one class" in result.out
    assert "1.png: different" in run("verify", folder, alef / "0.png", bet / "1.png").out

    found = json.loads(run("verify", folder, alef, bet, "--support", letters, "--json").out)
    assert len(found["pairs"]) == 9
    assert found["chosen_by"] == {"pairs_of_one_class": 9, "pairs_of_two": 27}
    learner = runs.reopen(folder).experiment.learner
    files = [letters / name / f"{i}.png" for name in ("alef", "bet", "gimel") for i in range(3)]
    images = np.stack([np.array(Image.open(file)) for file in files])[:, None]
    verifier = FewShotVerifier(learner).fit(images, np.arange(9) // 3)
    assert found["threshold"] == pytest.approx(verifier.threshold_)
    want = verifier.decision_function(images[[0, 0]], images[[3, 4]])
    assert [pair["score"] for pair in found["pairs"][:2]] == pytest.approx(want.tolist())
    for pair in found["pairs"]:
        assert pair["same"] == (pair["score"] >= found["threshold"])


def test_what_verify_chooses_by(
    run: Callable[..., Answer], folder: Path, letters: Path
) -> None:
    pair = letters / "alef" / "0.png", letters / "bet" / "1.png"
    by_recipe = json.loads(run("verify", folder, *pair, "--json").out)
    assert by_recipe["chosen_by"] == {"pairs_of_one_class": 100, "pairs_of_two": 1125}
    strict = json.loads(
        run("verify", folder, *pair, "--max-false-accept-rate", 0, "--json").out
    )
    assert strict["false_accept_rate"] == 0
    assert strict["threshold"] >= by_recipe["threshold"]
    options = "--support", letters, "--json"
    plain, dark = (
        run("verify", folder, *pair, *more) for more in (options, ("--invert", *options))
    )
    found = json.loads(dark.out)["pairs"][0]["score"]  # linear: differences change their sign
    assert found == pytest.approx(json.loads(plain.out)["pairs"][0]["score"])


def test_cluster(
    run: Callable[..., Answer], folder: Path, letters: Path, tmp_path: Path
) -> None:
    by_class = [[f"{letters}/{c}/{i}.png" for i in range(3)] for c in ("alef", "bet", "gimel")]
    result = run("cluster", folder, letters, "--clusters", 3)
    assert result.code == 0, result.err
    assert f"group 1 (3): {', '.join(by_class[0])}" in result.out
    found = json.loads(run("cluster", folder, letters, "--json").out)
    assert found == {"groups": by_class}
    table, nested = tmp_path / "new" / "groups.csv", tmp_path / "groups.json"
    assert "9 images in 3 groups" in run("cluster", folder, letters, "--out", table).err
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["image", "group"]
    assert rows[4] == [by_class[1][0], "2"]
    assert run("cluster", folder, letters, "--out", nested).code == 0
    assert json.loads(nested.read_text()) == found

    (letters / "note.txt").write_text("no image")
    (letters / ".hidden").write_text("no image")
    assert "note.txt is not an image" in run("cluster", folder, letters).err
    skipped = run("cluster", folder, letters, "--skip-unreadable", "--json")
    assert json.loads(skipped.out) == found


def test_help_has_an_example(run: Callable[..., Answer]) -> None:
    for command in ("verify", "cluster"):
        help_text = " ".join(run(command, "--help").out.split())
        assert f"Example: quickstudy {command} runs/" in help_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "{run}", "{empty}/no.png", "{letters}"], "There is no file or folder"),
        (["verify", "{run}", "{empty}", "{letters}/bet"], "There are no images in"),
        (
            [
                "verify",
                "{run}",
                "{letters}/bet",
                "{letters}/bet",
                "--max-false-accept-rate",
                "2",
            ],
            "max_false_accept_rate=2",
        ),
        (["verify", "{empty}", "{letters}/bet", "{letters}/bet"], "holds no checkpoint"),
        (
            ["verify", "{run}", "{letters}/bet", "{letters}/bet", "--support", "{empty}"],
            "class",
        ),
        (["cluster", "{run}", "{letters}", "--clusters", "10"], "10 clusters of 9 example"),
        (["cluster", "{run}", "{letters}", "--out", "groups.txt"], "neither .csv nor .json"),
        (["cluster", "{run}", "{empty}"], "There are no images in"),
        (["cluster", "{empty}", "{letters}"], "holds no checkpoint"),
    ],
)
def test_a_wrong_command_gets_one_sentence(
    run: Callable[..., Answer],
    folder: Path,
    letters: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "run": folder, "letters": letters}
    places["image"] = letters / "bet" / "1.png"
    answer = run(*(argument.format(**places) for argument in arguments))
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.splitlines()[-1].startswith("Error: ")


def test_learners_that_do_not_compare_say_so(
    run: Callable[..., Answer], letters: Path, tmp_path: Path
) -> None:
    place = trained(tmp_path, GRADIENT)
    pair = letters / "bet" / "0.png", letters / "bet" / "1.png"
    assert "MAML has neither a module `embed`" in run("verify", place, *pair).err
    assert "MAML has no module `embed`" in run("cluster", place, letters).err
