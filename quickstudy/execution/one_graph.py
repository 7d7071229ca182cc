"""Losses and their gradient as one compiled graph."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad

from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import leaves

if TYPE_CHECKING:
    from quickstudy.learner import Learner


class OneGraph(nn.Module):
    """A learner in training whose losses and their gradient are compiled as one graph.

    `torch.compile(learner)` makes two graphs, one forwards and one backwards, which store and
    load what they share. Here the forward pass computes the gradient of the summed losses as
    well. If the upstream gradient is the same for all tasks, as that of a mean is, backward
    only scales it; otherwise the losses are computed again, uncompiled. The learner is the
    submodule `_orig_mod`, as in `torch.compile`, so that names of stored parameters are equal.

    Args:
        learner: writes no buffers in training, so it has no running statistics.
        backend: of `torch.compile`.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> compiled = OneGraph(learner, backend="eager")
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> compiled(batch).mean().backward()
        >>> learner.embed.weight.grad.shape
        torch.Size([2, 8])
    """

    def __init__(self, learner: "Learner[Any]", backend: str = "inductor"):
        super().__init__()
        self._orig_mod = learner
        self._compiled = torch.compile(
            _gradient_and_losses,
            fullgraph=True,
            backend=backend,
            options={"guard_filter_fn": _may_change},
        )

    def forward(self, tasks: TaskBatch) -> Tensor:
        """Return the loss of every task (T,)."""
        learner = self._orig_mod
        params = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        differentiable = any(leaf.requires_grad for leaf in leaves(tasks))
        if not params or not torch.is_grad_enabled() or differentiable:
            return learner(tasks)
        return _Losses.apply(learner, self._compiled, tasks, tuple(params), *params.values())  # pyright: ignore[reportReturnType]


def _may_change(guards: Sequence[Any]) -> list[bool]:
    """Which of the conditions of a graph to check at every call: not that functions of PyTorch
    and of this library are what they were, which is most conditions and an eighth of a step."""
    constant = ("G['__import_torch", "G['__import_quickstudy", "__import__('torch')")
    return [not guard.name.startswith(constant) for guard in guards]


def _gradient_and_losses(
    learner: nn.Module, params: dict[str, Tensor], tasks: TaskBatch
) -> tuple[dict[str, Tensor], Tensor]:
    def total(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        losses = functional_call(learner, params, (tasks,))
        return losses.sum(), losses

    return grad(total, has_aux=True)(params)


class _Losses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        learner: nn.Module,
        compiled: Callable[..., Any],
        tasks: TaskBatch,
        names: tuple[str, ...],
        *params: Tensor,
    ) -> Tensor:
        values = dict(zip(names, (p.detach() for p in params), strict=True))
        grads, losses = compiled(learner, values, tasks)
        ctx.learner, ctx.tasks = learner, tasks
        ctx.grads = [grads[name] for name in names]
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if bool((upstream == upstream[0]).all()):
            return *[None] * 4, *(upstream[0] * grad for grad in ctx.grads)
        params = [p for p in ctx.learner.parameters() if p.requires_grad]
        with torch.enable_grad():
            total = ctx.learner(ctx.tasks) @ upstream
        return *[None] * 4, *torch.autograd.grad(total, params, allow_unused=True)
