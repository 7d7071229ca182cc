"""A step of CONTRIBUTING.md that is left out fails here, or in the tests that it names."""

import ast
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import quickstudy
from quickstudy import (
    Learner,
    TaskDistribution,
    capabilities,
    datasets,
    environments,
    reports,
    tasks,
)
from quickstudy.cli import app, catalogue
from quickstudy.datasets import Labelled, Splits, TrainTest
from quickstudy.environments import Environment, GymnasiumFamily, Robot
from quickstudy.tasks import OffPolicyTasks, Streams
from tests.environments.test_environments import ALL
from tests.zoo import ACTORS, TASKS, ZOO

ROOT = Path(__file__).parents[1]
SIMULATORS = Robot | GymnasiumFamily  # which have tests of their own, as they are not pure
CAPABILITIES = {  # other attributes may mean other things in a learner
    "embed": capabilities.Embeds,
    "pair_logits": capabilities.ComparesInputs,
    "memory_size": capabilities.HasMemorySize,
    "attention_weights": capabilities.HasAttentionWeights,
    "checkpoint": capabilities.Checkpointed,
}
NOT_IN_TASKS = {OffPolicyTasks, Streams}  # tests/zoo.py says why


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Every module below a package."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def definitions(package: ModuleType) -> Iterator[tuple[str, Any]]:
    """Every public class and function that a module below a package defines."""
    for module in modules(package):
        for name, thing in vars(module).items():
            here = getattr(thing, "__module__", None) == module.__name__
            if here and not name.startswith("_") and callable(thing):
                yield name, thing


def concrete(package: ModuleType, base: type) -> dict[str, type]:
    """The classes below a package that derive from `base` and can be made."""
    return {
        name: thing
        for name, thing in definitions(package)
        if inspect.isclass(thing) and issubclass(thing, base) and not inspect.isabstract(thing)
    }


def returning(package: ModuleType, *bases: type) -> list[str]:
    """The functions below a package that return one of `bases`."""
    return [
        name
        for name, thing in definitions(package)
        if inspect.isfunction(thing)
        and inspect.isclass(kind := returned(thing))
        and issubclass(kind, bases)
    ]


def returned(function: Any) -> Any:
    """The class of what a function returns, by its annotation."""
    kind = inspect.signature(function, eval_str=True).return_annotation
    return typing.get_origin(kind) or kind


def text(*patterns: str) -> str:
    """The files that match, one after the other."""
    return "\n".join(file.read_text() for p in patterns for file in sorted(ROOT.glob(p)))


def unmentioned(names: Any, *patterns: str) -> list[str]:
    """The names that no file mentions."""
    words = set(re.findall(r"\w+", text(*patterns)))
    return [name for name in names if name not in words]


LEARNERS = concrete(quickstudy.learners, Learner)
DISTRIBUTIONS = concrete(tasks, TaskDistribution)
ENVIRONMENTS = concrete(environments, Environment)
DATASETS = returning(datasets, Labelled, Splits, TrainTest)


def test_learners_and_variants_are_exported() -> None:
    variants = returning(quickstudy.learners, Learner)
    for name, thing in definitions(quickstudy.learners):
        if name in LEARNERS or name in variants:
            family = importlib.import_module(thing.__module__.rpartition(".")[0])
            assert name in family.__all__, f"add {name} to `__all__` of {family.__name__}"
            assert name in dir(quickstudy), f"add {name} to quickstudy/__init__.pyi"


def test_learners_are_in_the_zoo() -> None:
    zoo = {type(entry.learner()).__name__ for entry in ZOO.values()}
    zoo |= {type(entry.case().rollouts.learner).__name__ for entry in ACTORS.values()}
    missing = [name for name in LEARNERS if name not in zoo]
    assert not missing, "add each to ZOO or ACTORS of tests/zoo.py"


def test_learners_have_an_oracle() -> None:
    missing = unmentioned(LEARNERS, "tests/learners/test_*.py")
    assert not missing, "write tests/learners/test_NAME.py for each"


@pytest.mark.parametrize("name", ZOO)
def test_capabilities_are_declared(name: str) -> None:
    learner = ZOO[name].learner()
    for attribute, capability in CAPABILITIES.items():
        declared = isinstance(learner, capability) or not hasattr(learner, attribute)
        assert declared, f"derive {type(learner).__name__} from {capability.__name__}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/learners").glob("*.md")))
