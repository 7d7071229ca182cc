"""The loss of every task of a batch: what a learner's `forward` returns."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Checkpointed
from quickstudy.core.exact_derivatives import exact_derivatives
from quickstudy.core.parameters import is_trainable
from quickstudy.core.replicas import replica, written_back
from quickstudy.core.stateless import no_checkpointing
from quickstudy.core.task import Task, TaskBatch
from quickstudy.core.torch_private import in_transform, reparametrized
from quickstudy.core.tree import leaves
from quickstudy.execution.batching import differentiable_attention, over_tasks
from quickstudy.execution.chunked import by_chunk
from quickstudy.execution.errors import explained
from quickstudy.execution.running_statistics import running_statistics
from quickstudy.inner_loop.capture import keep_borrowed

if TYPE_CHECKING:
    from quickstudy.learner import Learner


def losses_over_tasks(learner: "Learner[Any]", tasks: TaskBatch) -> Tensor:
    """Return the loss of every task (T,).

    In training mode, every task starts from a copy of the running statistics of normalisation
    layers, and the mean of the tasks' updated copies is stored.

    Raises:
        ValueError: a module cannot be executed in this way; names it and the remedy.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> losses_over_tasks(qs.PrototypicalNetwork(torch.nn.Linear(8, 2)), batch).shape
        torch.Size([4])
    """
    if torch.compiler.is_compiling():
        return _losses(learner, tasks)
    with explained(learner, tasks):
        return _losses(learner, tasks)


def _losses(learner: "Learner[Any]", tasks: TaskBatch) -> Tensor:
    exact = exact_derivatives(learner)
    with exact, _weights_channels_last(learner) as learner, _borrowed_for_checkpoints(learner):
        statistics = running_statistics(learner) if learner.training else {}
        if not statistics:
            return _batch_losses(learner, attrgetter("loss"), tasks)
        size = len(tasks.query[0])
        copies = {k: v.expand(size, *v.shape).contiguous() for k, v in statistics.items()}
        losses, updated = _batch_losses(
            learner, lambda learner: partial(_loss_and_statistics, learner), tasks, copies
        )
    with torch.no_grad():
        for name, value in statistics.items():
            mean = updated[name].mean(0) if value.is_floating_point() else updated[name][0]
            value.copy_(mean)
    return losses


def _loss_and_statistics(
    learner: "Learner[Any]", task: Task[Any], statistics: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    copies = {name: value.clone() for name, value in statistics.items()}
    # `functional_call`, of `loss` instead of forward
    if torch.compiler.is_compiling():
        with reparametrized(learner, copies), no_checkpointing():
            return learner.loss(task), copies
    with (
        written_back(learner, replica(learner, copies), buffers=True) as lent,
        no_checkpointing(),
    ):
        loss = lent.loss(task)
    updated = running_statistics(lent)
    return loss, {name: updated[name] for name in statistics}


def _batch_losses(
    learner: "Learner[Any]",
    task_loss: Callable[["Learner[Any]"], Callable[..., Any]],
    *batch: Any,
) -> Any:
    """The loss of every task of a batch, by `task_loss(learner)`, a function of one task.

    If a gradient may follow, that of each chunk is computed along with it, so that no more than
    one chunk's graph is in memory, or so that threads share the work.
    """

    def batch_loss(learner: "Learner[Any]", chunk: int | None = None) -> Callable[..., Any]:
        return over_tasks(task_loss(learner), learner.execution, chunk)

    inputs, chunk = leaves(batch), learner.chunk
    size = len(inputs[0])
    if learner.threads > 1:
        share = math.ceil(size / learner.threads)
        chunk = share if chunk is None else min(chunk, share)
    if (
        chunk is None
        or chunk >= size
        or not torch.is_grad_enabled()
        or not any(p.requires_grad for p in learner.parameters())
        or any(leaf.requires_grad for leaf in inputs)
        or torch.compiler.is_compiling()
        or in_transform()  # which may ask for more than first derivatives
    ):
        return batch_loss(learner, learner.chunk)(*batch)
    with differentiable_attention():
        return by_chunk(learner, batch_loss, batch, chunk, learner.threads, extra=batch[-1])


@contextmanager
def _weights_channels_last(learner: "Learner[Any]") -> Iterator["Learner[Any]"]:
    """Yield the learner, or a copy that stores weights of convolutions on a CPU with channels
    last: one task after the other, they are up to twice as fast."""
    if learner.execution == "vmap" or torch.compiler.is_compiling():
        yield learner
        return
    weights = {
        # by `to`: `contiguous` takes weights of one channel as they are
        name: p.to(memory_format=torch.channels_last)
        for name, p in learner.named_parameters()
        if p.ndim == 4 and p.device.type == "cpu" and is_trainable(p)
    }
    if not weights:
        yield learner
        return
    with written_back(learner, replica(learner, weights), buffers=True) as lent:
        yield lent


def _borrowed_for_checkpoints(learner: nn.Module) -> Any:
    """Keep borrowed parameters available for checkpointed inner steps that are computed again
    after `functional_call` returns."""
    checkpoint = learner.checkpoint if isinstance(learner, Checkpointed) else None
    recomputes = checkpoint and not torch.compiler.is_compiling()
    return keep_borrowed(learner) if recomputes else nullcontext()
