"""Private parts of PyTorch that the library uses. No other module imports such names.

Tested with torch 2.8 to 2.13. If a later version renames one of these, change this file.
"""

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled as profiler_is_on
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
)
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as RunningStatisticsNorm
from torch.nn.modules.conv import _ConvNd as ConvBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.utils.stateless import _reparametrize_module as reparametrized
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "BatchNormBase",
    "ConvBase",
    "DropoutBase",
    "RunningStatisticsNorm",
    "all_tasks",
    "dispatch_modes",
    "function_modes",
    "in_forward_mode",
    "in_transform",
    "is_functorch_wrapped_tensor",
    "profiler_is_on",
    "reparametrized",
    "saved_tensors_hooks_are_on",
    "tree_leaves",
    "tree_map_only",
    "without_axis",
]


def in_transform() -> bool:
    """Return whether a transform of torch.func, such as `vmap` or `grad`, is at work.

    Examples:
        >>> in_transform()
        False
        >>> torch.func.grad(lambda x: x if in_transform() else -x)(torch.tensor(1.0))
        tensor(1.)
    """
    return peek_interpreter_stack() is not None


def in_forward_mode() -> bool:
    """Return whether a transform of torch.func that computes forward derivatives is at work.

    Examples:
        >>> torch.func.grad(lambda x: x + in_forward_mode())(torch.tensor(1.0))
        tensor(1.)
    """
    levels = get_interpreter_stack() or ()
    return any(level.key() == TransformType.Jvp for level in levels)


def saved_tensors_hooks_are_on() -> bool:
    """Return whether this thread has hooks of saved tensors, such as those of `save_on_cpu`.

    Examples:
        >>> with torch.autograd.graph.save_on_cpu():
        ...     print(saved_tensors_hooks_are_on())
        True
    """
    return _top_saved_tensors_default_hooks(True) is not None


def all_tasks(tensor: Tensor) -> Tensor:
    """Return the values of a tensor in all tasks, where a transform shows those of one.

    Examples:
        >>> torch.func.vmap(lambda x: x + len(all_tasks(x)))(torch.zeros(3))
        tensor([3., 3., 3.])
    """
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def without_axis(x: Tensor) -> Tensor:
    """Return x (1, ...) without its first axis, as a tensor that may be changed in place, which
    a view of an output of an autograd function may not.

    Examples:
        >>> without_axis(torch.ones(1, 2)).mul_(3)
        tensor([3., 3.])
    """
    return torch.ops.aten._unsafe_view(x, x.shape[1:])
