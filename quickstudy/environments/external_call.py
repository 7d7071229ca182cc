"""Calls to simulators outside of PyTorch, from functions of one task."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


def outside(
    fn: Callable[..., tuple[Tensor, ...]], row: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """What `fn` says of a whole batch, asked for from within functions that `vmap` batches.

    A simulator that knows no tensors can so be part of a function of one episode of one task:
    however many `vmap`s there are around it, `fn` is called once, by all tensors with one
    axis in front, N, and returns tensors with that axis. Nothing is differentiated.

    Args:
        fn: takes what follows.
        row: one axis (W,), which tells how many others are of the batch.
        others: any shapes.
    """

    def flat(row: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        batch = row.shape[:-1]
        found = fn(
            *(x.reshape((batch.numel(), *x.shape[len(batch) :])) for x in (row, *others))
        )
        return tuple(x.reshape((*batch, *x.shape[1:])) for x in found)

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
        found = _Outside.apply(fn, *together)
        return found, (0,) * len(found)
