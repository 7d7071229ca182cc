"""Calls of code other than PyTorch from functions of one task."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


def outside(
    fn: Callable[..., tuple[Tensor, ...]], row: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """Call `fn` once for a whole batch, from within functions that `vmap` batches.

    So a simulator without tensors can be part of a function of one episode of one task. However
    many `vmap`s enclose it, `fn` is called once. Its arguments and results have one axis N in
    front. Nothing is differentiated.

    Args:
        fn: maps `row` and `others` to tensors.
        row: (W,); all further axes belong to the batch.
        others: any shapes.

    Examples:
        >>> import torch
        >>> def simulate(row):
        ...     print("one call with", tuple(row.shape))
        ...     return (row.sum(-1),)
        >>> torch.func.vmap(lambda row: outside(simulate, row)[0])(torch.ones(3, 2))
        one call with (3, 2)
        tensor([2., 2., 2.])
    """

    def flat(row: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        batch = row.shape[:-1]
        count = len(batch)
        rows = (x.reshape((batch.numel(), *x.shape[count:])) for x in (row, *others))
        return tuple(x.reshape((*batch, *x.shape[1:])) for x in fn(*rows))

    return _Outside.apply(flat, row, *others)  # pyright: ignore[reportReturnType]


class _Outside(Function):
    @staticmethod
    def forward(fn: Any, *inputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        return fn(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, fn: Any, *inputs: Tensor) -> Any:  # pyright: ignore
        together = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims[1:], strict=True)
        ]
        results = _Outside.apply(fn, *together)
        return results, (0,) * len(results)
