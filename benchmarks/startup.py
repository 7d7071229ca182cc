"""User CPU time until a command answers, against `import torch` in the same run.

Each command runs in a process of its own, in turn with the others: five rounds, of which the
median counts. The model that `predict` reads is `glyphs_protonet`, untrained, adapted to two
classes. Goals: importing quickstudy costs 0.15 s beside torch; what needs no torch answers
within 0.6 s; `predict` takes 1.5 times as long as importing torch and Pillow.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.common import write

TORCH, BASE = "import torch", "import torch, PIL.Image"


def seconds(arguments: list[str]) -> float:
    """User CPU time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *arguments], check=False, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def model(folder: Path) -> list[str]:
    """The arguments of `predict`, for a model of two classes of grey squares."""
    run, support, file = folder / "run", folder / "support", folder / "model.safetensors"
    for name, grey in (("dark", 20), ("light", 230)):
        (support / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (28, 28), grey + 5 * i).save(support / name / f"{i}.png")
    train = ["train", "glyphs_protonet", "--steps", "0", "--out", str(run)]
    adapt = ["adapt", str(run), "--support", str(support), "--out", str(file)]
    for arguments in (train, adapt):
        command = [sys.executable, "-m", "quickstudy", *arguments]
        subprocess.run(command, check=True, capture_output=True)
    return ["predict", str(file), str(support / "dark" / "0.png")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        predict = model(Path(folder))
        commands = {
            TORCH: ["-c", TORCH],
            BASE: ["-c", BASE],
            "import quickstudy": ["-c", "import quickstudy"],
            "quickstudy.MAML": ["-c", "import quickstudy as qs; qs.MAML"],
            "quickstudy --help": ["-m", "quickstudy", "--help"],
            "quickstudy --version": ["-m", "quickstudy", "--version"],
            "quickstudy list": ["-m", "quickstudy", "list"],
            "quickstudy tarin (mistyped)": ["-m", "quickstudy", "tarin"],
            "quickstudy predict MODEL IMAGE": ["-m", "quickstudy", *predict],
        }
        rounds = [
            {name: seconds(arguments) for name, arguments in commands.items()}
            for _ in range(options.rounds)
        ]
    median = {name: statistics.median(r[name] for r in rounds) for name in commands}
    rows = [
        {
            "command": name,
            "seconds of user CPU time": round(time, 2),
            "of import torch": round(time / median[TORCH], 2),
            "of import torch, PIL": round(time / median[BASE], 2),
        }
        for name, time in median.items()
    ]
    load = round(os.getloadavg()[0], 1)
    title = f"Start-up, median of {options.rounds} rounds; load of the machine {load}"
    write("startup", title, rows, options.out, load=load)


if __name__ == "__main__":
    main()
