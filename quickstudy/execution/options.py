"""One way to execute a learner: its settings, and what comes out of it."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Checkpointed
from quickstudy.core.task import Checkpoint, TaskBatch
from quickstudy.core.workers import on_cores
from quickstudy.execution.batching import Execution
from quickstudy.execution.one_graph import OneGraph
from quickstudy.execution.ram import retain_freed_memory
from quickstudy.execution.running_statistics import running_statistics

if TYPE_CHECKING:
    from quickstudy.learner import Learner


class ExecutionOption(NamedTuple):
    """One way to execute a learner, and its measurements.

    Examples:
        >>> print(ExecutionOption("vmap", 8, False, checkpoint="steps"))
        vmap, chunk 8, steps
    """

    execution: Execution
    chunk: int | None
    compiled: bool
    seconds: float | None = None  # of a batch's losses and their gradient; None: impossible
    note: str = ""  # how well it agrees with the loop, or why it is impossible
    checkpoint: Checkpoint | None = None  # of inner steps; see `descend`
    memory: int | None = None  # bytes at the peak, beyond those from before; None: not measured
    threads: int = 1  # that share the tasks
    intra_op: int = 1  # cores that each operation of a training step uses

    def __str__(self) -> str:
        threads = "" if self.threads == 1 else f", {self.threads} threads"
        threads += "" if self.intra_op == 1 else f", {self.intra_op} cores an operation"
        chunk = "" if self.chunk is None else f", chunk {self.chunk}"
        checkpoint = "" if self.checkpoint is None else f", {self.checkpoint}"
        compiled = ", compiled" if self.compiled else ""
        return f"{self.execution}{chunk}{threads}{checkpoint}{compiled}"


def configured(learner: "Learner[Any]", option: ExecutionOption) -> nn.Module:
    """Set the execution of `learner` to `option`; return it, compiled if the option is.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> configured(learner, ExecutionOption("vmap", 2, False)).chunk
        2
    """
    learner.execution, learner.chunk = option.execution, option.chunk
    learner.threads, learner.intra_op = option.threads, option.intra_op
    if isinstance(learner, Checkpointed):
        learner.checkpoint = option.checkpoint
    return compile_learner(learner) if option.compiled else learner


def configured_copy(
    learner: "Learner[Any]", option: ExecutionOption, device: torch.device | str
) -> nn.Module:
    """Return a copy of `learner` on `device`, `configured`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> other = configured_copy(learner, ExecutionOption("loop", None, False), "cpu")
        >>> learner.execution, other.execution
        ('vmap', 'loop')
    """
    return configured(copy.deepcopy(learner).to(device), option)


def compile_learner(learner: "Learner[Any]") -> nn.Module:
    """Return `learner` compiled as a whole, which happens at its first call.

    Losses and their gradient are one graph (`OneGraph`), unless the learner writes running
    statistics: `torch.compile` then makes one graph forwards and one backwards.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> type(compile_learner(qs.PrototypicalNetwork(torch.nn.Linear(8, 2)))).__name__
        'OneGraph'
    """
    retain_freed_memory()
    if running_statistics(learner):
        return cast(nn.Module, torch.compile(learner, fullgraph=True))
    return OneGraph(learner)


def outcome(learner: nn.Module, batch: TaskBatch, seed: int = 0) -> list[Tensor]:
    """Return the losses (T,) and the gradient of their mean (P,).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> [t.shape for t in outcome(qs.PrototypicalNetwork(torch.nn.Linear(8, 2)), batch)]
        [torch.Size([4]), torch.Size([18])]
    """
    torch.manual_seed(seed)

    def computed() -> list[Tensor]:
        losses = learner(batch)
        params = [p for p in learner.parameters() if p.requires_grad]
        grads = torch.autograd.grad(losses.mean(), params, allow_unused=True) if params else ()
        if losses.is_cuda:
            torch.cuda.synchronize(losses.device)
        flat = [grad.flatten() for grad in grads if grad is not None]
        return [losses.detach(), torch.cat(flat) if flat else losses.new_zeros(0)]

    return on_cores(computed, intra_op_of(learner))


def intra_op_of(learner: nn.Module) -> int:
    """Return the number of cores that each operation of a training step uses.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> intra_op_of(qs.PrototypicalNetwork(torch.nn.Linear(8, 2)))
        1
    """
    return max((getattr(module, "intra_op", 1) for module in learner.modules()), default=1)


def agree(tensors: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """Return whether losses and gradient are equal up to rounding, which adaptation amplifies.

    Examples:
        >>> one = torch.ones(2)
        >>> agree([one], [one + 1e-6]), agree([one], [one + 1])
        (True, False)
    """
    tolerance = torch.finfo(reference[0].dtype).eps ** 0.4  # 2e-3 in float32, 5e-7 in float64
    return all(
        a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())
        for a, b in zip(tensors, reference, strict=True)
    )
