"""Batch normalisation by the batch at hand, alone or before max-pooling, with derivatives.

They read and write a part of the memory that PyTorch's would: of a normalised and pooled batch,
only the maxima have a gradient, so sums over the batch are sums over maxima. All tensors have an
axis of tasks in front. Tasks are computed one after the other, while their numbers are in the
cache.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import vjp

from quickstudy.core.torch_private import in_transform


class Normalised(NamedTuple):
    """A batch normalised by `normalise_by_batch`, and what it was made of.

    Examples:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> normalise_by_batch(x, torch.ones(1), torch.ones(1), 0).mean
        tensor([[2.]])
    """

    y: Tensor  # (N, C, ...)
    x: Tensor  # (N, C, ...)
    weight: Tensor  # (C,)
    bias: Tensor  # (C,)
    mean: Tensor  # (1, C)
    scale: Tensor  # (1, C)  1 / the standard deviation
    eps: float


def normalise_by_batch(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Normalised:
    """Return x (N, C, ...) normalised by its own mean and variance, scaled and shifted.

    Args:
        weight: the scale of every channel (C,).
        bias: the shift of every channel (C,).

    Examples:
        >>> normalise_by_batch(torch.tensor([[1.0], [3.0]]), torch.ones(1), torch.ones(1), 0).y
        tensor([[0.],
                [2.]])
    """
    y, mean, scale = _Normalise.apply(x[None], weight[None], bias[None], eps)  # pyright: ignore
    return Normalised(y.squeeze(0), x, weight, bias, mean, scale, eps)


def max_pool(normalised: Normalised, *settings: Any) -> Tensor:
    """Return `F.max_pool2d(normalised.y, *settings)`, with one derivative for both.

    Args:
        settings: kernel size, stride, padding, dilation, ceil mode.

    Examples:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> normalised = normalise_by_batch(x, torch.ones(1), torch.zeros(1))
        >>> max_pool(normalised, 2, 2, 0, 1, False)
        tensor([[[[1.3416]]]])
    """
    y, x, weight, bias, mean, scale, eps = normalised
    constants = (y.detach()[None], mean, scale)
    pooled, _, _ = _Pool.apply(  # pyright: ignore[reportGeneralTypeIssues]
        x[None], weight[None], bias[None], *constants, eps, settings
    )
    return pooled.squeeze(0)


class _PerTask(Function):
    """A function of tensors with an axis of tasks in front, (T, ...)."""

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *inputs: Any) -> Any:  # pyright: ignore
        def with_tasks(tensor: Any, dim: int | None) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            if dim is None:
                tensor = tensor[None].expand(info.batch_size, *tensor.shape)
            else:
                tensor = tensor.movedim(dim, 0)
            return tensor.flatten(0, 1)

        outputs: Any = cls.apply(*map(with_tasks, inputs, in_dims))
        split = tuple(output.unflatten(0, (info.batch_size, -1)) for output in outputs)
        return split, (0,) * len(split)


class _Normalise(_PerTask):
    """x (T, N, C, ...) normalised over N and what follows C, times weight (T, C), plus bias."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        y = _like(x)
        kind = torch.promote_types(x.dtype, torch.float32)
        mean, scale = (weight.new_empty(weight.shape, dtype=kind) for _ in range(2))
        for t, x_t in enumerate(map(_rows, x)):
            each, out = (x_t, weight[t], bias[t]), (_rows(y[t]), mean[t], scale[t])
            torch.native_batch_norm(*each, None, None, True, 0.0, eps, out=out)
        return y, mean, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, mean, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return (None,) * 4
        grads: Any = _Gradient.apply(grad, *ctx.saved_tensors, None, None, ctx.eps)
        return *grads, None


