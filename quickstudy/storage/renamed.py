"""Names in files of version 0.1.0, and the names of today: one table, and what applies it.

A name of the table is consulted only if today's code does not have the stored one. Files are
checked (digests, formats) as they were written, and translated afterwards.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from quickstudy.core.task import Json

Names = dict[str, str]  # stored -> today's

# The table

# by today's class of the learner, or of a part of it
STATES: dict[str, Names] = {
    "ProtoMAML": {"Classifier": "ProtoMAMLState"},
    "Reptile": {"Adapted": "ReptileState"},
    "MatchingNetwork": {"Embedded": "MatchingState"},
    "SemiSupervisedPrototypicalNetwork": {"Clusters": "SemiSupervisedState"},
    "RelationNetwork": {"ClassMaps": "RelationState"},
    "R2D2": {"Fitted": "FittedHead"},
    "LRD2": {"Fitted": "FittedHead"},
    "MetaOptNet": {"Fitted": "FittedHead"},
    "RidgeRegression": {"Moments": "RidgeState"},
    "Baseline": {"Head": "BaselineState"},
    "TIM": {"Seen": "TIMState"},
    "LifeLongMemory": {"Memory": "LifeLongMemoryState"},
    "MANN": {"Heard": "MANNState"},
    "MemoryNetwork": {"Memory": "MemoryNetworkState"},
    "MetaNet": {"FastWeights": "MetaNetState"},
    "ConditionalNeuralProcess": {"Representation": "ConditionalNeuralProcessState"},
    "EWC": {"Anchored": "EWCState"},
    "SynapticIntelligence": {"Weighed": "SIState"},
    "LearningWithoutForgetting": {"Known": "LwFState"},
    "AGEM": {"Guarded": "AGEMState"},
    "LaMAML": {"Paced": "LaMAMLState"},
    "GDumb": {"Greedy": "GDumbState", "Balanced": "BalancedMemory"},
    "ExperienceReplay": {"Replayed": "ExperienceReplayState"},
    "MER": {"Aligned": "MERState"},
    "Joint": {"Everything": "JointState"},
    "DarkExperienceReplay": {"Distilled": "DERState", "Said": "LabelledLogits"},
    "OML": {"Head": "OMLState"},
    "StreamingLDA": {"Moments": "StreamingLDAState"},
    "PEARL": {"Held": "LatentSample"},
}
# likewise, then by today's class of the state
FIELDS: dict[str, dict[str, Names]] = {
    "NTM": {"NTMState": {"weightings": "attention_weights"}},
    "MANN": {"MANNState": {"machine": "cell", "told": "last_label"}},
    "SNAILPolicy": {"Memory": {"known": "mask"}},
}
# likewise: paths relative to an instance of the class
PARAMETERS: dict[str, Names] = {
    "SiameseNetwork": {"compare": "similarity"},
    "MANN": {"machine": "cell"},
    "SequenceLearner": {"machine": "cell"},
    "SNAILPolicy": {"embed": "observation_layer"},
    "PEARL": {
        "replay.written": "replay.write_count",
        "replay.since": "replay.explore_start",
        "replay.until": "replay.explore_end",
    },
    "MAMLRL": {"net.log_deviation": "net.log_std"},
    "FromScratch": {"net.log_deviation": "net.log_std"},
}
# classes of optimizers and schedulers
OPTIMIZERS: Names = {
    "Epochs": "MultiEpoch",
}
# settings are formats of the stored settings
RECIPES: dict[str, tuple[str, dict[str, str]]] = {
    "omniglot_maml": ("omniglot_gradient", {"learner": "maml"}),
    "omniglot_fomaml": ("omniglot_gradient", {"learner": "fomaml"}),
    "omniglot_anil": ("omniglot_gradient", {"learner": "anil"}),
    "omniglot_boil": ("omniglot_gradient", {"learner": "boil"}),
    "omniglot_meta_sgd": ("omniglot_gradient", {"learner": "meta_sgd"}),
    "omniglot_meta_curvature": ("omniglot_gradient", {"learner": "meta_curvature"}),
    "omniglot_proto_maml": ("omniglot_gradient", {"learner": "proto_maml"}),
    "omniglot_protonet": ("omniglot_metric", {"learner": "protonet"}),
    "omniglot_matching": ("omniglot_metric", {"learner": "matching_{embeddings}"}),
    "omniglot_siamese": ("omniglot_metric", {"learner": "siamese_{loss}"}),
    "omniglot_memory_network": ("omniglot_metric", {"learner": "memory_network"}),
    "omniglot_r2d2": ("omniglot_metric", {"learner": "r2d2"}),
    "omniglot_meta_opt_net": ("omniglot_metric", {"learner": "meta_opt_net"}),
    "sinusoid_maml": ("sinusoid", {"learner": "maml"}),
    "sinusoid_meta_sgd": ("sinusoid", {"learner": "meta_sgd"}),
    "copy_ntm": ("copying", {"task": "copy"}),
    "repeat_copy_ntm": ("copying", {"task": "repeat_copy"}),
}
# by the stored recipe, or "*"; None: dropped
SETTINGS: dict[str, dict[str, str | None]] = {
    "*": {"size": "meta_batch_size"},
    "omniglot_matching": {"embeddings": None},
    "omniglot_siamese": {"loss": None},
    "omniglot_mann": {"again": "show_label_with_input"},
}


# What applies it


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
    rules, names = _rules(learner), dict[str, str]()
    for name in stored:
        today = name
        for rule in rules:
            today = today if today in current else _substitute(today, *rule)
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
    for path, old, new in _rules(learner):
        names = {today: _substitute(name, path, new, old) for today, name in names.items()}
    return names


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
    class_names = [kind.__name__ for part in learner.modules() for kind in type(part).__mro__]
    for owner in dict.fromkeys([*class_names, *STATES, *FIELDS]):  # its classes come first
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
        >>> recipe("streams", {"size": 2})
        ('streams', {'meta_batch_size': 2})
        >>> recipe("omniglot_siamese", {"loss": "triplet", "steps": 3})
        ('omniglot_metric', {'learner': 'siamese_triplet', 'steps': 3})
        >>> recipe("mine.py", {"size": 2}, known=["size"])
        ('mine.py', {'size': 2})
    """
    today, extra = (name, {}) if name in known else RECIPES.get(name, (name, {}))
    renamed = {key: value.format(**settings) for key, value in extra.items()}
    names = {**SETTINGS["*"], **SETTINGS.get(name, {})}
    for key, value in settings.items():
        new = key if key in known else names.get(key, key)
        if new is not None:
            renamed[new] = value
    return today, renamed


