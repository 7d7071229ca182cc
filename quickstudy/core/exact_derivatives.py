"""Functions of PyTorch whose second derivatives are wrong, in a form that is right.

Under `vmap`, PyTorch computes the gradient of the weight of a batch, instance or layer
normalisation from a mean and a variance that it treats as constants (pytorch/functorch#534).
The gradient itself is right, but whoever differentiates it, as MAML does, gets a wrong number
and no error. `torch._weight_norm` has a wrong second derivative on a CPU, under `vmap` or not.

`ExactDerivatives` replaces these functions where they are called. A layer of the user's own, or
a call of `F.layer_norm`, is then as exact as a layer of PyTorch.

Outside of torch.func's transforms (tasks in a loop), normalising by the batch at hand has its
own second derivative, which reads and writes a quarter of the memory.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from quickstudy.core.torch_private import function_modes, in_transform


class ExactDerivatives(TorchFunctionMode):
    """A mode in which second derivatives of normalisations and of `weight_norm` are exact.

    Values and first derivatives do not change. `exact_derivatives` turns it on.

    Examples:
        >>> v, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]])
        >>> with ExactDerivatives():
        ...     print(torch._weight_norm(v, g, 0))
        tensor([[6., 8.]])
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHT_NORMS:
            return _weight_norm(*args, **kwargs)
        if func in _NORMALISATIONS:
            return _normalise(func, args, kwargs)
        return func(*args, **kwargs)


def exact_derivatives() -> AbstractContextManager[Any]:
    """Return a context in which `ExactDerivatives` is on, once.

    Examples:
        >>> with exact_derivatives(), exact_derivatives():
        ...     print(len(function_modes()))
        1
    """
    is_on = any(isinstance(mode, ExactDerivatives) for mode in function_modes())
    return nullcontext() if is_on else ExactDerivatives()


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, with a norm for every index along `dim` (-1: one norm)."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _normalise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a normalisation. Multiply by its weight outside of it if something else, such as a
    fast weight, stands in the place of the parameter under a transform."""
    arguments = {**dict(zip(_NORMALISATIONS[func], args, strict=False)), **kwargs}
    x, weight, bias = (arguments.get(name) for name in ("input", "weight", "bias"))
    if weight is None:
        return func(*args, **kwargs)
    if _is_plain_autograd():
        by_batch = arguments.get("training") and arguments.get("running_mean") is None
        if by_batch and bias is not None and x.numel() > x.shape[1]:
            return _BatchStatistics.apply(x, weight, bias, arguments.get("eps", 1e-5))
        return func(*args, **kwargs)
    if isinstance(weight, nn.Parameter):
        return func(*args, **kwargs)
    result = func(**arguments | {"weight": None, "bias": None})
    y = result[0] if isinstance(result, tuple) else result
    if "normalized_shape" not in arguments:
        weight, bias = (
            p if p is None else p.view(-1, *[1] * (x.ndim - 2)) for p in (weight, bias)
        )
    y = y * weight if bias is None else y * weight + bias
    return (y, *result[1:]) if isinstance(result, tuple) else y


def _is_plain_autograd() -> bool:
    return not torch.compiler.is_compiling() and not in_transform()


def _laid_out_as(x: Tensor, grad: Tensor) -> Tensor:
    # derivatives of maxima come with channels first, and mixed layouts take four times as long
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return grad.contiguous(memory_format=torch.channels_last)
    return grad


class _BatchStatistics(Function):
    """Batch normalisation of x (N, C, ...) by its own mean and variance, times `weight` (C,),
    plus `bias` (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, scale = ctx.saved_tensors
        return *_BatchStatisticsBackward.apply(grad, x, weight, mean, scale, ctx.eps), None


class _BatchStatisticsBackward(Function):
    """The gradient of `_BatchStatistics`.

    With n(x) = (x - mean) * scale, the normalised input, S a sum over all axes but the
    channels', M the number of summands, and P(v) = v - S(v) / M - n S(v n) / M, it is
    weight * scale * P(grad) for x, S(grad n) for the weight and S(grad) for the bias. The
    derivative of n in a direction v is scale * P(v), that of scale is -scale^2 S(n v) / M.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad = _laid_out_as(x, grad)
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, scale, True, eps, [True, True, True]
        )
        ctx.save_for_backward(grad, x, weight, mean, scale, *grads[1:])
        ctx.eps = eps
        return grads

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, x, weight, mean, scale, g_n, g_1 = ctx.saved_tensors
        u = _laid_out_as(x, u)
        shape = (1, -1, *[1] * (x.ndim - 2))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        m = x.numel() / x.shape[1]

        def affine(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
            total = constant.view(shape)
            for factor, values in terms:
                total = torch.addcmul(total, factor.view(shape), values)
            return total

        if torch.is_grad_enabled():  # somebody wants a third derivative
            var, mean = torch.var_mean(x, axes, correction=0)
            scale = (var + ctx.eps).rsqrt()
        n = affine(-mean * scale, (scale, x))
        if torch.is_grad_enabled():
            g_n, g_1 = (g * n).sum(axes), g.sum(axes)
        u_1, u_n, u_g = u.sum(axes), (u * n).sum(axes), (u * g).sum(axes)
        along = u_g - (u_1 * g_1 + u_n * g_n) / m  # S(u P(g))
        to_u, to_g = -weight * scale * g_n / m, a - weight * scale * u_n / m
        w_1, w_n = to_u * u_1 + to_g * g_1, to_u * u_n + to_g * g_n
        to_n = w_n / m + weight * scale * along / m
        s = weight * scale
        return (
            affine(b - s * u_1 / m, (s, u), (a - s * u_n / m, n)),
            affine(-scale * w_1 / m, (scale * to_u, u), (scale * to_g, g), (-scale * to_n, n)),
            scale * along,
            None,
            None,
            None,
        )


_BATCH = ("running_mean", "running_var", "training", "momentum", "eps")
_INSTANCE = ("running_mean", "running_var", "use_input_stats", "momentum", "eps")
_NORMALISATIONS: dict[Any, tuple[str, ...]] = {  # the names of the arguments, in order
    F.batch_norm: ("input", *_BATCH[:2], "weight", "bias", *_BATCH[2:]),
    F.instance_norm: ("input", *_INSTANCE[:2], "weight", "bias", *_INSTANCE[2:]),
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    torch.batch_norm: ("input", "weight", "bias", *_BATCH, "cudnn_enabled"),
    torch.native_batch_norm: ("input", "weight", "bias", *_BATCH),
    torch.instance_norm: ("input", "weight", "bias", *_INSTANCE, "cudnn_enabled"),
    torch.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
    torch.native_layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    torch.ops.aten.native_batch_norm.default: ("input", "weight", "bias", *_BATCH),
    torch.ops.aten.native_layer_norm.default: (
        "input",
        "normalized_shape",
        "weight",
        "bias",
        "eps",
    ),
}
_WEIGHT_NORMS = {torch._weight_norm}
