"""Trees of tensors as JSON that names its tensors. Nothing is unpickled or imported.

`pack` and `unpack` are for the state of optimizers: any plain Python containers. `pack_state`
and `unpack_state` are for the states of learners: dictionaries, tuples and NamedTuples. A file
records the name and the fields of a NamedTuple.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from quickstudy.core.task import Json
from quickstudy.storage.files import CheckpointError, class_name

StateTypes: TypeAlias = Mapping[tuple[str, ...], Any]  # NamedTuple classes: (name, *fields)


def tensor_kind(tensor: Tensor) -> str:
    """Return the dtype and shape of a tensor, as files record them.

    Examples:
        >>> import torch
        >>> tensor_kind(torch.zeros(2, 3))
        'float32 [2, 3]'
    """
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Json:
    """Return `value` as JSON, and move its tensors to `tensors` under their paths.

    Raises:
        CheckpointError: a value is neither a tensor nor JSON.

    Examples:
        >>> import torch
        >>> tensors = {}
        >>> pack({"step": 3, "average": [torch.ones(2)]}, "state", tensors)
        {'step': 3, 'average': [{'$tensor': 'state.average.0'}]}
        >>> tensors
        {'state.average.0': tensor([1., 1.])}
    """
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = [(key, pack(part, f"{path}.{key}", tensors)) for key, part in value.items()]
        if isinstance(value, Counter):  # the milestones of MultiStepLR
            return {"$counter": items}
        # keys that are numbers would come back from JSON as text
        return dict(items) if all(isinstance(key, str) for key in value) else {"$dict": items}
    if isinstance(value, list | tuple):
        parts = [pack(part, f"{path}.{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"`{path}` is a {class_name(value)}, which a checkpoint cannot hold: it takes tensors, "
        "numbers, text, and lists and dictionaries of these."
    )


def unpack(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `pack` was given.

    Examples:
        >>> tensors = {}
        >>> unpack(pack({1: (2, "three")}, "state", tensors), tensors)
        {1: (2, 'three')}
    """
    match value:
        case {"$tensor": path}:
            return tensors[path]
        case {"$counter": items}:
            return Counter({key: unpack(part, tensors) for key, part in items})
        case {"$dict": items}:
            return {key: unpack(part, tensors) for key, part in items}
        case {"$tuple": parts}:
            return tuple(unpack(part, tensors) for part in parts)
        case dict():
            return {key: unpack(part, tensors) for key, part in value.items()}
        case list():
            return [unpack(part, tensors) for part in value]
    return value


# States of learners


def named_tuples(learner: nn.Module) -> dict[tuple[str, ...], Any]:
    """Return the NamedTuple classes that the states of a learner may be made of, by their name
    and fields.

    They are those at the top level of the files that define the learner's classes and parts,
    and of the files whose names these use, in the same packages. The nearest comes first.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(qs.nets.MLP(2, 2))
        >>> ("Examples", "x", "y", "weight") in named_tuples(learner)
        True
    """
    classes = {kind for part in learner.modules() for kind in type(part).__mro__}
    pending = sorted({kind.__module__ for kind in classes})
    packages = {"quickstudy", *(name.partition(".")[0] for name in pending)} - {"torch"}
    visited, kinds = set[str](), dict[tuple[str, ...], Any]()
    while pending:
        name = pending.pop(0)
        visited.add(name)
        values = list(vars(sys.modules[name]).values())
        for kind in values:
            if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
                fields: Iterable[str] = kind._fields  # pyright: ignore[reportAttributeAccessIssue]
                kinds.setdefault((kind.__name__, *fields), kind)
        modules = [v if isinstance(v, ModuleType) else inspect.getmodule(v) for v in values]
        used = {m.__name__ for m in modules if m and m.__name__.partition(".")[0] in packages}
        pending += sorted((used & sys.modules.keys()) - visited - {*pending})
    return kinds


def pack_state(tree: Any, name: str, tensors: dict[str, Tensor], types: StateTypes) -> Json:
    """Return a state as JSON, and move its tensors to `tensors` under names that are paths.

    Raises:
        CheckpointError: a part is neither a tensor, a dictionary, a tuple nor one of `types`.

    Examples:
        >>> import torch
        >>> tensors = {}
        >>> pack_state({"weight": torch.ones(2)}, "", tensors, {})
        {'dict': {'weight': 'weight'}}
        >>> tensors
        {'weight': tensor([1., 1.])}
    """

    def pack_items(items: Mapping[str, Any]) -> dict[str, Json]:
        return {
            key: pack_state(part, f"{name}/{key}" if name else key, tensors, types)
            for key, part in items.items()
        }

    if isinstance(tree, Tensor) and name not in tensors:
        copy = tree.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        tensors[name] = copy
        return name
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": pack_items(tree)}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields: dict[str, Any] = tree._asdict()  # pyright: ignore[reportAttributeAccessIssue]
        if (class_name(tree), *fields) in types:
            return {"class": class_name(tree), "fields": pack_items(fields)}
    elif isinstance(tree, tuple):
        parts = {str(i): part for i, part in enumerate(tree)}
        return {"tuple": list(pack_items(parts).values())}
    raise CheckpointError(
        f"`{name or 'state'}` is a {class_name(tree)}, which a file cannot hold: a state is "
        "made of tensors, dictionaries with text for keys, tuples, and NamedTuples defined at "
        "the top level of the learner's file."
    )


def unpack_state(nest: Json, tensors: Mapping[str, Tensor], types: StateTypes) -> Any:
    """Return what `pack_state` was given.

    Raises:
        CheckpointError: the state has a NamedTuple that is not one of `types`.

    Examples:
        >>> import torch
        >>> tensors = {}
        >>> nest = pack_state((torch.ones(1), torch.zeros(1)), "", tensors, {})
        >>> unpack_state(nest, tensors, {})
        (tensor([1.]), tensor([0.]))
    """
    match nest:
        case {"class": name, "fields": fields}:
            if (name, *fields) not in types:
                raise CheckpointError(
                    f"The state is a {name} of {', '.join(fields)}, which this version of the "
                    "learner does not have: use the version that saved it."
                )
            # by position: the fields may have had other names
            parts = (unpack_state(part, tensors, types) for part in fields.values())
            return types[(name, *fields)](*parts)
        case {"dict": items}:
            return {key: unpack_state(part, tensors, types) for key, part in items.items()}
        case {"tuple": parts}:
            return tuple(unpack_state(part, tensors, types) for part in parts)
    return tensors[nest]
