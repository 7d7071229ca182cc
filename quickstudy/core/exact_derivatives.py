"""Functions of PyTorch whose second derivatives are wrong, in a form that is right.

Under `vmap`, PyTorch computes the gradient of the weight of a batch, instance or layer
normalisation from a mean and a variance that it treats as constants (pytorch/functorch#534).
The gradient itself is right. Its derivative, which MAML needs, is a wrong number without an
error. `torch._weight_norm` treats its norms so on a CPU, under `vmap` or not. Under two levels
of `vmap`, as a Jacobian of every example has, the gradient of `prelu` mixes up its axes.

While `exact_derivatives` lasts, these functions are replaced where they are called. A layer of
the user's own, or a call of `F.layer_norm`, is then as exact as a layer of PyTorch.
Maxima of normalised batches are replaced too, for speed, in nets that have `nn.MaxPool2d`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from quickstudy.core.batch_statistics import normalise_by_batch
from quickstudy.core.pooled_statistics import Normalised, max_pool, normalise
from quickstudy.core.torch_private import in_forward_mode, in_transform


class ExactDerivatives(TorchFunctionMode):
    """A mode in which second derivatives of normalisations and of `weight_norm` are exact.

    Values and first derivatives do not change. `exact_derivatives` turns it on.

    Args:
        pools: whether batches are pooled after they are normalised: `pooled_statistics` then
            computes both, where the one call follows the other.

    Examples:
        >>> v, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]])
        >>> with ExactDerivatives():
        ...     print(torch._weight_norm(v, g, 0))
        tensor([[6., 8.]])
    """

    def __init__(self, pools: bool = False):
        super().__init__()
        self.pools = pools
        self.last: tuple[Tensor, Normalised, bool] | None = None  # and whether y is its ReLU

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, last, self.last = kwargs or {}, self.last, None
        if last is not None and args and args[0] is last[0]:
            _, normalised, rectified = last
            if func in (F.max_pool2d, torch.max_pool2d):
                # the maximum of a ReLU is the ReLU of the maximum, which has fewer numbers
                pooled = max_pool(normalised, *args[1:], **kwargs)
                return pooled.relu() if rectified else pooled
            rectifies = func in (F.relu, torch.relu, Tensor.relu) and len(args) == 1
            if rectifies and not kwargs.get("inplace"):
                self.last = (args[0].relu(), normalised, True)
                return self.last[0]
        if self.pools and func is F.batch_norm:
            normalised = _normalised(*args, **kwargs)
            if normalised is not None:
                self.last = (normalised.y, normalised, False)
                return normalised.y
        return _EXACT.get(func, func)(*args, **kwargs)


@contextmanager
def exact_derivatives(module: nn.Module | None = None) -> Iterator[None]:
    """Make second derivatives exact while this context lasts, in this thread.

    Inside of another such context it does nothing. The mode makes every call of PyTorch a few
    microseconds slower. So it stays off if `module` has only parts of PyTorch and of this
    library, and none of them normalises or has hooks.

    Examples:
        >>> from quickstudy.core.torch_private import function_modes
        >>> with exact_derivatives(), exact_derivatives():
        ...     print(len(function_modes()))
        1
        >>> with exact_derivatives(nn.Linear(1, 1)):
        ...     print(len(function_modes()))
        0
    """
    if torch.compiler.is_compiling():
        with ExactDerivatives():
            yield
        return
    if _DECIDED.get():
        yield
        return
    token = _DECIDED.set(True)
    try:
        parts = [] if module is None else [*module.modules()]
        if module is None or any(map(_may_normalise, parts)):
            with ExactDerivatives(any(isinstance(part, nn.MaxPool2d) for part in parts)):
                yield
        else:
            yield
    finally:
        _DECIDED.reset(token)


_DECIDED: ContextVar[bool] = ContextVar("decided", default=False)


def _may_normalise(module: nn.Module) -> bool:
    """Whether a module might call one of these functions: it normalises or embeds, is a PReLU,
    has hooks, or runs code of somebody else."""
    if isinstance(module, nn.PReLU):
        return True
    functions = [value for value in vars(module).values() if callable(value)]
    places = [getattr(part, "__module__", None) or "" for part in (type(module), *functions)]
    return bool(module._forward_pre_hooks or module._forward_hooks) or any(
        not place.startswith(("torch.nn.modules.", "torch.nn.functional", "quickstudy."))
        or place.endswith(("norm", ".normalization", ".sparse"))
        for place in places
    )


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    shape = list(normalized_shape)
    if not _is_applied_apart(weight):
        return F.layer_norm(input, shape, weight, bias, eps)
    return _affine(F.layer_norm(input, shape, None, None, eps), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    statistics = (running_mean, running_var)
    by_batch = training and running_mean is None and input.numel() > input.shape[1]
    if by_batch and weight is not None and bias is not None and _is_plain_autograd():
        return normalise_by_batch(input, weight, bias, eps)
    if not _is_applied_apart(weight) and (bias is None or weight is not None):
        return F.batch_norm(input, *statistics, weight, bias, training, momentum, eps)
    y = F.batch_norm(input, *statistics, None, None, training, momentum, eps)
    return _affine(y, *(_per_channel(p, input) for p in (weight, bias)))


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalised | None:
    """Images of a task under `vmap` that are normalised by their batch; None: anything else."""
    if weight is None or bias is None or not training or running_mean is not None:
        return None
    fits = (
        in_transform()
        and not in_forward_mode()
        and not torch.compiler.is_compiling()
        and input.device.type == "cpu"
        and input.ndim == 4
        and weight.dtype == bias.dtype == input.dtype
        and input.dtype in (torch.float32, torch.float64)
        and weight.shape == bias.shape == input.shape[1:2]
        and input.numel() > input.shape[1]
    )
    return normalise(input, weight, bias, eps) if fits else None


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    apart = _is_applied_apart(weight) or (weight is None and bias is not None)
    inside = (None, None) if apart else (weight, bias)
    y = F.instance_norm(
        input, running_mean, running_var, *inside, use_input_stats, momentum, eps
    )
    return _affine(y, *(_per_channel(p, input) for p in (weight, bias))) if apart else y


def _by_order_of_torch(fn: Any) -> Any:
    """A normalisation with weight and bias in front of the statistics."""

    def reordered(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        by_input: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool = True,
    ) -> Tensor:
        return fn(input, running_mean, running_var, weight, bias, by_input, momentum, eps)

    return reordered


def _native_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    axes = list(range(-len(normalized_shape), 0))
    y = _layer_norm(input, normalized_shape, weight, bias, eps)
    return y, *_mean_and_scale(input, axes, eps, keepdim=True)


def _native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = (running_mean, running_var)
    y = _batch_norm(input, *statistics, weight, bias, training, momentum, eps)
    if not training:
        return y, input.new_empty(0), input.new_empty(0)
    axes = [axis for axis in range(input.ndim) if axis != 1]
    return y, *_mean_and_scale(input, axes, eps, keepdim=False)


def _native_group_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    y = F.group_norm(input, group, weight, bias, eps)
    return y, *_mean_and_scale(input.reshape(N, group, -1), [-1], eps, keepdim=False)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, with a norm for every index along `dim` (-1: one norm)."""
    return _weight_norm_interface(v, g, dim)[0]