def result(stored: Mapping[str, Json], known: Collection[str] = ()) -> dict[str, Json]:
    """Return the result of a run with today's name and settings of its recipe.

    Args:
        known: names of today's recipes, which stay.

    Examples:
        >>> result({"recipe": "streams", "settings": {"size": 2}, "steps": 3})
        {'recipe': 'streams', 'settings': {'meta_batch_size': 2}, 'steps': 3}
    """
    name, settings = recipe(stored["recipe"], stored["settings"], known)
    return {**stored, "recipe": name, "settings": settings}


def _rules(learner: nn.Module) -> list[tuple[str, str, str]]:
    """Renamed paths in a learner: (path of the part, old, new), the outermost part first."""
    return [
        (f"{path}." if path else "", old, new)
        for path, part in learner.named_modules()
        for kind in type(part).__mro__
        for old, new in PARAMETERS.get(kind.__name__, {}).items()
    ]


# parts whose keys contain names of parameters of the net, with "/" or "." between components
_HOLDERS = re.compile(r"(^|\.)(norms|rates|curvature)\.")


def _substitute(name: str, path: str, old: str, new: str) -> str:
    """Replace a path in the name of a parameter."""
    if f"{name}.".startswith(f"{path}{old}."):
        return f"{path}{new}{name[len(path) + len(old) :]}"
    if not _HOLDERS.search(name):
        return name
    separator = "/" if "/" in name else "."
    old, new = (part.replace(".", separator) for part in (old, new))
    return re.sub(rf"(?<![^./]){re.escape(old)}(?![^./])", new, name, count=1)
