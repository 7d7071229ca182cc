"""What is left to train: results that are missing, or that fall short of the paper's.

A result is *missing* if a recipe's `PAPER` has numbers for it and nothing is stored. It is *too
short* if it was trained less than the paper trains and misses a published number, or if its
training was stopped. The *gap* is the largest relative distance to a published number that was
missed, |measured - published| / |published|.

Each training is a run of its own with its whole schedule, `GROWTH` times as long as the stored
one and at most as long as the paper's: a short training that ends is worth more than the start
of a long one, and a result of a given length can be repeated. All trainings before the last one
take a third of its time together.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from quickstudy.core.task import Json
from quickstudy.hints import suggest
from quickstudy.runs import recipes
from quickstudy.runs.results import result, stored
from quickstudy.storage.checkpoint_series import Checkpoints
from quickstudy.storage.checkpoints import read_facts

FOLDER = Path("runs/queue")  # of the runs
GROWTH = 4  # each training is so many times as long as the one before


class Row(NamedTuple):
    """A result with its next training.

    Examples:
        >>> import quickstudy as qs
        >>> row = qs.runs.Row("mine", "sinusoid", {}, 0, None, None, 100, 25, 2.0, 0, Path("x"))
        >>> row.seconds_left
        150.0
    """

    name: str
    recipe: str
    settings: Mapping[str, Json]  # of the next training
    recorded: int  # steps of the stored result; 0: none is stored
    fraction: float | None  # of the paper's training in the stored result; None: not known
    gap: float | None  # None: no number is published; inf: nothing is stored
    steps: int | None  # of the next training; None: those of the recipe
    trained: int  # of these, done so far
    seconds: float | None  # per step; None: not measured yet
    turns: int  # trainings in the folder that are finished
    folder: Path  # of the next training

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the next training ends, by what was measured; None: not known."""
        if self.steps is None or self.seconds is None:
            return None
        return (self.steps - self.trained) * self.seconds


def remaining(
    first: Iterable[str] = (), *, only: Iterable[str] = (), folder: Path = FOLDER
) -> list[Row]:
    """Return what is left to train, in the order in which to train it.

    The rows of `first` come before the others. Among either, those come first that had the
    fewest trainings in `folder`, so that each has its turn; among these the rows of `first` are
    in the order given, and the others by their gap, missing results before all.

    Args:
        first: names of results.
        only: names of results; rows of other results are left out. Default: all rows.
        folder: folder of the runs of this queue.

    Raises:
        ValueError: no recipe has a result of such a name.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.remaining(only=["mine"])
        Traceback (most recent call last):
            ...
        ValueError: No recipe has a result 'mine'. ...
    """
    first, only, results = list(first), list(only), stored()
    modules = {name: recipes.find(name) for name in recipes.names()}
    missing = {name: place for name, place in _published(modules) if name not in results}
    for name in {*first, *only} - results.keys() - missing.keys():
        missing[name] = _place(name, modules, [*results, *missing])
    rows = [
        row
        for name, content in results.items()
        if (row := _too_short(name, content, modules, folder)) is not None
    ]
    for name, (recipe, settings) in missing.items():
        rest = _progress(name, modules[recipe], settings, folder)
        rows.append(Row(name, recipe, settings, 0, None, math.inf, *rest))

    def order(row: Row) -> tuple[bool, int, int, float, float]:
        place = first.index(row.name) if row.name in first else len(first)
        return row.name not in first, row.turns, place, -(row.gap or 0.0), row.fraction or 0.0

    return sorted((row for row in rows if not only or row.name in only), key=order)


def largest_gap(result: Json, paper: Json) -> float | None:
    """Return the largest relative distance to a published number that a result misses.

    0: it misses none. None: no number of it is published.

    Examples:
        >>> measured = {"5-way": {"accuracy": {"mean": 0.9, "interval": 0.01}}}
        >>> paper = {"5-way": {"accuracy": 0.96, "steps": 100}}
        >>> round(largest_gap({"measured": measured, "better": "max"}, paper), 4)
        0.0625
    """
    sign = -1 if result.get("better") == "min" else 1
    gaps = [0.0]
    for test, numbers in result["measured"].items():
        for metric in numbers.keys() & paper.get(test, {}).keys() - {"card"}:
            published, mean = paper[test][metric], numbers[metric]["mean"]
            distance = math.inf if mean is None else sign * (published - mean)
            gaps.append(distance / abs(published))
    return max(gaps) if len(gaps) > 1 else None


def _too_short(
    name: str, content: Json, modules: Mapping[str, ModuleType], folder: Path
) -> Row | None:
    """The next training of a stored result; None if there is none."""
    module = modules.get(content["recipe"]) or recipes.find(content["recipe"])
    settings, done = content["settings"], content["steps"]
    paper = recipes.published(module, settings)
    gap = largest_gap(content, paper)
    size = content.get("size") or settings.get("meta_batch_size") or 1
    whole = recipes.paper_steps(paper, size)
    steps = content.get("planned_steps", done)
    if done >= steps:
        missed = gap != 0 and (gap is not None or whole is not None)
        if not missed or done == 0 or (whole is not None and done >= whole):
            return None
        steps = min(GROWTH * done, whole or GROWTH * done)
        settings = {**settings, "steps": steps}
    row = Row(
        name,
        content["recipe"],
        settings,
        done,
        None if whole is None else done / whole,
        gap,
        *_progress(name, module, settings, folder),
    )
    if row.seconds is None and done:
        return row._replace(seconds=content["seconds"] / done)
    return row


def _progress(
    name: str, module: ModuleType, settings: Mapping[str, Json], folder: Path
) -> tuple[int | None, int, float | None, int, Path]:
    """The last fields of a `Row`, from `steps` on."""
    steps = {**recipes.defaults(module), **settings}.get("steps")
    run = folder / f"{name}-{'default' if steps is None else steps}"
    results = [result(file) for file in folder.glob(f"{name}-*/result.json")]
    turns = sum(content["steps"] == content["planned_steps"] for content in results)
    latest = Checkpoints(run).latest()
    if latest is None:
        return steps, 0, None, turns, run
    facts = read_facts(latest)
    trained = facts["step"]
    return steps, trained, facts["seconds"] / trained if trained else None, turns, run


def _published(
    modules: Mapping[str, ModuleType],
) -> Iterator[tuple[str, tuple[str, dict[str, Json]]]]:
    """The results that a recipe's `PAPER` has numbers for, with recipe and settings."""
    for recipe, module in modules.items():
        paper = getattr(module, "PAPER", {})
        named = {name: recipes.settings_of(module, name) for name in paper}
        if all(settings is None for settings in named.values()):  # `PAPER` has tests
            named = {recipes.result_name(module, {}): {}} if paper else {}
        for name, settings in named.items():
            if settings is not None:
                yield name, (recipe, settings)


def _place(
    name: str, modules: Mapping[str, ModuleType], names: Iterable[str]
) -> tuple[str, dict[str, Json]]:
    """The recipe of a result, and its settings."""
    for recipe, module in modules.items():
        settings = recipes.settings_of(module, name)
        if settings is not None:
            return recipe, settings
    raise ValueError(f"No recipe has a result {name!r}. {suggest(name, names)}")