def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim]
    norms = v.square().sum(axes, keepdim=True).sqrt()
    return v * (g / norms), norms


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    if _is_plain_autograd():
        return F.prelu(input, weight)
    if input.ndim > 1 and weight.numel() > 1:
        weight = weight.view(-1, *[1] * (input.ndim - 2))
    return torch.where(input > 0, input, weight * input)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *settings: Any,
    **keywords: Any,
) -> Tensor:
    if max_norm is not None and not isinstance(weight, nn.Parameter):
        raise ValueError(
            "An embedding with max_norm rescales its rows in place, which no derivative knows "
            "of: set max_norm=None, and normalise what it returns."
        )
    return F.embedding(input, weight, padding_idx, max_norm, *settings, **keywords)


def _embedding_bag(input: Tensor, weight: Tensor, *settings: Any, **keywords: Any) -> Tensor:
    """As F.embedding_bag, whose gradient has no derivative. Bags of one length are made of
    F.embedding, if nothing else is asked for."""
    unusual = settings or any(
        value is not None and value is not False
        for name, value in keywords.items()
        if name not in ("mode", "norm_type")
    )
    if input.ndim != 2 or unusual:
        return F.embedding_bag(input, weight, *settings, **keywords)
    reduce = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}
    return reduce[keywords.get("mode", "mean")](F.embedding(input, weight), 1)


def _mean_and_scale(
    x: Tensor, axes: Sequence[int], eps: float, keepdim: bool
) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, list(axes), correction=0, keepdim=keepdim)
    return mean, (var + eps).rsqrt()


def _is_applied_apart(weight: Tensor | None) -> bool:
    """Whether to multiply by a weight outside of the normalisation: if something else, such as
    a fast weight, stands in the place of the parameter under a transform."""
    return weight is not None and not (_is_plain_autograd() or isinstance(weight, nn.Parameter))


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _per_channel(p: Tensor | None, x: Tensor) -> Tensor | None:
    return p if p is None else p.view(-1, *[1] * (x.ndim - 2))


def _is_plain_autograd() -> bool:
    return not torch.compiler.is_compiling() and not in_transform()


_EXACT: dict[Any, Any] = {
    F.batch_norm: _batch_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.prelu: _prelu,
    torch.ops.aten.prelu: _prelu,
    torch.ops.aten.prelu.default: _prelu,
}
for _name, _function in {
    "batch_norm": _by_order_of_torch(_batch_norm),
    "instance_norm": _by_order_of_torch(_instance_norm),
    "layer_norm": _layer_norm,
    "native_batch_norm": _native_batch_norm,
    "native_group_norm": _native_group_norm,
    "native_layer_norm": _native_layer_norm,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm_interface,
}.items():
    _operation = getattr(torch.ops.aten, _name)
    for _call in (getattr(torch, _name), _operation, _operation.default):
        _EXACT[_call] = _function
