"""Names in files of version 0.1.0, and the names of today: one table, and what applies it.

A name of the table is consulted only if today's code does not have the stored one. Files are
checked (digests, formats) as they were written, and translated afterwards.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from torch import nn

from quickstudy.core.task import Json

Names = dict[str, str]  # stored -> today's

LEARNERS: Names = {}  # classes; of estimators and of modules that embed tasks as well
STATES: dict[str, Names] = {}  # by today's class of the learner, or of a part of it, or "*"
FIELDS: dict[str, dict[str, Names]] = {}  # likewise, then by today's class of the state
PARAMETERS: dict[str, Names] = {}  # likewise: paths, or the part of paths that has changed
OPTIMIZERS: Names = {"Epochs": "MultiEpoch"}  # and schedulers
RECIPES: dict[str, tuple[str, dict[str, Json]]] = {}  # today's, and settings it has to have
SETTINGS: dict[str, Names] = {"*": {"size": "meta_batch_size"}}  # by the stored recipe, or "*"
TARGETS: dict[str, Names] = {}  # entries of `targets` by today's estimator
EMBEDDINGS: Names = {}  # functions that embed tasks
CARDS: Names = {}  # keys of protocol cards, and values that are text


def parameters(
    learner: nn.Module, stored: Iterable[str], current: Collection[str]
) -> dict[str, str]:
    """Return today's names of stored parameters and buffers.

    Args:
        stored: names in a file.
        current: the learner's names.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1))
        >>> parameters(learner, ["net.head.bias", "unknown"], ["net.head.bias"])
        {'net.head.bias': 'net.head.bias', 'unknown': 'unknown'}
    """
    rules, names = list(_rules(PARAMETERS, learner)), dict[str, str]()
    for name in stored:
        today = name
        for old, new in rules:
            today = today if today in current else _substitute(today, old, new)
        names[name] = today if today in current else name
    return names


def stored_parameters(learner: nn.Module, current: Iterable[str]) -> dict[str, str]:
    """Return the names that version 0.1.0 gave to a learner's parameters and buffers.

    Examples:
        >>> import quickstudy as qs
        >>> stored_parameters(qs.MAML(qs.nets.MLP(1, 1)), ["net.head.bias"])
        {'net.head.bias': 'net.head.bias'}
    """
    names = {name: name for name in current}
    for old, new in _rules(PARAMETERS, learner):
        names = {today: _substitute(name, new, old) for today, name in names.items()}
    return names


def stored_classes(name: str) -> list[str]:
    """Return the names under which version 0.1.0 stored a class that is called `name` today.

    Examples:
        >>> stored_classes("MAML")
        []
    """
    return [old for old, new in LEARNERS.items() if new == name]


def stored_kinds(
    learner: nn.Module, kinds: Mapping[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
    """Return the classes of a learner's states, by today's and by stored names and fields.

    Args:
        kinds: the classes by today's name and fields.

    Examples:
        >>> import quickstudy as qs
        >>> kinds = {("Examples", "x", "y", "weight"): qs.Examples}
        >>> stored_kinds(qs.MAML(qs.nets.MLP(1, 1)), kinds) == kinds
        True
    """
    both = dict(kinds)
    for owner in _owners(learner):
        states, fields = STATES.get(owner, {}), FIELDS.get(owner, {})
        for (name, *current), kind in kinds.items():
            former = {new: old for old, new in fields.get(name, {}).items()}
            stored = [former.get(field, field) for field in current]
            for old in (*(old for old, new in states.items() if new == name), name):
                both.setdefault((old, *stored), kind)
                both.setdefault((old, *current), kind)
    return both


def recipe(
    name: str, settings: Mapping[str, Json], known: Collection[str] = ()
) -> tuple[str, dict[str, Json]]:
    """Return today's name and settings of a stored recipe.

    Args:
        known: names of today's recipes and settings, which stay.

    Examples:
        >>> recipe("sinusoid_maml", {"steps": 3, "size": 2})
        ('sinusoid_maml', {'steps': 3, 'meta_batch_size': 2})
        >>> recipe("mine.py", {"size": 2}, known=["size"])
        ('mine.py', {'size': 2})
    """
    names = {**SETTINGS["*"], **SETTINGS.get(name, {})}
    today, extra = RECIPES.get(name, (name, {})) if name not in known else (name, {})
    renamed = {
        key if key in known else names.get(key, key): value for key, value in settings.items()
    }
    return today, {**extra, **renamed}


def result(stored: Mapping[str, Json]) -> dict[str, Json]:
    """Return the result of a run with today's name and settings of its recipe.

    Examples:
        >>> result({"recipe": "sinusoid_maml", "settings": {"size": 2}, "steps": 3})
        {'recipe': 'sinusoid_maml', 'settings': {'meta_batch_size': 2}, 'steps': 3}
    """
    name, settings = recipe(stored["recipe"], stored["settings"])
    return {**stored, "recipe": name, "settings": settings}


def model(about: Mapping[str, Json]) -> dict[str, Json]:
    """Return the metadata of an adapted model with today's names.

    Examples:
        >>> model({"estimator": "FewShotClassifier", "targets": {"classes": ["a"]}})
        {'estimator': 'FewShotClassifier', 'targets': {'classes': ['a']}}
    """
    estimator = LEARNERS.get(about["estimator"], about["estimator"])
    names = TARGETS.get(estimator, {})
    targets = {names.get(key, key): value for key, value in about["targets"].items()}
    return {**about, "estimator": estimator, "targets": targets}


def card(stored: Mapping[str, Json]) -> dict[str, Json]:
    """Return a protocol card with today's keys and texts.

    Examples:
        >>> card({"tasks": "streams", "known task": False})
        {'tasks': 'streams', 'known task': False}
    """

    def today(value: Json) -> Json:
        if isinstance(value, dict):
            return {CARDS.get(key, key): today(part) for key, part in value.items()}
        return CARDS.get(value, value) if isinstance(value, str) else value

    return today(dict(stored))


def _owners(learner: nn.Module) -> list[str]:
    """The keys of tables that hold for a learner."""
    classes = chain.from_iterable(type(part).__mro__ for part in learner.modules())
    return [*dict.fromkeys(kind.__name__ for kind in classes), "*"]


def _rules(table: Mapping[str, Names], learner: nn.Module) -> Iterator[tuple[str, str]]:
    for owner in _owners(learner):
        yield from table.get(owner, {}).items()


def _substitute(name: str, old: str, new: str) -> str:
    """Replace whole components of a path. Keys that contain a path have "/" for "."."""

    def replace(match: re.Match[str]) -> str:
        around = name[max(match.start() - 1, 0) : match.end() + 1]
        return new.replace(".", "/") if "/" in around else new

    path = "[./]".join(map(re.escape, old.split(".")))
    return re.sub(rf"(?<![^./ ]){path}(?![^./ ])", replace, name)
