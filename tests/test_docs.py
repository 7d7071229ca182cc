"""The docs are true: their code runs, their numbers were measured, nothing is left out."""

import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import quickstudy
from quickstudy import runs
from quickstudy.cli import app
from quickstudy.evaluation.report import pack

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- skip: [^>]+ -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The line where each block begins, and its code, but for those that are to be skipped."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start(3)), found[3])
        for found in BLOCK.finditer(text)
        if found[2] == language and not found[1]
    ]


def quick(code: str) -> str:
    """With at most three steps of anything, and evaluations of four tasks."""
    code = re.sub(r"\bn_tasks=[\d_]+", "n_tasks=4, meta_batch_size=4", code)
    return re.sub(r"\b(steps ?= ?)([\d_]+)\b", lambda m: f"{m[1]}{min(int(m[2]), 3)}", code)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_the_code_on_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")  # one that pickle finds
    monkeypatch.setitem(sys.modules, "page", module)
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + quick(code), name(page), "exec"), vars(module))


def test_few_steps_are_done_where_a_page_says_many() -> None:
    assert quick("train(steps=2_000, size=8)") == "train(steps=3, size=8)"
    few = "steps = 3\nevaluate(n_tasks=4, meta_batch_size=4)"
    assert quick("steps = 300\nevaluate(n_tasks=600)") == few
    assert quick("MAML(steps=1)") == "MAML(steps=1)"


def test_every_public_name_has_an_entry_and_every_entry_a_name() -> None:
    entries = re.findall(r"^::: (\S+)", "\n".join(p.read_text() for p in PAGES), re.MULTILINE)
    documented = {id(pkgutil.resolve_name(entry)) for entry in entries}
    core = "attention criteria gradients linear losses parameters prototypes similarity tree"
    packages = [
        info.name
        for info in pkgutil.walk_packages(quickstudy.__path__, "quickstudy.")
        if info.ispkg
    ]
    public = {}
    for path in ("quickstudy", *packages, *(f"quickstudy.core.{m}" for m in core.split())):
        module = importlib.import_module(path)
        names = getattr(module, "__all__", None) or [
            name
            for name, thing in vars(module).items()
            if (inspect.isclass(thing) or inspect.isfunction(thing))
            and thing.__module__ == module.__name__
            and not name.startswith("_")
        ]
        public |= {f"{path}.{name}": getattr(module, name) for name in names}
    public = {name: thing for name, thing in public.items() if not inspect.ismodule(thing)}
    missing = [name for name, thing in public.items() if id(thing) not in documented]
    assert not missing, "write `::: NAME` in a page of docs/reference for each"


