"""Recipes: one file per reproduced result, or per family of results.

A recipe is a Python file with a function `recipe(*, ...) -> Experiment`. Its keywords are the
settings, and `PAPER` has the published numbers. A recipe of several results names each by
`RESULT`, a format of its settings such as `"caltech101_{learner}_{shots}shot"`. `PAPER` may
then have the numbers of each under its name. Beside the numbers of a test, `steps` and
`meta_batch_size` are the paper's training.
"""

import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from quickstudy.core.task import Json, TaskDistribution
from quickstudy.evaluation.protocol import Metric, evaluate
from quickstudy.evaluation.report import Report
from quickstudy.hints import suggest
from quickstudy.learner import Learner


@dataclass(frozen=True)
class Benchmark:
    """A row of the result: the tasks that a run reports on.

    If `tasks` are `Streams`, `n_tasks` counts streams, and `stream_report` follows them to
    their ends. `evaluate_fn` may be another function, such as `partial(stream_report,
    task_incremental=True)`.

    Examples:
        >>> import quickstudy as qs
        >>> benchmark = qs.runs.Benchmark(qs.Sinusoid(5, 10), settings={"steps": 10})
        >>> benchmark.n_tasks, benchmark.meta_batch_size
        (600, 50)
    """

    tasks: TaskDistribution
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the learner: {"steps": 10}
    metrics: Mapping[str, Metric] | None = None
    n_tasks: int = 600
    meta_batch_size: int = 50  # tasks at a time
    evaluate_fn: Callable[..., Report] = evaluate  # or a function with the same arguments


