"""Normalisation layers whose second-order gradients are right under `vmap`.

Under `vmap`, PyTorch computes the gradient of the weight of BatchNorm, InstanceNorm and
LayerNorm from a mean and a variance that it treats as constants (pytorch/functorch#534). The
gradient itself is right, but whoever differentiates it, as MAML does, gets a wrong number and
no error. The layers here multiply by the weight outside of the normalisation whenever a
learner has put something else, such as fast weights, in the place of the parameter.

Outside of torch.func's transforms (tasks in a loop), normalising by the batch at hand has its
own second derivative, which reads and writes a quarter of the memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from quickstudy.core.torch_private import BatchNormBase, InstanceNormBase, in_transform


def make_exact(net: nn.Module) -> None:
    """Give the affected layers of `net` the `forward` of this module, and change nothing else.

    A `Learner` calls this for every module that is assigned to it.

    Examples:
        >>> norm = nn.LayerNorm(3)
        >>> make_exact(norm)
        >>> type(norm) is nn.LayerNorm, isinstance(norm, nn.LayerNorm)
        (False, True)
    """
    for module in net.modules():
        exact = _EXACT.get(type(module))
        if exact is not None:
            module.__class__ = exact


def _plain(weight: Tensor | None) -> bool:
    return weight is None or isinstance(weight, nn.Parameter)


def _per_channel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplies and adds along axis 1 of x (N, channels, ...)."""
    shape = (-1, *[1] * (x.ndim - 2))
    return x * weight.view(shape) + bias.view(shape)


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


class _BatchNorm(BatchNormBase):
    def forward(self, input: Tensor) -> Tensor:
        if not self.track_running_stats and self.weight is not None and _is_plain_autograd():
            self._check_input_dim(input)
            F._verify_batch_size(list(input.shape))  # pyright: ignore[reportAttributeAccessIssue]
            return _BatchStatistics.apply(input, self.weight, self.bias, self.eps)
        uses_running = self.track_running_stats and not self.training
        if _plain(self.weight) or uses_running or self.momentum is None:
            return super().forward(input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, var = self.running_mean, self.running_var
        x = F.batch_norm(input, mean, var, None, None, True, self.momentum, self.eps)
        return _per_channel(x, self.weight, self.bias)


class _BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """`BatchNorm1d` with exact second derivatives."""


class _BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """`BatchNorm2d` with exact second derivatives."""


class _BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """`BatchNorm3d` with exact second derivatives."""


class _InstanceNorm(InstanceNormBase):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        if _plain(self.weight):
            return super()._apply_instance_norm(input)
        use_input_stats = self.training or not self.track_running_stats
        mean, var = self.running_mean, self.running_var
        momentum = 0.0 if self.momentum is None else self.momentum
        x = F.instance_norm(input, mean, var, None, None, use_input_stats, momentum, self.eps)
        return _per_channel(x, self.weight, self.bias)


class _InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """`InstanceNorm1d` with exact second derivatives."""


class _InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """`InstanceNorm2d` with exact second derivatives."""


class _InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """`InstanceNorm3d` with exact second derivatives."""


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        if _plain(self.weight):
            return super().forward(input)
        x = F.layer_norm(input, self.normalized_shape, None, None, self.eps) * self.weight
        return x if self.bias is None else x + self.bias


_EXACT = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
    nn.InstanceNorm1d: _InstanceNorm1d,
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
    nn.LayerNorm: _LayerNorm,
}
