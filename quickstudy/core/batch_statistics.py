"""Batch normalisation by the batch at hand, with a second derivative of its own.

It reads and writes a quarter of the memory of PyTorch's. Outside of torch.func's transforms
(tasks in a loop), `ExactDerivatives` calls it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def normalise_by_batch(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x (N, C, ...) normalised by its own mean and variance, scaled and shifted.

    Args:
        weight: the scale of every channel (C,).
        bias: the shift of every channel (C,).

    Examples:
        >>> normalise_by_batch(torch.tensor([[1.0], [3.0]]), torch.ones(1), torch.ones(1), 0)
        tensor([[0.],
                [2.]])
    """
    return _BatchStatistics.apply(x, weight, bias, eps)  # pyright: ignore[reportReturnType]


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
