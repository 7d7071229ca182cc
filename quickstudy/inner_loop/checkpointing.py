"""Functions that are computed again in the backward pass, so that their graph is not stored.

PyTorch's own checkpoints (`torch.utils.checkpoint`) work neither around `torch.func.grad` nor
inside of `vmap`. These do, and can be nested. A loss is a closure, so the tensors that it
captures become inputs that have gradients too:

```text
forward:   x, w ─ aliases ─► flat(x', w') ─► y        fn(x') without a graph, w' in place of w
backward:  x, w (stored) ──► flat(x', w') ─► y'       again, in the context of the forward pass
           v (cotangent of y) ─ vjp ─► grads of x and of w
```

Examples:
    >>> import torch
    >>> from quickstudy.inner_loop.capture import find_captured
    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> x = {"a": torch.tensor(2.0, requires_grad=True)}
    >>> def fn(tree):
    ...     print("computed")
    ...     return {"a": w * tree["a"] ** 2}
    >>> captured = find_captured(fn, x)
    computed
    >>> y = checkpointed(fn, captured)(x)["a"]
    computed
    >>> torch.autograd.grad(y, (x["a"], w))
    computed
    (tensor(12.), tensor(4.))
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import grad, jvp, vjp, vmap

from quickstudy.core.parameters import Params
from quickstudy.core.torch_private import in_transform
from quickstudy.core.tree import leaves, tree_map, unflatten
from quickstudy.inner_loop.capture import (
    CapturedTensors,
    ExecutionContext,
    SubstituteTensors,
)


def checkpointed(fn: Callable[[Any], Any], captured: CapturedTensors) -> Callable[[Any], Any]:
    """Return `fn` with only its input stored: differentiating it computes it again.

    Args:
        fn: from a tree of tensors to a tree of the same structure.
        captured: `find_captured(fn, ...)`.

    Examples:
        >>> import torch
        >>> from quickstudy.inner_loop.capture import find_captured
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> square = checkpointed(torch.square, find_captured(torch.square, x))
        >>> square(x).sum().backward()
        >>> x.grad
        tensor([2., 4.])
    """

    return partial(_apply, _Checkpoint, lambda tree: tuple(leaves(fn(tree))), captured)


def mixed_grad(
    loss: Callable[[Params], Tensor], captured: CapturedTensors
) -> Callable[[Params], Params]:
    """Return `torch.func.grad(loss)` with only the point stored.

    Its derivative is that of mixed modes (Kemaev et al., 2025, arXiv:2505.00793): the forward
    derivative, in the direction of the cotangent, of the gradient with respect to all that
    `loss` reads. As second derivatives are symmetric, this is the product with the Hessian,
    and the cross terms.

    Args:
        captured: `find_captured(loss, ...)`.

    Examples:
        >>> import torch
        >>> from quickstudy.inner_loop.capture import find_captured
        >>> loss = lambda params: params["a"] ** 3
        >>> params = {"a": torch.tensor(2.0, requires_grad=True)}
        >>> gradient = mixed_grad(loss, find_captured(loss, params))(params)["a"]
        >>> gradient.item(), torch.autograd.grad(gradient, params["a"])[0].item()
        (12.0, 12.0)
    """

    return partial(_apply, _MixedGrad, loss, captured)


def _apply(
    function: type[Function], fn: Callable[[Any], Any], captured: CapturedTensors, tree: Any
) -> Any:
    shape = tree_map(lambda _: None, tree)  # to hold on to no tensor

    def flat(*inputs: Tensor) -> Any:
        with SubstituteTensors(captured.tensors, inputs):
            return fn(unflatten(shape, inputs))

    # views, so that an outer function can substitute the inputs in turn
    inputs = [leaf.view_as(leaf) for leaf in leaves(tree)]
    others = [leaf.view_as(leaf) for leaf in captured.tensors]
    context = ExecutionContext(tree, captured.random)
    return unflatten(tree, function.apply(flat, context, len(inputs), *inputs, *others))


class _Checkpoint(Function):
    @staticmethod
    def forward(
        fn: Callable[..., tuple[Tensor, ...]],
        context: ExecutionContext,
        size: int,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        return fn(*map(torch.Tensor.detach, inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.fn, ctx.context, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        needed = [i for i, needs in enumerate(ctx.needs_input_grad[3:]) if needs]
        inputs = ctx.saved_tensors
        fn, points = _partial_over(ctx.fn, inputs, needed), [inputs[i] for i in needed]
        with ctx.context.restored():
            if in_transform():
                grads = vjp(fn, *points)[1](cotangents)
            else:
                grads = _vjp_by_autograd(fn, points, cotangents)
        return None, None, None, *_scatter_grads(grads, needed, len(inputs))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, fn: Any, context: ExecutionContext, size: int, *inputs: Tensor
    ) -> Any:
        batched = vmap(fn, in_dims[3:], randomness=info.randomness)
        outputs = _Checkpoint.apply(batched, context, size, *inputs)
        return outputs, (0,) * len(outputs)


def _vjp_by_autograd(
    fn: Callable[..., Any], points: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """`torch.func.vjp` by plain autograd, which takes less memory."""
    create_graph = torch.is_grad_enabled()  # for a derivative of higher order
    points = points if create_graph else [p.detach().requires_grad_() for p in points]
    with torch.enable_grad():
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(fn(*points), cotangents, strict=True)
            if output.requires_grad
        ]
        outputs, directions = zip(*pairs, strict=True)
        return torch.autograd.grad(
            outputs, points, directions, create_graph=create_graph, allow_unused=True
        )


class _MixedGrad(Function):
    @staticmethod
    def forward(
        fn: Callable[..., Tensor], context: ExecutionContext, size: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return grad(fn, tuple(range(size)))(*map(torch.Tensor.detach, inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.fn, ctx.context, ctx.size, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        needed = [i for i in range(len(inputs)) if i < ctx.size or needs[i]]
        # a tangent has its point's layout, which must not be that of `expand`
        params = tuple(p.clone() if 0 in p.stride() else p for p in inputs[: ctx.size])
        others = [inputs[i] for i in needed[ctx.size :]]
        gradient = grad(_partial_over(ctx.fn, inputs, needed), tuple(range(len(needed))))

        def gradient_at(*params: Tensor) -> tuple[Tensor, ...]:
            return gradient(*params, *others)

        with ctx.context.restored():
            try:
                grads = _jvp()(gradient_at, params, cotangents)[1]
            except (NotImplementedError, AssertionError) as error:
                raise ValueError(
                    "With checkpoint='mixed', what the inner loss calls needs a forward "
                    "derivative, which some of it does not have: set checkpoint='steps'."
                ) from error
        return None, None, None, *_scatter_grads(grads, needed, len(inputs))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, fn: Any, context: ExecutionContext, size: int, *inputs: Tensor
    ) -> Any:
        # every task has its own point, so that the gradient of the sum is that of each task
        params = [
            p.expand(info.batch_size, *p.shape) if dim is None else p.movedim(dim, 0)
            for p, dim in zip(inputs[:size], in_dims[3:], strict=False)
        ]
        dims = (*[0] * size, *in_dims[3 + size :])
        batched = vmap(fn, dims, randomness=info.randomness)

        def total(*inputs: Tensor) -> Tensor:
            return batched(*inputs).sum()

        grads = _MixedGrad.apply(total, context, size, *params, *inputs[size:])
        return grads, (0,) * size


def _partial_over(
    fn: Callable[..., Any], inputs: Sequence[Tensor], needed: Sequence[int]
) -> Any:
    """`fn` as a function of the inputs numbered in `needed`; the others are fixed."""

    def partial_fn(*chosen: Tensor) -> Any:
        every = dict(enumerate(inputs)) | dict(zip(needed, chosen, strict=True))
        return fn(*every.values())

    return partial_fn


def _scatter_grads(
    grads: Sequence[Tensor | None], needed: Sequence[int], size: int
) -> list[Tensor | None]:
    """The gradients of all `size` inputs: those of the needed ones, and None."""
    by_number = dict(zip(needed, grads, strict=True))
    return [by_number.get(i) for i in range(size)]


@cache
def _jvp() -> Any:
    """`torch.func.jvp`. Its first call loads scripts, about which PyTorch itself warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
    return jvp