@dataclass
class Experiment:
    """Everything that a recipe decides. `steps` and `meta_batch_size` are of meta-training.

    Raises:
        ValueError: there is no benchmark, a number is too small, or `better` is neither "max"
            nor "min".

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner, tasks = qs.MAML(qs.nets.MLP(1, 1)), qs.Sinusoid(5, 10)
        >>> benchmarks = {"5-shot": qs.runs.Benchmark(tasks)}
        >>> adam = torch.optim.Adam(learner.parameters())
        >>> experiment = qs.runs.Experiment(learner, tasks, tasks, benchmarks, adam, 100, 4)
        >>> experiment.validate_every, experiment.better
        (500, 'max')
    """

    learner: Learner[Any]
    train: TaskDistribution
    validation: TaskDistribution
    benchmarks: Mapping[str, Benchmark]
    optimizer: Optimizer
    steps: int
    meta_batch_size: int
    scheduler: LRScheduler | None = None
    clip: float | None = None
    precision: torch.dtype | None = None
    metrics: Mapping[str, Metric] | None = None  # of validation; the first one chooses
    better: Literal["max", "min"] = "max"  # of that metric
    validate_every: int = 500  # steps between validations
    n_validation_tasks: int = 200
    evaluate_fn: Callable[..., Report] = evaluate  # of validation
    embed_together: bool = False  # see `EmbedTogether`
    on_reopen: Callable[[], None] | None = None  # called once a run is reopened

    def __post_init__(self):
        if self.better not in ("max", "min"):
            raise ValueError(f"better={self.better!r}: give 'max' or 'min'.")
        if not self.benchmarks:
            raise ValueError("This experiment has no benchmarks: give one to report on.")
        least = {"steps": 0, "meta_batch_size": 1, "validate_every": 1, "n_validation_tasks": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: give {low} or more.")


@contextmanager
def settings_applied(learner: Learner[Any], settings: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes of a learner in this context, and restore them.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1), steps=1)
        >>> with qs.runs.settings_applied(learner, {"steps": 10}):
        ...     learner.steps
        10
        >>> learner.steps
        1
    """
    before = {name: getattr(learner, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(learner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(learner, name, value)


def folders() -> list[Path]:
    """Return the folders of recipes: in the installed package, or beside it in a checkout.

    Examples:
        >>> import quickstudy as qs
        >>> {folder.name for folder in qs.runs.folders()}
        {'recipes'}
    """
    here = Path(__file__).parents[1]
    return [folder for folder in (here / "recipes", here.parent / "recipes") if folder.is_dir()]


def names() -> list[str]:
    """Return the names of the recipes that come with quickstudy.

    Examples:
        >>> import quickstudy as qs
        >>> "glyphs_protonet" in qs.runs.names()
        True
    """
    return sorted({file.stem for folder in folders() for file in folder.glob("[a-z]*.py")})


def find(name: str) -> ModuleType:
    """Import a recipe by its name, or by the path of a Python file.

    Raises:
        ValueError: there is no such recipe. The error suggests the nearest name.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.find("glyphs_protonet").recipe.__name__
        'recipe'
        >>> qs.runs.find("glyph_protonet")
        Traceback (most recent call last):
        ValueError: There is no recipe 'glyph_protonet'. Did you mean 'glyphs_protonet'?
    """
    paths = [folder / f"{name}.py" for folder in folders()]
    paths = [Path(name)] if name.endswith(".py") else paths
    for path in paths:
        if path.is_file():
            spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if not hasattr(module, "recipe"):
                raise ValueError(f"{path} defines no function `recipe`, as a recipe must.")
            return module
    raise ValueError(f"There is no recipe {name!r}. {suggest(name, names())}")


def defaults(module: ModuleType) -> dict[str, Json]:
    """Return the settings of a recipe with their defaults.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.recipes.defaults(qs.runs.find("glyphs_protonet"))["seed"]
        0
    """
    return {key: p.default for key, p in inspect.signature(module.recipe).parameters.items()}


def result_name(module: ModuleType, settings: Mapping[str, Json]) -> str:
    """Return the name of the result of these settings.

    It is the recipe's `RESULT`, filled in, or the name of its file.

    Raises:
        ValueError: `RESULT` names a setting that the recipe does not have, or makes no file
            name.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.result_name(qs.runs.find("glyphs_protonet"), {})
        'glyphs_protonet'
    """
    stem = Path(module.__file__ or "").stem
    try:
        name = getattr(module, "RESULT", stem).format(**{**defaults(module), **settings})
    except KeyError as error:
        raise ValueError(
            f"RESULT of {stem} names {error}, which is no setting of it."
        ) from None
    if not name or Path(name).name != name:
        raise ValueError(f"RESULT of {stem} makes {name!r}, which cannot name a file.")
    return name


def published(module: ModuleType, settings: Mapping[str, Json]) -> Json:
    """Return the published numbers: the recipe's `PAPER`, or its entry for the result of these
    settings.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.published(qs.runs.find("omniglot_maml_pp"), {})
        {'5-way 1-shot': {'accuracy': 0.9947, 'steps': 50000, 'meta_batch_size': 8}}
    """
    paper = getattr(module, "PAPER", {})
    return paper.get(result_name(module, settings), paper)


def settings_of(module: ModuleType, name: str) -> dict[str, Json] | None:
    """Return the settings that give a result of a recipe its name; None if none do.

    Examples:
        >>> import quickstudy as qs
        >>> recipe = qs.runs.find("omniglot_relation")
        >>> qs.runs.settings_of(recipe, "omniglot_relation_batch_5shot")
        {'normalise': 'batch', 'shots': 5}
        >>> qs.runs.settings_of(recipe, "omniglot_imaml") is None
        True
    """
    form = getattr(module, "RESULT", Path(module.__file__ or "").stem)
    choices = {  # by the text of each, of settings that have few
        key: {str(choice): choice for choice in get_args(kind)}
        for key, kind in get_type_hints(module.recipe).items()
    }
    pattern = ""
    for part in re.split(r"(\{\w+\})", form):
        key = part.strip("{}")
        texts = "|".join(map(re.escape, choices.get(key, {}))) or ".+"
        pattern += re.escape(part) if part == key else f"(?P<{key}>{texts})"
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    before = defaults(module)
    try:
        settings: dict[str, Json] = {
            key: choices[key][text] if choices[key] else type(before[key])(text)
            for key, text in match.groupdict().items()
        }
    except (ValueError, TypeError):  # such as a word for a number
        return None
    return settings if result_name(module, settings) == name else None


def paper_steps(paper: Json, meta_batch_size: int) -> int | None:
    """Return how many steps have as many tasks as the paper's training; None: not known.

    Args:
        paper: published numbers of a result, by test. Where they have no `meta_batch_size`, the
            paper's is taken to be the same.
        meta_batch_size: tasks of a step here.

    Examples:
        >>> paper_steps({"5-way": {"steps": 20_000, "meta_batch_size": 32}}, 8)
        80000
    """
    tasks = [
        test["steps"] * test.get("meta_batch_size", meta_batch_size)
        for test in paper.values()
        if "steps" in test
    ]
    return math.ceil(max(tasks) / meta_batch_size) if tasks else None
