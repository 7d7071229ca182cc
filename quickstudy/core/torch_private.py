"""Private parts of PyTorch that the library uses. No other module imports such names.

Tested with torch 2.8 to 2.13. If a later version renames one of these, change this file.
"""

from torch import Tensor
from torch._C._autograd import _profiler_enabled as profiler_is_on
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._functorch import (
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
    "in_transform",
    "is_functorch_wrapped_tensor",
    "profiler_is_on",
    "reparametrized",
    "saved_tensors_hooks_are_on",
    "tree_leaves",
    "tree_map_only",
]


def in_transform() -> bool:
    """Return whether a transform of torch.func, such as `vmap` or `grad`, is at work.

    Examples:
        >>> import torch
        >>> in_transform()
        False
        >>> torch.func.grad(lambda x: x if in_transform() else -x)(torch.tensor(1.0))
        tensor(1.)
    """
    return peek_interpreter_stack() is not None


def saved_tensors_hooks_are_on() -> bool:
    """Return whether this thread has hooks of saved tensors, such as those of `save_on_cpu`.

    Examples:
        >>> import torch
        >>> with torch.autograd.graph.save_on_cpu():
        ...     print(saved_tensors_hooks_are_on())
        True
    """
    return _top_saved_tensors_default_hooks(True) is not None


def all_tasks(tensor: Tensor) -> Tensor:
    """Return the values of a tensor in all tasks, where a transform shows those of one.

    Examples:
        >>> import torch
        >>> torch.func.vmap(lambda x: x + len(all_tasks(x)))(torch.zeros(3))
        tensor([3., 3., 3.])
    """
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor
