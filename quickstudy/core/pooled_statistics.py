"""Batch normalisation by the batch at hand, alone or before max-pooling, with derivatives.

They read and write a part of the memory that PyTorch's would: of a normalised and pooled
batch, only the maxima have a gradient, so sums over the batch are sums over maxima. All tensors
have an axis of tasks in front. Tasks are computed one after the other, while their numbers are
in the cache.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import vjp
from torch.nn import functional as F

from quickstudy.core.torch_private import in_transform, without_axis

CACHED = 2**18  # numbers


class Normalised(NamedTuple):
    """A batch normalised by `normalise`, and what it was made of.

    Examples:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> normalise(x, torch.ones(1), torch.ones(1), 0).mean
        tensor([[2.]])
    """

    y: Tensor  # (N, C, ...)
    x: Tensor  # (N, C, ...)
    weight: Tensor  # (C,)
    bias: Tensor  # (C,)
    mean: Tensor  # (1, C)
    scale: Tensor  # (1, C)  1 / the standard deviation
    eps: float


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Normalised:
    """Return x (N, C, ...) normalised by its own mean and variance, scaled and shifted.

    Args:
        weight: the scale of every channel (C,).
        bias: the shift of every channel (C,).

    Examples:
        >>> normalise(torch.tensor([[1.0], [3.0]]), torch.ones(1), torch.ones(1), 0).y
        tensor([[0.],
                [2.]])
    """
    y, mean, scale = _Normalise.apply(x[None], weight[None], bias[None], eps)  # pyright: ignore
    return Normalised(without_axis(y), x, weight, bias, mean, scale, eps)


def max_pool(
    normalised: Normalised,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return `F.max_pool2d(normalised.y, ...)`, with one derivative for both.

    Examples:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> max_pool(normalise(x, torch.ones(1), torch.zeros(1)), 2)
        tensor([[[[1.3416]]]])
    """
    y, x, weight, bias, mean, scale, eps = normalised
    settings: Any = (kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    if return_indices:
        return F.max_pool2d(y, *settings, return_indices=True)
    settings = tuple([s, s] if type(s) is int else s for s in settings)
    pooled, _, _ = _Pool.apply(  # pyright: ignore[reportGeneralTypeIssues]
        x[None], weight[None], bias[None], y.detach()[None], mean, scale, eps, settings
    )
    return without_axis(pooled)


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
        tensors = (_rows(x), weight, bias, _rows(y), mean, scale)
        normalise = torch.ops.aten.native_batch_norm.out
        for x_, weight_, bias_, y_, mean_, scale_ in zip(*tensors, strict=True):
            out = {"out": y_, "save_mean": mean_, "save_invstd": scale_}
            normalise(x_, weight_, bias_, None, None, True, 0.0, eps, **out)
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
        n = _rows(x).flatten(1).gather(1, index).view(tasks, -1, channels)
        n = (n - mean[:, None]) * scale[:, None]
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
        if index is None:
            each = zip(_rows(grad), _rows(x), weight, mean, scale, strict=True)
            grads = [_gradient_by_torch(*tensors, eps) for tensors in each]
            to_x, to_weight, to_bias = map(_stacked, zip(*grads, strict=True))
            return to_x.view(x.movedim(2, -1).shape).movedim(-1, 2), to_weight, to_bias
        m = x[0, :, 0].numel()
        to_x, to_weight, to_bias = _like(x), torch.empty_like(mean), torch.empty_like(mean)
        of_tasks = (_rows(grad), _rows(x), weight, mean, scale, index, n, _rows(to_x))
        for part, (g, x_, weight_, mean_, scale_, where, n_, out) in _in_parts(of_tasks):
            weight_, mean_, scale_ = (v[:, None] for v in (weight_, mean_, scale_))
            s = weight_ * scale_
            g_n, g_1 = (v.sum(1, keepdim=True) for v in (g * n_, g))
            slope = s * scale_ * g_n / -m
            start = s * g_1 / -m - slope * mean_
            _affine(out, start, (slope, x_), sparse=(s, g), index=where)
            to_weight[part], to_bias[part] = g_n.squeeze(1), g_1.squeeze(1)
        return to_x, to_weight, to_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensors, (g_n, g_1) = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        if torch.is_grad_enabled() or in_transform():  # somebody wants a third derivative
            grad, x, weight, _, _, index, _ = tensors
            gradient = partial(_written_out, index=index, eps=ctx.eps)
            grads = vjp(gradient, grad, x, weight)[1]((u, a, b))
        else:
            grads = _second_derivative(u, a, b, *tensors, g_n=g_n, g_1=g_1)
        return *grads, *[None] * 5


def _gradient_by_torch(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, ...]:
    return torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, scale, True, eps, [True, True, True]
    )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


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
    per_channel = (v[:, None] for v in (a, b, weight, mean, scale, g_n, g_1))
    dense = (_rows(v) for v in (u, grad, x, to_grad, to_x))
    for part, tensors in _in_parts((*per_channel, *dense, index, n)):
        a_, b_, weight_, mean_, scale_, g_n_, g_1_, *tensors = tensors
        u_, g, x_, out_grad, out_x, where, n_ = tensors
        n_ = torch.addcmul(-mean_ * scale_, scale_, x_) if n_ is None else n_
        picked = u_ if where is None else u_.flatten(1).gather(1, where).view(g.shape)
        s = weight_ * scale_
        u_1, u_x, u_g = (v.sum(1, keepdim=True) for v in (u_, u_ * x_, picked * g))
        u_n = (u_x - mean_ * u_1) * scale_
        along = u_g - (u_1 * g_1_ + u_n * g_n_) / m  # S(u P(g))
        of_u, of_g = s * g_n_ / -m, a_ - s * u_n / m
        w_1, w_n = of_u * u_1 + of_g * g_1_, of_u * u_n + of_g * g_n_
        slope = scale_ * scale_ * (w_n + s * along) / -m
        start = scale_ * w_1 / -m - slope * mean_
        terms = ((slope, x_), (scale_ * of_u, u_))
        _affine(out_x, start, *terms, sparse=(scale_ * of_g, g), index=where)
        _affine(out_grad, b_ - s * u_1 / m, (s, picked), (of_g, n_))
        to_weight[part] = (scale_ * along).squeeze(1)
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
    return torch.empty_like(x.movedim(2, -1), memory_format=torch.contiguous_format).movedim(
        -1, 2
    )


def _rows(x: Tensor) -> Tensor:
    """(T, N, C, ...) as (T, M, C), contiguous: a view, if channels are last.

    `native_batch_norm` computes other numbers for an input and an output of different strides.
    """
    return x.movedim(2, -1).flatten(1, -2).contiguous()


def _in_parts(tensors: Sequence[Tensor | None]) -> Iterator[tuple[slice, list[Any]]]:
    """As many tasks at a time as fit into the cache."""
    tasks = next(len(v) for v in tensors if v is not None)
    largest = max(v[0].numel() for v in tensors if v is not None)
    size = max(1, CACHED // largest)
    for start in range(0, tasks, size):
        part = slice(start, start + size)
        yield part, [None if v is None else v[part] for v in tensors]


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
        values = (sparse[0] * sparse[1]).flatten(1).to(out.dtype)
        out.flatten(1).scatter_add_(1, index, values)
