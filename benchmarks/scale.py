"""How time and memory grow."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Counts multiplications of matrix products, and numbers that other operations write."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flops = flop_registry.get(func.overloadpacket)
        if flops is not None:
            self.count += flops(*args, **(kwargs or {}), out_val=out) // 2
        elif not func.is_view:
            parts = out if isinstance(out, tuple | list) else (out,)
            self.count += sum(part.numel() for part in parts if isinstance(part, Tensor))
        return out


def operations(work: Callable[[], Any]) -> int:
    """Return what `Operations` counts in this thread."""
    with Operations() as mode:
        work()
    return mode.count
