"""How a function of one task is executed over a batch of tasks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.functional import tree_map, unstack
from quickstudy.task import Task, TaskBatch

if TYPE_CHECKING:
    from quickstudy.learner import Learner

How: TypeAlias = Literal["vmap", "loop"]


def over_tasks(
    fn: Callable[..., Any], how: How = "vmap", chunk: int | None = None
) -> Callable[..., Any]:
    """Turns a function of one task into a function of a batch of tasks.

    `how` and `chunk` change speed and memory, never the result: "vmap" does all tasks at
    once (`chunk`: that many at once), "loop" one after the other. Attention is computed by
    PyTorch's MATH backend, the only one with a second derivative and a batching rule.
    """
    if how == "vmap":
        run = vmap(fn, randomness="different", chunk_size=chunk)
    elif how == "loop":

        def run(*batch: Any) -> Any:
            results = [fn(*task) for task in zip(*map(unstack, batch), strict=True)]
            return tree_map(lambda *leaves: torch.stack(leaves), *results)
    else:
        raise ValueError(f"how={how!r} is neither 'vmap' nor 'loop'.")

    def batched(*batch: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return run(*batch)

    return batched


def losses_over_tasks(learner: "Learner[Any]", tasks: TaskBatch) -> Tensor:
    """The loss of every task (T,).

    In training mode the running statistics of normalisation layers ride along: every task
    starts from a copy, and the mean of what the tasks make of it is kept.
    """
    statistics = running_statistics(learner) if learner.training else {}
    if not statistics:
        return over_tasks(learner.loss, learner.how, learner.chunk)(tasks)

    module = _Loss(learner)

    def loss(task: Task[Any], own: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        own = {name: value.clone() for name, value in own.items()}
        return functional_call(module, own, (task,)), own

    size = len(tasks.query[0])
    copies = {k: v.expand(size, *v.shape).contiguous() for k, v in statistics.items()}
    losses, after = over_tasks(loss, learner.how, learner.chunk)(tasks, copies)
    with torch.no_grad():
        for name, value in statistics.items():
            mean = after[name].mean(0) if value.is_floating_point() else after[name][0]
            value.copy_(mean)
    return losses


def running_statistics(learner: nn.Module) -> dict[str, Tensor]:
    """The buffers that normalisation layers write in training mode, named as in `_Loss`."""
    return {
        f"learner.{path}.{name}" if path else f"learner.{name}": buffer
        for path, module in learner.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        for name, buffer in module.named_buffers(recurse=False)
    }


class _Loss(nn.Module):
    """The loss of one task as a forward, for `functional_call`."""

    def __init__(self, learner: "Learner[Any]"):
        super().__init__()
        self.learner = learner

    def forward(self, task: Task[Any]) -> Tensor:
        return self.learner.loss(task)
