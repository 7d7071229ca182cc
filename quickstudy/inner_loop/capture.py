"""The inputs of a closure: tensors that it captures, and the context that it runs in.

A loss such as `lambda params: criterion(functional_call(net, params, x), y)` reads `x`, `y` and
parameters of `net` that are no arguments of it. To compute it again in a backward pass, with
gradients for everything, `find_captured` records these tensors in a first call without a graph,
`SubstituteTensors` later puts inputs in their places, and `ExecutionContext` restores random
numbers, autocast and modes.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from quickstudy.core.parameters import Params
from quickstudy.core.torch_private import (
    function_modes,
    is_functorch_wrapped_tensor,
    reparametrized,
    tree_leaves,
    tree_map_only,
)
from quickstudy.core.tree import leaves, tree_map


class CapturedTensors(NamedTuple):
    """What a function depends on besides its argument.

    Examples:
        >>> import torch
        >>> w = torch.tensor(3.0)
        >>> captured = find_captured(lambda x: w * x, torch.tensor(2.0))
        >>> captured.tensors[0] is w, captured.random
        (True, False)
    """

    tensors: Sequence[Tensor]
    random: bool  # whether it draws random numbers


def find_captured(fn: Callable[[Any], Any], like: Any) -> CapturedTensors:
    """Call `fn` with a tree as `like`, without a graph, and record what it reads besides.

    Raises:
        ValueError: `fn` changes such a tensor in place.
        NotImplementedError: this is being compiled.

    Examples:
        >>> import torch
        >>> scale = torch.tensor(2.0)
        >>> find_captured(lambda x: scale * x, torch.ones(3)).tensors
        [tensor(2.)]
    """
    if torch.compiler.is_compiling():
        raise NotImplementedError("`checkpoint` cannot be compiled: set checkpoint=None.")
    record, context = _RecordTensors(), ExecutionContext(like)
    point = tree_map(torch.Tensor.detach, like)  # other objects: `fn` may read `like` itself
    record.made = _ids(leaves(point))
    with torch.no_grad(), context.restored():
        with record:
            fn(point)
        random = context.drew_random_numbers()
    tensors: list[Tensor] = []
    for reference, version in record.read.values():
        leaf = reference()
        if leaf is None or id(leaf) in record.made:
            continue
        if _version(leaf) != version:
            raise ValueError(
                "With `checkpoint` an inner loss must change no tensor in place, as it is done "
                "again in the backward pass: set checkpoint=None; for running statistics, call "
                "use_batch_statistics(net) or use GroupNorm."
            )
        tensors.append(leaf)
    return CapturedTensors(tensors, random)


class ExecutionContext:
    """RNG state, autocast, function modes and borrowed parameters, captured so that a
    recomputation can restore them.

    Args:
        tree: tensors; their device determines the generator and the autocast.
        random: whether to capture RNG states, which takes time.

    Examples:
        >>> import torch
        >>> context = ExecutionContext(torch.zeros(1))
        >>> first = torch.rand(3)
        >>> with context.restored():
        ...     print(torch.rand(3).equal(first))
        True
    """

    def __init__(self, tree: Any, random: bool = True):
        device = leaves(tree)[0].device
        self.devices = [device] if device.type == "cuda" and random else []
        self.states = _random_states(self.devices) if random else []
        enabled = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type)
        self.autocast = partial(torch.autocast, device.type, dtype, enabled)
        self.modes = function_modes()
        self.borrowed = _BORROWED.get()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore what was captured while this context lasts."""
        with ExitStack() as stack:
            if self.states:
                stack.enter_context(torch.random.fork_rng(self.devices))
                torch.set_rng_state(self.states[0])
            for device, state in zip(self.devices, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            stack.enter_context(self.autocast())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # as in `over_tasks`
            for mode in self.modes:
                stack.enter_context(mode)
            for module, tensors in self.borrowed:
                stack.enter_context(reparametrized(module, tensors))
            yield

    def drew_random_numbers(self) -> bool:
        """Return whether random numbers were drawn since the capture."""
        return not all(map(torch.equal, self.states, _random_states(self.devices)))


_BORROWED: ContextVar[tuple[tuple[nn.Module, Params], ...]] = ContextVar("borrowed", default=())


@contextmanager
def keep_borrowed(module: nn.Module) -> Iterator[None]:
    """Let recomputations recorded inside this context use the parameters `module` has now, even
    if `functional_call` has restored others by the time of the backward pass.

    Examples:
        >>> import torch
        >>> from quickstudy.inner_loop.checkpointing import checkpointed
        >>> class Scale(nn.Linear):
        ...     def forward(self, x):
        ...         def fn(x):
        ...             return self.weight * x
        ...         with keep_borrowed(self):
        ...             return checkpointed(fn, find_captured(fn, x))(x)
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> weight = {"weight": torch.tensor([[5.0]])}
        >>> torch.func.functional_call(Scale(1, 1, bias=False), weight, x).backward()
        >>> x.grad
        tensor([[5.]])
    """
    tensors: Params = dict(module.named_parameters(remove_duplicate=False))
    token = _BORROWED.set((*_BORROWED.get(), (module, tensors)))
    try:
        yield
    finally:
        _BORROWED.reset(token)


class SubstituteTensors(TorchFunctionMode):
    """Give functions the last of `inputs` where they ask for `captured` tensors.

    Examples:
        >>> import torch
        >>> w = torch.tensor(3.0)
        >>> with SubstituteTensors([w], [torch.tensor(5.0)]):
        ...     print(2 * w)
        tensor(10.)
    """

    def __init__(self, captured: Sequence[Tensor], inputs: Sequence[Tensor]):
        super().__init__()
        substitutes = inputs[len(inputs) - len(captured) :]
        self.substitutes = {id(leaf): leaf for leaf in inputs}
        self.substitutes |= {
            id(leaf): other for leaf, other in zip(captured, substitutes, strict=True)
        }
        self.made: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._substitute, (args, kwargs or {}))
        result = func(*args, **kwargs)
        self.made |= _ids(result)
        return result

    def _substitute(self, leaf: Tensor) -> Tensor:
        substitute = self.substitutes.get(id(leaf))
        if substitute is not None:
            return substitute
        internal = id(leaf) in self.made or is_functorch_wrapped_tensor(leaf)
        if not internal and leaf.requires_grad and leaf.is_leaf:
            raise ValueError(
                "With `checkpoint` an inner loss must read the same tensors at every call, in "
                "the backward pass too: set checkpoint=None, or have the backward pass done "
                "before functional_call takes back the parameters that it lent."
            )
        return leaf


class _RecordTensors(TorchFunctionMode):
    """Records the tensors that functions receive and that none of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()
        self.read: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) not in self.made:
                # a weak reference: a tensor that dies meanwhile is no captured one
                self.read.setdefault(id(leaf), (weakref.ref(leaf), _version(leaf)))
        result = func(*args, **(kwargs or {}))
        self.made |= _ids(result) - self.read.keys()  # `add_` returns its own input
        return result


def _ids(tree: Any) -> set[int]:
    return {id(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _version(leaf: Tensor) -> int:
    return 0 if leaf.is_inference() else leaf._version


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
