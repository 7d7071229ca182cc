"""What threads share, kept apart: copies of modules, settings of the process, random numbers.

A module's mode, its hooks and the parameters that `functional_call` lends to it are attributes
of one object. A thread that evaluates works on a copy of the module, which shares the tensors.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

M = TypeVar("M", bound=nn.Module)

_SEQUENCES = {list, tuple}
_MAPPINGS = {dict, OrderedDict}
_INTERNAL = frozenset(vars(nn.Module()))  # mode, tensors, modules and hooks, by name


def replica(module: M) -> M:
    """Return a copy of a module and of all modules in it, which shares their tensors.

    An attribute that refers to a module in it refers to its copy. A module that `torch.compile`
    or TorchScript made is shared if all of it is in evaluation mode. Otherwise a copy is made
    that runs uncompiled, and TorchScript is copied as a whole.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
        >>> other = replica(net).eval()
        >>> net.training, other[0].weight is net[0].weight
        (True, True)
    """
    copies: dict[nn.Module, nn.Module] = {}

    def create(part: nn.Module) -> None:
        scripted = isinstance(part, torch.jit.ScriptModule)
        if (scripted or _is_compiled(part)) and not any(m.training for m in part.modules()):
            copies[part] = part
        elif scripted:
            copies[part] = copy.deepcopy(part)
        else:
            copies[part] = object.__new__(type(part))
            for child in part.children():
                if child not in copies:
                    create(child)

    def rebound(value: Any) -> Any:
        kind = type(value)
        if kind in _MAPPINGS and value:
            items = {key: rebound(item) for key, item in value.items()}
            changed = any(items[key] is not item for key, item in value.items())
            return kind(items) if changed else value
        if kind in _SEQUENCES:
            parts = [rebound(item) for item in value]
            changed = any(part is not item for part, item in zip(parts, value, strict=True))
            return kind(parts) if changed else value
        if kind is MethodType and rebound(value.__self__) is not value.__self__:
            return MethodType(value.__func__, rebound(value.__self__))
        if kind is partial:
            function, arguments, keywords = map(
                rebound, (value.func, value.args, value.keywords)
            )
            return partial(function, *arguments, **keywords)
        return copies.get(value, value) if isinstance(value, nn.Module) else value

    create(module)
    for part, new in copies.items():
        if new is not part and not isinstance(part, torch.jit.ScriptModule):
            for name, value in vars(part).items():
                if name in _INTERNAL and type(value) in _MAPPINGS:
                    value = type(value)(value)
                vars(new)[name] = rebound(value)
            vars(new).pop("_compiled_call_impl", None)
            if "_orig_mod" in part._modules:
                vars(new)["forward"] = new._modules["_orig_mod"]
    return copies[module]  # pyright: ignore[reportReturnType]


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
def written_back(module: nn.Module, new: M) -> Iterator[M]:
    """Yield a copy of a module; at the end, give the module the attributes that were set on it.

    So a net whose `forward` counts, or keeps what it has computed, goes on doing so. Modes,
    hooks and tensors are not written back.

    Examples:
        >>> net = nn.Linear(2, 2)
        >>> with written_back(net, replica(net)) as copy:
        ...     copy.calls = 1
        >>> net.calls
        1
    """
    parts = [
        (a, b, dict(vars(b))) for a, b in zip(module.modules(), new.modules(), strict=True)
    ]
    yield new
    for original, part, before in parts:
        for name, value in vars(part).items():
            if name not in _INTERNAL and value is not before.get(name, _INTERNAL):
                vars(original)[name] = value


def _is_compiled(part: nn.Module) -> bool:
    return "_orig_mod" in part._modules or part._compiled_call_impl is not None


class ProcessSetting:
    """A setting of the whole process, changed while any thread needs it to be.

    The first thread that enters changes it, and the last one that leaves restores it.

    Args:
        change: returns a context in which the setting is changed.

    Examples:
        >>> with MATH_ATTENTION, MATH_ATTENTION:
        ...     print(torch.backends.cuda.flash_sdp_enabled())
        False
        >>> torch.backends.cuda.flash_sdp_enabled()
        True
    """

    def __init__(self, change: Callable[[], AbstractContextManager[Any]]):
        self.change, self.users, self.lock = change, 0, threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.changed = self.change()
                self.changed.__enter__()
            self.users += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.changed.__exit__(None, None, None)


def _forked() -> AbstractContextManager[Any]:
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(cuda)


MATH_ATTENTION = ProcessSetting(partial(sdpa_kernel, SDPBackend.MATH))
FORKED_RANDOM_STATE = ProcessSetting(_forked)
_SEEDED = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed`, in one thread at a time.

    Examples:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     print(torch.rand(1).equal(first))
        True
    """
    with _SEEDED:
        torch.manual_seed(seed)
        yield
