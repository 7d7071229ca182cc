"""Digests of Python objects, by which a stored result is recognised as that of a computation.

A digest is made of all that an object holds: its class, settings and tensors. A function counts
by its code and by the values that it holds, so a lambda, a closure and a `partial` each have
their own digest. A class counts by all its attributes. Packages that are installed count by
name, as their versions tell the rest. Of the global names that a function looks up, constants,
tensors, arrays, functions and classes are followed, and other objects are not.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.core.task import Json
from quickstudy.storage.files import CheckpointError, class_name
from quickstudy.storage.state_file import tensors_sha256

# what Python itself adds to a class
_OF_EVERY_CLASS = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__"} | {
    "__firstlineno__",
    "__static_attributes__",
    "__annotations__",
    "__annotations_cache__",
    "__parameters__",
    "__orig_bases__",
    "__abstractmethods__",
    "_abc_impl",
    "__slotnames__",
}
_PLAIN = (str, int, float, complex, bytes, torch.dtype, torch.device, type(None))


def fingerprint(value: Any) -> str:
    """Return the sha256 of an object: equal in every process for objects made in the same way.

    Whether a module is in training mode does not count.

    Raises:
        CheckpointError: a part cannot be described, such as an open file.

    Examples:
        >>> import quickstudy as qs
        >>> first, second = qs.Sinusoid(5, 5), qs.Sinusoid(5, 6)
        >>> fingerprint(first) == fingerprint(second)
        False
        >>> from functools import partial
        >>> fingerprint(partial(round, ndigits=1)) == fingerprint(partial(round, ndigits=1))
        True
    """
    return hashlib.sha256(json.dumps(_Description().of(value)).encode()).hexdigest()


class _Description:
    """Objects as JSON. One that occurs again is described by its number."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.described: list[Any] = []  # kept alive, as `numbers` has their ids

    def of(self, value: Any) -> Json:
        if isinstance(value, _PLAIN):
            return [class_name(value), repr(value)]
        if isinstance(value, Tensor):
            return [class_name(value), value.requires_grad, tensors_sha256({"": value})]
        if isinstance(value, Mapping):
            return [class_name(value), *([self.of(k), self.of(v)] for k, v in value.items())]
        if isinstance(value, list | tuple):
            return [class_name(value), *map(self.of, value)]
        if isinstance(value, set | frozenset):
            return [class_name(value), *sorted(map(json.dumps, map(self.of, value)))]
        if isinstance(value, CodeType):
            return [value.co_code.hex(), value.co_names, self.of(value.co_consts)]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.described)
            self.described.append(value)
            return [class_name(value), self.of(self._parts(value))]
        return ["again", self.numbers[id(value)]]

    def _parts(self, value: Any) -> Any:
        """Return what an object is made of."""
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, MethodType):
            return value.__func__, value.__self__
        if isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            code = None if _is_installed(value.__module__) else value.__code__
            held = value.__defaults__, value.__kwdefaults__, cells, _globals(value, code)
            return value.__module__, value.__qualname__, code, held
        if isinstance(value, type):
            name = value.__module__, value.__qualname__
            if _is_installed(value.__module__):
                return name
            parts = {k: v for k, v in vars(value).items() if k not in _OF_EVERY_CLASS}
            return name, value.__bases__, parts
        if isinstance(value, staticmethod | classmethod):
            return value.__func__
        if isinstance(value, property):
            return value.fget, value.fset, value.fdel
        if isinstance(value, cached_property):
            return value.func
        if isinstance(value, nn.Module):
            return type(value), {
                name: list(part.values()) if name.endswith("hooks") else part
                for name, part in value.__getstate__().items()
                if name != "training"
            }
        if isinstance(value, GetSetDescriptorType | MemberDescriptorType):
            return value.__name__  # of a slot
        return _reduced(value)


def _globals(function: FunctionType, code: CodeType | None) -> dict[str, Any]:
    """Return the global constants, functions and classes that user code names."""
    names: set[str] = set()
    parts = [] if code is None else [code]
    while parts:
        part = parts.pop()
        names.update(part.co_names)
        parts += [const for const in part.co_consts if isinstance(const, CodeType)]
    values = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    followed = (*_PLAIN, Tensor, np.ndarray, FunctionType, type)
    return {name: values[name] for name in sorted(values) if isinstance(values[name], followed)}


def _reduced(value: Any) -> Any:
    """Return what `pickle` makes an object of."""
    try:
        parts = value.__reduce_ex__(2)
    except Exception as error:
        raise CheckpointError(
            f"A {class_name(value)} cannot be recognised in another process ({error}), so no "
            "stored result can be matched to it: leave it out, or store no result."
        ) from error
    if isinstance(parts, str):
        return getattr(value, "__module__", None), parts
    return [list(part) if hasattr(part, "__next__") else part for part in parts]


def _is_installed(module: str | None) -> bool:
    """Whether a module is of the standard library or of an installed package."""
    package = (module or "__main__").partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    known = package in sys.stdlib_module_names or package == "quickstudy"
    return package != "__main__" and (known or "-packages" in file)
