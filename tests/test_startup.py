"""Which heavy modules are loaded by what should be fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = ("torch", "torch._dynamo", "sklearn", "scipy", "matplotlib", "pandas", "sympy")
REPORT = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *(m for m in {HEAVY} if m in sys.modules)))
"""
COMMAND = "from quickstudy.cli.app import main; main()"


def loaded(code: str, *arguments: object) -> list[str]:
    """The heavy modules that a process has loaded at its end."""
    command = [sys.executable, "-c", REPORT + code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["tarin"],
        ["train", "--help"],
        [],
    ],
)
def test_no_torch_is_loaded_where_nothing_is_computed(arguments: list[str]):
    assert loaded(COMMAND, *arguments) == []


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import quickstudy", []),
        ("import quickstudy as qs; qs.MAML, qs.FewShot, qs.evaluate, qs.train", ["torch"]),
        (
            "import quickstudy.runs.recipes, quickstudy.datasets, quickstudy.evaluation",
            ["torch"],
        ),
        ("import quickstudy.reports.html, quickstudy.console", ["torch"]),
    ],
)
def test_importing_loads_torch_at_most(code: str, modules: list[str]):
    assert loaded(code) == modules


def test_predicting_an_image_loads_torch_alone(tmp_path: Path):
    run, model = tmp_path / "run", tmp_path / "my.safetensors"
    for name, grey in (("dark", 20), ("light", 230)):
        (tmp_path / "letters" / name).mkdir(parents=True)
        Image.new("L", (28, 28), grey).save(tmp_path / "letters" / name / "0.png")
    loaded(COMMAND, "train", "glyphs_protonet", "--steps", 0, "--out", run)
    loaded(COMMAND, "adapt", run, "--support", tmp_path / "letters", "--out", model)
    image = tmp_path / "letters" / "dark" / "0.png"
    assert loaded(COMMAND, "predict", model, image) == ["torch"]