@pytest.mark.parametrize("script", ["tables.py", "map.py", "reliability.py"])
def test_what_a_script_writes_is_up_to_date(script: str) -> None:
    check = [sys.executable, ROOT / "docs" / script, "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}Run: python docs/{script}"


def test_the_map_has_a_sentence_for_every_file_and_name() -> None:
    pages = [ROOT / "docs" / "map.md", ROOT / "docs" / "reference" / "names.md"]
    lines = "\n".join(page.read_text() for page in pages).splitlines()
    bare = [line for line in lines if re.search(r"\|  \||^- `\w+\.py`: ?$", line)]
    assert not bare, "write a docstring for each, then run: python docs/map.py"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/tables.py, in a repository that has nothing yet."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "recipes" / "results").mkdir(parents=True)
    return tables


def test_a_new_result_makes_the_pages_out_of_date(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "recipes" / "sine.py").write_text("\nPAPER = {}\n")
    page = tmp_path / "README.md"
    page.write_text("Before\n<!-- results: published -->\n<!-- /results -->\nAfter\n")

    assert tables.main([]) == 0
    assert "Not recorded yet: `sine`" in page.read_text()
    assert tables.main(["--check"]) == 0

    card = {"split": "test", "transductive": False}
    (tmp_path / "recipes" / "results" / "sine.json").write_text(
        json.dumps(
            {
                "recipe": "sine",
                "about": "Waves.",
                "paper": {"5-way": {"accuracy": 0.988, "interval": 0.004, "steps": 60_000}},
                "measured": {
                    "5-way": {"accuracy": {"mean": 0.9761, "interval": 0.0021}, "card": card}
                },
                "settings": {"lr": 0.4},
                "steps": 30_000,
                "checkpoint": 29_000,
                "seconds": 3720.0,
                "date": "2026-01-31",
                "hardware": {"processor": "P", "threads": 2, "gpu": None, "torch": "2.13"},
            }
        )
    )
    assert tables.main(["--check"]) == 1
    assert "97.6" not in page.read_text()
    assert tables.main([]) == 0
    row = "| `sine` | 5-way | accuracy | 97.6 ± 0.2 % | 98.8 ± 0.4 % (steps 60,000) |"
    assert f"{row} 30,000 steps, 1 h 2 min |" in page.read_text()
    assert page.read_text().startswith("Before\n")
    assert page.read_text().endswith("<!-- /results -->\nAfter\n")
    assert "transductive no" in tables.renewed("<!-- results: sine -->\n<!-- /results -->")
    (tmp_path / "recipes" / "many.py").write_text('\nRESULT = "many_{learner}_{shots}shot"\n')
    one = {"recipe": "many", "about": "Many.", "paper": {}}
    row = {"accuracy": {"mean": 0.51, "interval": 0.02}, "card": card}
    (tmp_path / "recipes" / "results" / "many_maml_1shot.json").write_text(
        json.dumps({**one, "measured": {"5-way": row}})
    )
    block = tables.renewed("<!-- results: many -->\n<!-- /results -->")
    assert "| `many_maml_1shot` | 5-way | accuracy | 51.0 ± 2.0 % | – |" in block
    block = tables.renewed("<!-- results: many_anil_1shot -->\n<!-- /results -->")
    assert "Not recorded yet: `many_anil_1shot`" in block
    block = tables.renewed("<!-- results: compare many -->\n<!-- /results -->")
    assert "Not run yet" in block
    (tmp_path / "recipes" / "results" / "many_maml_1shot.json").unlink()
    assert "Not run yet" in tables.renewed("<!-- results: seeds many -->\n<!-- /results -->")
    for seed, earned in enumerate([1.0, 2.0, 3.0]):
        row = {"return": {"mean": earned, "interval": 0.1}, "card": card}
        result = {"measured": {"new": row}, "settings": {"learner": "promp", "seed": seed}}
        result |= {"recipe": "many", "paper": {"new": {"return": 2.5}}, "steps": 9}
        (tmp_path / "recipes" / "results" / f"many_promp_{seed}shot.json").write_text(
            json.dumps({**result, "about": "", "seconds": 60.0})
        )
    block = tables.renewed("<!-- results: seeds many -->\n<!-- /results -->")
    # 4.303 / √3: Student's of two degrees of freedom
    assert "| ProMP | new | 3 | 2.000 ± 2.484 (2.500) | 9 steps, 60 s |" in block
    with pytest.raises(ValueError, match="no block 'sign'"):
        tables.renewed("<!-- results: sign -->\n<!-- /results -->")


def test_tables_of_the_gradient_learners_have_what_there_is(
    tables: ModuleType, tmp_path: Path
) -> None:
    recipes = tmp_path / "recipes"

    def store(recipe_name: str, name: str, rows: dict[str, Any], **other: Any) -> None:
        card = {"transductive": True, "seed": 1}
        measured = {test: {**numbers, "card": card} for test, numbers in rows.items()}
        hardware = {"processor": "P", "threads": 1, "gpu": None, "torch": "2.13"}
        result = {"recipe": recipe_name, "about": "", "paper": {}, "steps": 900, "size": 16}
        result |= {"measured": measured, "seconds": 60.0, "hardware": hardware, **other}
        (recipes / "results" / f"{name}.json").write_text(json.dumps(result))

    def block(name: str) -> str:
        return tables.renewed(f"<!-- results: {name} -->\n<!-- /results -->")

    (recipes / "omniglot_gradient.py").write_text(
        'RESULT = "omniglot_{learner}"\n'
        'ROW = "5-way 1-shot"\n'
        'PAPER = {"omniglot_maml": {ROW: {"accuracy": 0.987, "steps": 60_000}}}\n'
        'LEARNERS: dict = {"maml": 1}\n'
    )
    row = "| MAML | 98.7 % | not run | not run |  |"
    assert row in block("gradient omniglot")
    one = {"5-way 1-shot": {"accuracy": {"mean": 0.97, "interval": 0.01}}}
    store("omniglot_gradient", "omniglot_maml", one, settings={})
    part = "97.0 ± 1.0 % (900 of 60,000 steps, 16 tasks each, 60 s, CPU)"
    assert f"| MAML | 98.7 % | {part} | not run | yes |" in block("gradient omniglot")
    store("omniglot_gradient", "omniglot_maml_full", one, settings={}, steps=60_000)
    assert "| not run |" not in block("gradient omniglot")

    (recipes / "sinusoid.py").write_text(
        'RESULT = "sinusoid_{learner}"\nLEARNERS: dict = {"anil": 1}\n'
    )
    assert "| ANIL | not run |" in block("gradient sinusoid")
    error = {"squared_error": {"mean": 0.25, "interval": 0.01}}
    store("sinusoid", "sinusoid_anil", {"5 shots, 1 step": error}, settings={"learner": "anil"})
    assert "| ANIL | 0.250 ± 0.010 | not run |" in block("gradient sinusoid")
    settings = {"shots": 10, "inner_steps": 1}
    (recipes / "sinusoid_cavia.py").write_text('RESULT = "sinusoid_cavia_{context}"\n')
    store("sinusoid_cavia", "sinusoid_cavia_5", {"context of 5": error}, settings=settings)
    row = "| CAVIA, context of 5 | not run | not run | 0.250 ± 0.010 | not run |"
    assert row in block("gradient sinusoid")

    (recipes / "shapes.py").write_text(
        'RESULT = "shapes_{learner}"\nLEARNERS: dict = {"anil": 1, "maml": 2, "cavia": 3}\n'
    )
    for learner, mean in (("anil", 0.4), ("maml", 0.5)):
        values = pack(torch.full((10,), mean))
        accuracy = {"accuracy": {"mean": mean, "interval": 0.0, "values": values}}
        chosen = {"settings": {"learner": learner}}
        store("shapes", f"shapes_{learner}", {"5-way": accuracy}, **chosen)
    block_of_both = block("compare shapes")
    assert "| MAML | 50.00 ± 0.00 % | the best |" in block_of_both
    assert "| ANIL | 40.00 ± 0.00 % | -10.00 ± 0.00 % | 0% of tasks | 900 |" in block_of_both
    assert "*Not run: CAVIA.*" in block_of_both


def test_commands_that_are_named_exist() -> None:
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    shell = "\n".join(code for page in pages for _, code in blocks(page, "bash"))
    commands = set(re.findall(r"^quickstudy (\w+)", shell, re.MULTILINE))
    assert commands and commands <= {*app.COMMANDS, "train", "stream"}
    named = set(re.findall(r"quickstudy (?:train|stream) ([a-z]\w+)", shell))
    assert named and named <= set(runs.names())
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", shell, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    here = [target for target in targets if "://" not in target]
    assert here
    assert [target for target in here if not (ROOT / target).exists()] == []


def test_nothing_of_the_workshop_is_left_lying_about() -> None:
    forbidden = re.compile(
        r"/(work|tmp|root|home)/|\b(issue|session) #?\d|\bfield[-]notes\b", re.I
    )
    kinds = {".py", ".md", ".toml", ".yml", ".json", ".txt", ""}
    folders = ["quickstudy", "recipes", "benchmarks", "tests", "docs", ".ci"]
    files = [
        *ROOT.iterdir(),
        *(file for place in folders for file in (ROOT / place).rglob("*")),
    ]
    found = [
        f"{name(file)}: {match[0]}"
        for file in files
        if file.is_file() and file.suffix in kinds and not file.name.startswith(".")
        for match in forbidden.finditer(file.read_text(errors="ignore"))
    ]
    assert found == []


COMMANDS = {f"quickstudy.cli.{place}" for place in app.COMMANDS.values()}
"""Functions whose docstring is the help text, and shows a command line instead."""


def public_objects() -> Iterator[tuple[str, Any]]:
    """Every public class and function, with its name, where it is defined."""
    for info in pkgutil.walk_packages(quickstudy.__path__, "quickstudy."):
        if "._" in info.name:  # private, or `__main__`, whose import runs the command line
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            is_code = inspect.isclass(value) or inspect.isfunction(value)
            if is_code and value.__module__ == info.name and not name.startswith("_"):
                yield f"{info.name}.{name}", value


def test_every_public_class_and_function_has_an_example() -> None:
    public = dict(public_objects())
    assert len(public) > 500 and public.keys() >= COMMANDS
    without = [name for name, value in public.items() if ">>>" not in (value.__doc__ or "")]
    assert set(without) - COMMANDS == set(), "give each an executed example in its docstring"