def test_pages_of_learners_are_linked(page: Path) -> None:
    link = f"learners/{page.name}"
    assert link in text("docs/reference/learners.md"), "link it in docs/reference/learners.md"
    guides = text("docs/choosing.md", "docs/lifelong.md", "docs/rl.md")
    assert link in guides, (
        "add a row to docs/choosing.md, or a link to docs/lifelong.md or rl.md"
    )


def test_pages_are_in_the_navigation() -> None:
    nav = text("mkdocs.yml")
    pages = (file.relative_to(ROOT / "docs").as_posix() for file in ROOT.glob("docs/**/*.md"))
    missing = [page for page in pages if f"- {page}\n" not in nav and f": {page}\n" not in nav]
    assert not missing, "add each to `nav` of mkdocs.yml"


def test_task_distributions_are_exported_and_tested() -> None:
    missing = [name for name in DISTRIBUTIONS if name not in tasks.__all__]
    assert not missing, "add each to `__all__` of quickstudy/tasks/__init__.py"
    in_zoo = {type(make()) for make, _ in TASKS.values()} | NOT_IN_TASKS
    missing = [name for name, thing in DISTRIBUTIONS.items() if thing not in in_zoo]
    assert not missing, "add each to TASKS of tests/zoo.py"
    missing = unmentioned(DISTRIBUTIONS, "tests/tasks/test_*.py")
    assert not missing, "write tests/tasks/test_NAME.py for each"


def test_data_sets_are_exported_and_tested() -> None:
    missing = [name for name in DATASETS if name not in datasets.__all__]
    assert not missing, "add each to `__all__` of quickstudy/datasets/__init__.py"
    missing = unmentioned(DATASETS, "tests/datasets/test_*.py")
    assert not missing, "write tests/datasets/test_NAME.py for each"


def test_environments_are_exported_tested_and_described() -> None:
    missing = [name for name in ENVIRONMENTS if name not in environments.__all__]
    assert not missing, "add each to `__all__` of quickstudy/environments/__init__.py"
    in_all = {type(environment) for environment in ALL}
    pure = {n: thing for n, thing in ENVIRONMENTS.items() if not issubclass(thing, SIMULATORS)}
    missing = [name for name, thing in pure.items() if thing not in in_all]
    assert not missing, "add each to ALL of tests/environments/test_environments.py"
    missing = unmentioned(ENVIRONMENTS, "tests/environments/test_*.py")
    assert not missing, "write a test in tests/environments for each"
    missing = unmentioned(ENVIRONMENTS, "docs/rl.md")
    assert not missing, "add a row to docs/rl.md for each"


def test_commands_are_in_the_table() -> None:
    places = set(app.COMMANDS.values())
    for file in ROOT.glob("quickstudy/cli/*.py"):
        for function in ast.parse(file.read_text()).body:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                example = re.search(
                    r"^Example: quickstudy ", ast.get_docstring(function) or "", re.M
                )
                place = f"{file.stem}.{function.name}"
                assert not example or place in places, f"add {place} to GROUPS in cli/app.py"


@pytest.mark.parametrize("name", app.COMMANDS)
def test_commands_are_described_and_tested(name: str) -> None:
    file, function = app.COMMANDS[name].split(".")
    source = (ROOT / f"quickstudy/cli/{file}.py").read_text()
    summary = catalogue.summaries(ROOT / f"quickstudy/cli/{file}.py")[function]
    assert summary, "write a docstring, which is the help"
    example = name in app.RECIPE_COMMANDS or f"Example: quickstudy {name}" in source
    assert example, "add an example to the docstring"
    assert f"quickstudy {name}" in text("README.md"), "add it to the README"
    assert f"`quickstudy {name}" in text("docs/reference/command-line.md"), (
        "add it to docs/reference/command-line.md"
    )
    tests = text("tests/test_cli*.py", "tests/test_demo.py")
    assert re.search(rf"[\"']{name}[\"' ]", tests), "write a test in tests/test_cli*.py"


def test_figures_are_drawn_exported_and_tested() -> None:
    figures = [name for name, _ in definitions(reports) if name.startswith("draw_")]
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(text("quickstudy/reports/write.py")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    missing = [name for name in figures if name not in calls]
    assert not missing, "call each in quickstudy/reports/write.py"
    missing = [name for name in figures if name not in reports.__all__]
    assert not missing, "add each to `__all__` of quickstudy/reports/__init__.py"
    missing = unmentioned(figures, "tests/test_*.py")
    assert not missing, "write a test in tests/test_report.py for each"


def test_templates_are_named() -> None:
    stated = set(re.findall(r"docs/templates/(\w+\.py)", text("CONTRIBUTING.md")))
    assert stated == {file.name for file in ROOT.glob("docs/templates/*.py")}
