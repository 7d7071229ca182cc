"""Convolutions whose weights differ from task to task, and their derivatives of any order.

A convolution y = x * w defines a trilinear form of three tensors, <y', x * w>. Its gradient
with respect to one of them is a bilinear product of the other two:

```text
w, x ──► y    the convolution
w, y ──► x    the gradient for the input: a transposed convolution
x, y ──► w    the gradient for the weight
```

A derivative of a product is another of these products. So three cases, which PyTorch has
kernels for, are all derivatives of all orders. `torch.func.vmap` would make tasks into groups
of one convolution, whose second derivative goes over the groups one by one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from quickstudy.core.torch_private import in_forward_mode, in_transform, without_axis

FEW_COLUMNS = 32  # of a weight as a matrix: then one product with patches takes less time


class Geometry(NamedTuple):
    """The shapes and settings of a convolution.

    Examples:
        >>> Geometry((1, 5, 5), (8, 1, 3, 3), (1, 1), (0, 0), (1, 1), 1).groups
        1
    """

    x: tuple[int, ...]  # the shape of an input (C, ...)
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return what `F.conv1d`, `F.conv2d` or `F.conv3d` would, by the dimensions of `weight`.

    Where these products are of no use (on a GPU, outside of `vmap`, in forward mode, compiled)
    or cannot do it (an uneven padding), the function of PyTorch is called.

    Examples:
        >>> conv(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor([[[[4.]]]])
    """
    dims = weight.ndim - 2
    settings = (stride, padding, dilation, groups)
    steps, dilations = _each(stride, dims), _each(dilation, dims)
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    margins = _each(padding, dims)
    if padding == "valid":
        margins = (0,) * dims
    elif padding == "same":
        margins = tuple(r // 2 for r in reach)
    by_torch = (
        torch.compiler.is_compiling()
        or input.device.type != "cpu"
        or not in_transform()
        or in_forward_mode()
    )
    if by_torch or (padding == "same" and any(r % 2 for r in reach)):
        return _BY_TORCH[dims](input, weight, bias, *settings)
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        input, weight = input.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    x = input if input.ndim == weight.ndim else input[None]
    kinds = {t.dtype for t in (x, weight, bias) if t is not None}
    geometry = Geometry(x.shape[1:], weight.shape, steps, margins, dilations, groups)
    if not (kinds <= _KINDS and len(kinds) == 1 and _fits(x, geometry)):
        return _BY_TORCH[dims](input, weight, bias, *settings)
    few = dims == 2 and groups == 1 and weight[0].numel() <= FEW_COLUMNS < len(x) * len(weight)
    if few:
        y = _product_with_patches(x, weight, bias, geometry)
    else:
        y: Any = _Product.apply(
            "y", geometry, weight[None], x[None], None if bias is None else bias[None]
        )
        y = without_axis(y)
    return y if x is input else y.squeeze(0)


_BY_TORCH: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_KINDS = {torch.float32, torch.float64, torch.bfloat16}


def _each(setting: Any, dims: int) -> tuple[int, ...]:
    if isinstance(setting, str):
        return ()
    each = (setting,) if isinstance(setting, int) else tuple(setting)
    return each * dims if len(each) == 1 else each


def _fits(x: Tensor, geometry: Geometry) -> bool:
    """Whether the input has the right channels, and is large enough for an output."""
    channels, *size = geometry.x
    outputs, inputs, *kernel = geometry.weight
    spans = zip(size, geometry.padding, geometry.dilation, kernel, geometry.stride, strict=True)
    return (
        x.numel() > 0
        and len(geometry.x) == len(geometry.weight) - 1
        and channels == inputs * geometry.groups
        and outputs % geometry.groups == 0
        and all(n + 2 * p > d * (k - 1) and s > 0 <= p for n, p, d, k, s in spans)
    )


def _product_with_patches(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """The convolution as a matrix product (N H W, C k k) @ (C k k, O).

    A bias is the weight of a column of ones, so its derivatives are part of the same products.
    """
    _, _, stride, padding, dilation, _ = geometry
    size = weight.shape[-2:]
    columns = F.unfold(x, size, dilation, padding, stride)  # (N, C k k, H W)
    matrix = weight.flatten(1).t()
    if bias is not None:
        columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
        matrix = torch.cat([matrix, bias[None]])
    height = (x.shape[-2] + 2 * padding[0] - dilation[0] * (size[0] - 1) - 1) // stride[0] + 1
    y = columns.mT.flatten(0, 1) @ matrix.contiguous()
    return y.view(len(x), height, -1, len(weight)).movedim(-1, 1)


class _Product(Function):
    """The gradient of <y, x * weight> for the tensor called `of`, given the other two in the
    order weight, x, y, for a stack of tasks: all tensors have an axis of tasks in front."""

    @staticmethod
    def forward(
        of: str, geometry: Geometry, a: Tensor, b: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        biases = [None] * len(a) if bias is None else bias
        product = {"weight": _weight_gradient, "x": _input_gradient, "y": _output}[of]
        each = zip(a, b, biases, strict=True)
        return _stack([product(geometry, _laid_out(s), _laid_out(t), c) for s, t, c in each])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.of, ctx.geometry, a, b, _ = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, second = (name for name in ("weight", "x", "y") if name != ctx.of)
        a, b = ctx.saved_tensors
        tensors = {first: a, second: b, ctx.of: grad}
        _, _, *needed, of_bias = ctx.needs_input_grad

        def gradient(of: str) -> Any:
            others = [tensors[name] for name in ("weight", "x", "y") if name != of]
            return _Product.apply(of, ctx.geometry, *others, None)

        grads = [
            gradient(of) if needs else None
            for of, needs in zip((first, second), needed, strict=True)
        ]
        return (
            None,
            None,
            *grads,
            grad.movedim(2, -1).flatten(1, -2).sum(1) if of_bias else None,
        )

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any,
        in_dims: Any,
        of: str,
        geometry: Geometry,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
    ) -> tuple[Any, int]:
        size, (_, _, *dims) = info.batch_size, in_dims
        if of != "weight" and dims[0] is None and dims[2] is None:  # one weight for all
            together = b.movedim(dims[1], 1).flatten(1, 2)
            product: Any = _Product.apply(of, geometry, a, together, bias)
            return product.unflatten(1, (size, -1)), 1
        stacks: Any = (
            tensor
            if tensor is None
            else (
                tensor[None].expand(size, *tensor.shape)
                if dim is None
                else tensor.movedim(dim, 0)
            ).flatten(0, 1)
            for tensor, dim in zip((a, b, bias), dims, strict=True)
        )
        product = _Product.apply(of, geometry, *stacks)
        return product.unflatten(0, (size, -1)), 0


def _output(geometry: Geometry, weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    _, _, stride, padding, dilation, groups = geometry
    zero = (0,) * len(padding)
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, zero, groups)


def _input_gradient(geometry: Geometry, weight: Tensor, y: Tensor, _: None) -> Tensor:
    x = y.new_empty(len(y), *geometry.x)  # only its shape is read
    return _gradients(geometry, y, x, weight, (True, False, False))[0]


def _weight_gradient(geometry: Geometry, x: Tensor, y: Tensor, _: None) -> Tensor:
    weight = y.new_empty(geometry.weight)
    return _gradients(geometry, y, x, weight, (False, True, False))[1]


def _gradients(geometry: Geometry, y: Tensor, x: Tensor, weight: Tensor, mask: Any) -> Any:
    _, _, stride, padding, dilation, groups = geometry
    zero = (0,) * len(padding)
    return torch.ops.aten.convolution_backward(
        y,
        _laid_out(x),
        _laid_out(weight),
        None,
        stride,
        padding,
        dilation,
        False,
        zero,
        groups,
        mask,
    )


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _stack(tensors: list[Tensor]) -> Tensor:
    """The stack of tensors that keeps channels last."""
    if len(tensors) == 1:
        return tensors[0][None]
    if tensors[0].ndim != 4:
        return torch.stack(tensors)
    return torch.stack([tensor.movedim(1, -1) for tensor in tensors]).movedim(-1, 2)
