"""Linear algebra on parameters by name, and in full precision."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.parameters import Params
from quickstudy.core.tree import tree_map


def conjugate_gradients(
    product: Callable[[Params], Params], target: Params, steps: int
) -> Params:
    """Return x after `steps` towards A x = `target`, from 0; `product(v)` is A v, A symmetric.

    Exact after as many steps as A has different eigenvalues; the residual is then rounding,
    and further steps do nothing. The steps also end if A turns out not to be positive definite
    (Steihaug, 1983), as a Hessian away from the optimum may be.

    Examples:
        >>> target = {"a": torch.tensor([2.0, 3.0])}
        >>> conjugate_gradients(lambda v: {"a": 2 * v["a"]}, target, steps=1)
        {'a': tensor([1.0000, 1.5000])}
    """
    x = tree_map(torch.zeros_like, target)
    residual = direction = target
    size = dot(residual, residual)
    rounding = size * torch.finfo(size.dtype).eps ** 2
    tiny = torch.finfo(size.dtype).tiny
    active = size > rounding
    for _ in range(steps):
        image = product(direction)
        curvature = dot(direction, image)
        active = active & (size > rounding) & (curvature > 0)
        length = torch.where(active, size / torch.where(active, curvature, 1), 0)
        x = axpy(x, length, direction)
        residual = axpy(residual, -length, image)
        before, size = size, dot(residual, residual)
        direction = axpy(residual, size / before.clamp_min(tiny), direction)
    return x


def dot(a: Params, b: Params) -> Tensor:
    """Return the sum over all entries of a * b.

    Examples:
        >>> ones = {"a": torch.ones(2), "b": torch.ones(3)}
        >>> dot(ones, ones)
        tensor(5.)
    """
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def axpy(a: Params, factor: float | Tensor, b: Params) -> Params:
    """Return a + factor * b.

    Examples:
        >>> axpy({"a": torch.ones(2)}, 0.5, {"a": torch.ones(2)})
        {'a': tensor([1.5000, 1.5000])}
    """
    return {name: value + factor * b[name] for name, value in a.items()}


def nonzero(divisor: Tensor) -> Tensor:
    """Return the divisor with ones in the place of zeros: a mean over nothing is then 0.

    No other number changes, so weights of 1e-20 have the mean that weights of 1 have.

    Examples:
        >>> nonzero(torch.tensor([0.0, 1e-20, 2.0]))
        tensor([1.0000e+00, 1.0000e-20, 2.0000e+00])
    """
    return torch.where(divisor == 0, 1, divisor)


def double(x: Tensor) -> Tensor:
    """Return a tensor in float64, where its device has that: for small solves, and for
    differences of large numbers.

    Examples:
        >>> double(torch.ones(1)).dtype
        torch.float64
    """
    return x if x.device.type == "mps" else x.double()


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off on the device of `x`, for exact solves.

    Examples:
        >>> x = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(x):
        ...     print((x @ x).dtype)
        torch.float32
    """
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
