"""The benchmark of a GPU, at tiny sizes on a CPU, and the script that runs its parts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.on_device import Setting, table

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


@pytest.fixture
def setting() -> Setting:
    return Setting(torch.device("cpu"), smoke=True, failures=[])


@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_part_is_measured(part: str, setting: Setting) -> None:
    _, cases = gpu.PARTS[part]
    rows = [row for case in cases(setting).values() for row in case()]
    assert rows and setting.failures == []
    assert len({tuple(row) for row in rows}) == 1  # one table
    assert all(row["ms"] > 0 for row in rows)
    if part == "plan":
        chosen = {row["case"]: 0 for row in rows}
        for row in rows:
            chosen[row["case"]] += row["chosen"]
        assert set(chosen.values()) == {1}
    if part == "meta_step":
        exact = [row for row in rows if "bfloat16" not in row["way"]]
        assert all(float(row["gradient off by"]) < 1e-10 for row in exact)


def test_a_way_that_fails_is_named_and_the_others_are_measured(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("no kernel image")

    def absent() -> None:
        raise ImportError("higher")

    ways = {"first": lambda: None, "broken": broken, "absent": absent, "last": lambda: None}
    rows = table("a step", ways, 2, "tasks", setting)
    assert [row["way"] for row in rows] == ["first", "last"]
    assert setting.failures == ["a step: broken fails: RuntimeError: no kernel image"]
    assert "a step: absent is left out" in capsys.readouterr().out


def test_the_script_takes_nine_minutes_at_most_and_has_all_parts() -> None:
    text = SCRIPT.read_text()
    parts = {
        name: int(seconds) for name, seconds in re.findall(r"^measure (\w+) (\d+)", text, re.M)
    }
    assert parts.keys() == gpu.PARTS.keys()
    assert "timeout --kill-after=10 $(($2 + 20))" in text
    assert sum(parts.values()) + 20 * len(parts) <= 530


def script(folder: Path, python: Path | str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(SCRIPT), "--smoke", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_a_part_that_fails_does_not_stop_the_script(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n[ "$3" != plan ]\n')
    python.chmod(0o755)
    done = script(tmp_path, python)
    assert done.returncode == 1 and "Not measured to the end: plan." in done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == [
        *re.findall(r"^measure (\w+)", SCRIPT.read_text(), re.M)
    ]
    assert all("--device cpu --smoke" in call for call in calls)


def test_without_a_gpu_it_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu", "plan"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "give --device cpu" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_runs_to_the_end_on_a_cpu(tmp_path: Path) -> None:
    done = script(tmp_path, sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in gpu.PARTS:
        result: Any = json.loads((tmp_path / f"gpu_{part}.json").read_text())
        assert result["rows"] and result["smoke"] is True and result["failures"] == []
        assert result["device"] == "cpu" and "processor" in result["hardware"]
