"""Writes what was tried, and what held, into the page on reliability.

python docs/reliability.py            writes it into docs/reliability.md
python docs/reliability.py --check    fails if it is out of date

A block stands between `<!-- tried: NAME -->` and `<!-- /tried -->`. NAME is `harnesses` (their
last lines), the name of a harness (a row for each property), `faults` (the kinds of fault that
have a test) or `checks` (of `check_learner`). The numbers come from `tests/fuzz/figures.json`,
which `python -m tests.fuzz.HARNESS --record` writes; sentences come from docstrings.
"""

import ast
import inspect
import json
import re
import sys
from pathlib import Path

from quickstudy.testing.learners import CHECKS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
FIGURES = ROOT / "tests" / "fuzz" / "figures.json"
FAULTS = ROOT / "tests" / "faults"
BLOCK = re.compile(r"<!-- tried: (\w+) -->\n.*?<!-- /tried -->", re.DOTALL)


def harnesses() -> str:
    """A row for each harness."""
    rows = [
        [
            f"`{name}`",
            f"{run['tried']:,}",
            f"{run['held']:,}",
            f"{sum(part['refused'] for part in run['properties'].values()):,}",
            f"{run['failed']:,}",
            f"seed {run['seed']}",
            f"{run['version']}, PyTorch {run['torch']}",
            run["date"],
        ]
        for name, run in figures().items()
    ]
    head = [
        "harness",
        "tried",
        "held",
        "of these refused",
        "failed",
        "trials",
        "version",
        "date",
    ]
    return table(head, rows)


def properties(name: str) -> str:
    """A row for each property of a harness."""
    rows = [
        [part, *(f"{run[key]:,}" for key in ("held", "refused", "failed"))]
        for part, run in figures()[name]["properties"].items()
    ]
    return table(["property", "held", "of these refused", "failed"], rows)


def faults() -> str:
    """An item for each file of `tests/faults`, with its first sentence."""
    files = sorted(FAULTS.glob("test_*.py"))
    texts = (ast.get_docstring(ast.parse(file.read_text())) for file in files)
    return "\n".join(f"- {first_sentence(text)}" for text in texts)


def checks() -> str:
    """An item for each check of `check_learner`, in their order."""
    return "\n".join(f"- {first_sentence(inspect.getdoc(check))}" for check in CHECKS)


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s(?=[A-Z`])", first)[0]


def figures() -> dict:
    """The figures of every harness."""
    return json.loads(FIGURES.read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def renewed(text: str) -> str:
    """The page with its blocks as the files are now."""
    made = {"harnesses": harnesses, "faults": faults, "checks": checks}

    def block(match: re.Match[str]) -> str:
        name = match[1]
        body = made[name]() if name in made else properties(name)
        return f"<!-- tried: {name} -->\n\n{body}\n\n<!-- /tried -->"

    return BLOCK.sub(block, text)


def main(arguments: list[str]) -> int:
    """Write or check the page; 1 if it is out of date."""
    text = PAGE.read_text()
    if "--check" in arguments:
        if renewed(text) != text:
            print("docs/reliability.md is out of date: run python docs/reliability.py")
            return 1
        return 0
    PAGE.write_text(renewed(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
