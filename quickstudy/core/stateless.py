"""Calls of a module with other parameters than its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call as torch_functional_call
from torch.utils.checkpoint import CheckpointFunction

from quickstudy.core.exact_derivatives import exact_derivatives
from quickstudy.core.replicas import replica, written_back
from quickstudy.core.threads import MATH_ATTENTION
from quickstudy.core.torch_private import saved_tensors_hooks_are_on

CHECKPOINTING = (
    "uses activation checkpointing (torch.utils.checkpoint), which would compute activations "
    "again with the net's own parameters instead of the adapted ones: switch it off (memory is "
    "saved by the learner's `chunk` and, where it has one, `checkpoint`)."
)


def functional_call(
    module: nn.Module, params: Mapping[str, Tensor], args: Any, kwargs: Any = None
) -> Any:
    """Call `module` with `params` in the place of its own, as the function of torch.func does.

    A copy of the module is called, which shares its other tensors, so threads do not disturb
    each other. Attributes and buffers that its `forward` sets are set on the module. Second
    derivatives are exact: see `quickstudy.core.exact_derivatives`. Attention is computed by
    PyTorch's MATH backend, which has a second derivative.

    Raises:
        RuntimeError: the module uses activation checkpointing.

    Examples:
        >>> scale = nn.Linear(1, 1, bias=False)
        >>> functional_call(scale, {"weight": torch.ones(1, 1)}, torch.ones(1)).item()
        1.0
    """
    if torch.compiler.is_compiling():
        with exact_derivatives(module):
            return torch_functional_call(module, dict(params), args, kwargs)
    args = args if isinstance(args, tuple) else (args,)
    copied = written_back(module, replica(module, params), buffers=True)
    with copied as lent, MATH_ATTENTION, exact_derivatives(module), no_checkpointing():
        return lent(*args, **(kwargs or {}))


@contextmanager
def no_checkpointing() -> Iterator[None]:
    """Refuse activation checkpointing while this context lasts, as parameters are lent.

    Examples:
        >>> from torch.utils.checkpoint import checkpoint
        >>> with no_checkpointing():  # doctest: +ELLIPSIS
        ...     checkpoint(torch.sin, torch.ones(1, requires_grad=True), use_reentrant=False)
        Traceback (most recent call last):
        RuntimeError: The net uses activation checkpointing ...
    """
    if torch.compiler.is_compiling():
        yield
        return
    hooks_are_on = saved_tensors_hooks_are_on()
    message = f"The net {CHECKPOINTING}"
    token = _LENT.set(True)
    try:
        with nullcontext() if hooks_are_on else disable_saved_tensors_hooks(message):
            yield
    finally:
        _LENT.reset(token)


_LENT: ContextVar[bool] = ContextVar("lent", default=False)
_forward_of_checkpoint = CheckpointFunction.forward


def _guarded_forward(ctx: Any, *args: Any) -> Any:
    """The reentrant kind has no hooks: it would compute again, or no gradient, in silence."""
    if _LENT.get():
        raise RuntimeError(f"The net {CHECKPOINTING}")
    return _forward_of_checkpoint(ctx, *args)


CheckpointFunction.forward = staticmethod(_guarded_forward)  # pyright: ignore
