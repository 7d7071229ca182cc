"""Copies of modules that share their tensors, for one thread or for one call.

A module's mode, its hooks and its parameters are attributes of one object, which threads share.
A thread that evaluates, or that calls a net with adapted parameters, works on a copy.
"""

import copy
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import CellType, FunctionType, MethodType, NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

_MAPPINGS = {dict, OrderedDict}
_SEQUENCES = {list, tuple, set}
_PLAIN = {bool, int, float, str, NoneType, torch.dtype, torch.device}
ORIGINAL = "_original"  # the attribute of a copy with lent tensors: what it is a copy of
_FOREIGN = {"torch", "numpy", "logging", "threading", "builtins"}  # hold no part of a net
_DEPTH = 5
_INTERNAL = frozenset(vars(nn.Module()))  # mode, tensors, modules and hooks, by name


def replica(module: M, tensors: Mapping[str, Tensor] | None = None) -> M:
    """Return a copy of a module and of all modules in it, which shares their tensors.

    What an attribute, a hook or a closure refers to, if it is a module in it, becomes its copy.
    What `torch.compile` or TorchScript made is shared if all of it is in evaluation mode and
    no tensors are replaced. Otherwise it is copied, and runs uncompiled; TorchScript is copied
    as a whole.

    Args:
        tensors: by name, those that take the place of parameters and buffers in the copy. A
            tensor of several names is replaced under all of them. Such a copy is made for one
            call: it shares dictionaries of hooks that are empty.

    Raises:
        ValueError: several tensors take the place of one.
        RuntimeError: tensors are replaced in what TorchScript made.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
        >>> other = replica(net).eval()
        >>> net.training, other[0].weight is net[0].weight
        (True, True)
    """
    lent: dict[int, Tensor] = {}
    for name, tensor in (tensors or {}).items():
        if lent.setdefault(id(_tensor(module, name)), tensor) is not tensor:
            raise ValueError(f"{name} is one tensor with another that is lent: lend it once.")
    return _Copies(lent).of(module)


class _Copies:
    """Copies of modules, with some tensors replaced by others."""

    def __init__(self, lent: Mapping[int, Tensor]):
        self.lent = lent  # by the id of the tensor that it replaces
        self.modules: dict[nn.Module, nn.Module] = {}
        self.found: dict[int, tuple[Any, Any]] = {}  # by the id of a value: itself, its copy

    def of(self, module: M) -> M:
        self.create(module)
        for part, new in self.modules.items():
            if new is not part and not isinstance(part, torch.jit.ScriptModule):
                self.fill(part, new)
        return self.modules[module]  # pyright: ignore[reportReturnType]

    def create(self, part: nn.Module) -> None:
        scripted = isinstance(part, torch.jit.ScriptModule)
        if scripted and self.lent:
            raise RuntimeError("Lending can't be used with Jitted modules.")
        whole = (scripted or _is_compiled(part)) and not self.lent
        if whole and not any(m.training for m in part.modules()):
            self.modules[part] = part
        elif scripted:
            self.modules[part] = copy.deepcopy(part)
        else:
            self.modules[part] = object.__new__(type(part))
            for child in part._modules.values():
                if child is not None and child not in self.modules:
                    self.create(child)

    def fill(self, part: nn.Module, new: nn.Module) -> None:
        attributes = vars(new)
        attributes.update(vars(part))
        forward = type(part).forward
        if getattr(forward, "__closure__", None) and self.rebound(forward) is not forward:
            attributes["forward"] = MethodType(self.rebound(forward), new)
        for name, value in vars(part).items():
            kind = type(value)
            if kind in _PLAIN or (kind in _SEQUENCES and _PLAIN.issuperset(map(type, value))):
                continue
            if kind in _MAPPINGS and not value:  # of hooks, or tensors that may be added
                if not self.lent:
                    attributes[name] = kind()
            elif name == "_modules":
                attributes[name] = {k: self.modules.get(v, v) for k, v in value.items()}
            elif name in ("_parameters", "_buffers"):
                attributes[name] = {k: self.lent.get(id(v), v) for k, v in value.items()}
            else:
                found = self.rebound(value)
                own = found is value and name in _INTERNAL and kind in _MAPPINGS
                attributes[name] = kind(found) if own else found
        attributes.pop("_compiled_call_impl", None)
        if self.lent:
            attributes[ORIGINAL] = part
        if "_orig_mod" in part._modules:
            attributes["forward"] = attributes["_modules"]["_orig_mod"]

    def rebound(self, value: Any, depth: int = 0) -> Any:
        """The value with the copies of modules, and lent tensors, in the place of others.

        They are found in containers, in objects of other packages than PyTorch, and in what
        functions, methods and weak references refer to, up to `_DEPTH` levels deep.
        """
        kind = type(value)
        if kind in _PLAIN or depth > _DEPTH:
            return value
        if isinstance(value, Tensor):
            return self.lent.get(id(value), value)
        if isinstance(value, nn.Module):
            return self.modules.get(value, value)
        if id(value) not in self.found:
            self.found[id(value)] = value, value  # for an object that refers to itself
            self.found[id(value)] = value, self.rebuilt(value, depth + 1)
        return self.found[id(value)][1]

    def rebuilt(self, value: Any, depth: int) -> Any:
        """The value, or a copy of it if something in it is `rebound`."""

        def all_rebound(items: Iterable[Any]) -> tuple[list[Any], bool]:
            items = list(items)
            if _PLAIN.issuperset(map(type, items)):
                return items, False
            new = [self.rebound(item, depth) for item in items]
            return new, not all(map(is_, new, items))

        if isinstance(value, dict):
            keys, other_keys = all_rebound(value)
            values, other_values = all_rebound(value.values())
            if not (other_keys or other_values):
                return value
            new = copy.copy(value)
            new.clear()
            new.update(zip(keys, values, strict=True))
            return new
        if isinstance(value, list | tuple | set | frozenset | deque):
            items, changed = all_rebound(value)
            kind: Any = type(value)
            return getattr(kind, "_make", kind)(items) if changed else value
        if isinstance(value, MethodType):
            (owner,), changed = all_rebound([value.__self__])
            return MethodType(value.__func__, owner) if changed else value
        if isinstance(value, weakref.ref):
            (target,), changed = all_rebound([value()])
            return weakref.ref(target) if changed else value
        if isinstance(value, partial):
            (fn, args, keywords), changed = all_rebound(
                [value.func, value.args, value.keywords]
            )
            return partial(fn, *args, **keywords) if changed else value
        if isinstance(value, FunctionType):
            return self.rebuilt_function(value, all_rebound)
        if type(value).__module__.partition(".")[0] in _FOREIGN or not hasattr(
            value, "__dict__"
        ):
            return value
        attributes, changed = all_rebound(vars(value).values())
        if not changed:
            return value
        new = copy.copy(value)
        vars(new).update(zip(vars(value), attributes, strict=True))
        return new

    def rebuilt_function(self, fn: FunctionType, all_rebound: Any) -> FunctionType:
        if not (fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__):
            return fn
        cells = fn.__closure__ or ()
        filled = [cell for cell in cells if cell != CellType()]
        contents, other_contents = all_rebound(cell.cell_contents for cell in filled)
        defaults, other_defaults = all_rebound(fn.__defaults__ or ())
        keywords = fn.__kwdefaults__ or {}
        values, other_values = all_rebound(keywords.values())
        if not (other_contents or other_defaults or other_values):
            return fn
        new_cells = dict(zip(map(id, filled), map(CellType, contents), strict=True))
        closure = tuple(new_cells.get(id(cell), cell) for cell in cells) or None
        new = FunctionType(
            fn.__code__, fn.__globals__, fn.__name__, tuple(defaults) or None, closure
        )
        new.__kwdefaults__ = dict(zip(keywords, values, strict=True)) or None
        new.__dict__.update(fn.__dict__)
        return new


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    for child in path.split(".") if path else ():
        module = module._modules[child]  # pyright: ignore[reportAssignmentType]
    if isinstance(module, torch.jit.ScriptModule):
        raise RuntimeError("Lending can't be used with Jitted modules.")
    tensor = module._parameters.get(last)
    return module._buffers[last] if tensor is None else tensor  # pyright: ignore