class _Pool(_PerTask):
    """The maxima of y, which is normalised x. Also where they are, and x normalised there."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        y: Tensor,
        mean: Tensor,
        scale: Tensor,
        eps: float,
        settings: tuple[Any, ...],
    ) -> tuple[Tensor, ...]:
        tasks, _, channels, *_ = x.shape
        pooled, index = torch.ops.aten.max_pool2d_with_indices(y.flatten(0, 1), *settings)
        index = index.unflatten(0, (tasks, -1)).movedim(2, -1)  # (T, N, h, w, C)
        index = index.mul(channels).add_(torch.arange(channels))
        index += (torch.arange(x.shape[1]) * x[0, 0].numel()).view(-1, 1, 1, 1)
        index = index.flatten(1)  # (T, N h w C), into (N H W C)
        n = torch.stack([_rows(x_t).view(-1)[i] for x_t, i in zip(x, index, strict=True)])
        n = n.view(tasks, -1, channels).sub_(mean[:, None]).mul_(scale[:, None])
        return pooled.unflatten(0, (tasks, -1)), index, n

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, _, mean, scale, ctx.eps, _ = inputs
        _, index, n = output
        ctx.mark_non_differentiable(index, n)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, mean, scale, index, n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return (None,) * 8
        grads: Any = _Gradient.apply(grad, *ctx.saved_tensors, ctx.eps)
        return *grads, *[None] * 5


class _Gradient(_PerTask):
    """The gradient of `_Normalise`, and of `_Pool` after it.

    With n(x) = (x - mean) * scale, the normalised input, S a sum over all axes but the
    channels', M the number of summands, and P(v) = v - S(v) / M - n S(v n) / M, it is
    weight * scale * P(grad) for x, S(grad n) for the weight and S(grad) for the bias. The
    derivative of n in a direction v is scale * P(v), that of scale is -scale^2 S(n v) / M.
    After pooling, grad is zero but where the maxima are.
    """

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        index: Tensor | None,
        n: Tensor | None,  # the normalised input where the maxima are
        eps: float,
    ) -> tuple[Tensor, ...]:
        m = x[0, :, 0].numel()
        to_x, to_weight, to_bias = _like(x), torch.empty_like(mean), torch.empty_like(mean)
        for t, x_t in enumerate(map(_rows, x)):
            s, where = weight[t] * scale[t], None if index is None else index[t]
            n_t = _normalised(x_t, mean[t], scale[t]) if n is None else n[t]
            g = _rows(grad[t])
            g_n, g_1 = (g * n_t).sum(0), g.sum(0)
            slope = -s * scale[t] * g_n / m
            start = -s * g_1 / m - slope * mean[t]
            _affine(_rows(to_x[t]), start, (slope, x_t), sparse=(s, g), index=where)
            to_weight[t], to_bias[t] = g_n, g_1
        return to_x, to_weight, to_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *tensors, g_n, g_1 = ctx.saved_tensors
        if torch.is_grad_enabled() or in_transform():  # somebody wants a third derivative
            grad, x, weight, _, _, index, _ = tensors
            gradient = partial(_written_out, index=index, eps=ctx.eps)
            grads = vjp(gradient, grad, x, weight)[1]((u, a, b))
        else:
            grads = _second_derivative(u, a, b, *tensors, g_n, g_1)
        return *grads, *[None] * 5


def _second_derivative(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    index: Tensor | None,
    n: Tensor | None,
    g_n: Tensor,
    g_1: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives of <u, to_x> + <a, to_weight> + <b, to_bias>, as of `_Gradient`."""
    m = x[0, :, 0].numel()
    to_grad, to_x, to_weight = _like(grad), _like(x), torch.empty_like(mean)
    for t, x_t in enumerate(map(_rows, x)):
        s, where = weight[t] * scale[t], None if index is None else index[t]
        u_t, g = _rows(u[t]), _rows(grad[t])
        n_t = _normalised(x_t, mean[t], scale[t]) if n is None else n[t]
        picked = u_t if where is None else u_t.reshape(-1)[where].view(g.shape)
        u_1, u_g = u_t.sum(0), (picked * g).sum(0)
        u_n = ((u_t * x_t).sum(0) - mean[t] * u_1) * scale[t]
        along = u_g - (u_1 * g_1[t] + u_n * g_n[t]) / m  # S(u P(g))
        of_u, of_g = -s * g_n[t] / m, a[t] - s * u_n / m
        w_1, w_n = of_u * u_1 + of_g * g_1[t], of_u * u_n + of_g * g_n[t]
        slope = -scale[t] * scale[t] * (w_n + s * along) / m
        start = -scale[t] * w_1 / m - slope * mean[t]
        dense = ((slope, x_t), (scale[t] * of_u, u_t))
        _affine(_rows(to_x[t]), start, *dense, sparse=(scale[t] * of_g, g), index=where)
        _affine(_rows(to_grad[t]), b[t] - s * u_1 / m, (s, picked), (of_g, n_t))
        to_weight[t] = scale[t] * along
    return to_grad, to_x, to_weight


def _written_out(
    grad: Tensor, x: Tensor, weight: Tensor, index: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`_Gradient` in functions that PyTorch can differentiate again."""
    rows, g = (v.movedim(2, -1).flatten(1, -2) for v in (x, grad))  # (T, M, C)
    var, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
    scale = (var + eps).rsqrt()
    n = (rows - mean) * scale
    if index is not None:
        g = torch.zeros_like(rows).flatten(1).scatter_add(1, index, g.flatten(1))
        g = g.view(rows.shape)
    g_n, g_1 = (g * n).sum(1), g.sum(1)
    p = g - g.mean(1, keepdim=True) - n * (g * n).mean(1, keepdim=True)
    to_x = weight[:, None] * scale * p
    return to_x.view(x.movedim(2, -1).shape).movedim(-1, 2), g_n, g_1


def _like(x: Tensor) -> Tensor:
    """An empty tensor (T, N, C, ...) with channels last."""
    return torch.empty_like(x.movedim(2, -1), memory_format=torch.contiguous_format).movedim(-1, 2)


def _rows(x: Tensor) -> Tensor:
    """(N, C, ...) as (M, C): a view, if channels are last."""
    return x.movedim(1, -1).flatten(0, -2)


def _normalised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(-mean * scale, scale, x)


def _affine(
    out: Tensor,
    start: Tensor,
    *terms: tuple[Tensor, Tensor],
    sparse: tuple[Tensor, Tensor] | None = None,
    index: Tensor | None = None,
) -> None:
    """Write `start`, plus factors times values, to `out`; those of `sparse` at `index`."""
    if sparse is not None and index is None:
        terms = (*terms, sparse)
    for factor, values in terms:
        torch.addcmul(start, factor, values, out=out)
        start = out
    if sparse is not None and index is not None:
        values = (sparse[0] * sparse[1]).flatten().to(out.dtype)
        out.view(-1).scatter_add_(0, index, values)