def evaluation_copy(module: M) -> M:
    """Return a `replica` in evaluation mode.

    A module with a `train` method of its own may write to its tensors there, as low-rank
    adapters do, and gets copies of them.

    Examples:
        >>> net = nn.BatchNorm1d(3)
        >>> evaluation_copy(net).training, net.training
        (False, True)
    """
    new, originals = replica(module), set(module.modules())
    for part in new.modules():
        if part not in originals and type(part).train is not nn.Module.train:
            part._buffers.update(
                {k: b if b is None else b.clone() for k, b in part._buffers.items()}
            )
            for name, p in part._parameters.items():
                if p is not None:
                    part._parameters[name] = nn.Parameter(p.detach().clone(), p.requires_grad)
    return new.eval()


@contextmanager
def written_back(module: nn.Module, new: M, buffers: bool = False) -> Iterator[M]:
    """Yield a copy of a module; at the end, give the module the attributes that were set on it.

    So a net whose `forward` counts, or keeps what it has computed, goes on doing so. Modes,
    hooks and parameters are not written back.

    Args:
        buffers: whether buffers are written back too, but those that were lent.

    Examples:
        >>> net = nn.Linear(2, 2)
        >>> with written_back(net, replica(net)) as copy:
        ...     copy.calls = 1
        >>> net.calls
        1
    """
    parts = [
        (a, b, dict(vars(b)), dict(b._buffers))
        for a, b in zip(module.modules(), new.modules(), strict=True)
    ]
    yield new
    for original, part, before, buffers_before in parts:
        values = vars(part)
        if len(values) != len(before) or not all(map(is_, values.values(), before.values())):
            for name, value in values.items():
                if name not in _INTERNAL and value is not before.get(name, _INTERNAL):
                    vars(original)[name] = value
        for name, buffer in part._buffers.items() if buffers else ():
            lent = buffers_before.get(name) is not original._buffers.get(name)
            if not lent and buffer is not buffers_before.get(name):
                original._buffers[name] = buffer


def _is_compiled(part: nn.Module) -> bool:
    return "_orig_mod" in part._modules or part._compiled_call_impl is not None
