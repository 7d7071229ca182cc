"""Errors of PyTorch's transforms as sentences that name the module and the remedy."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.replicas import ORIGINAL
from quickstudy.core.stateless import CHECKPOINTING
from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.core.torch_private import (
    RunningStatisticsNorm,
    is_functorch_wrapped_tensor,
    tree_leaves,
)
from quickstudy.core.tree import leaves, tree_map
from quickstudy.execution.fit_memory import what_fits
from quickstudy.execution.lent_parameters import require_lent_parameters
from quickstudy.execution.ram import ran_out
from quickstudy.execution.task_checks import require_well_formed


class ExplainedError(ValueError):
    """An error whose message gives the cause and the remedy.

    Examples:
        >>> import torch
        >>> explain(ExplainedError("Give a metric without .item()."), torch.nn.ReLU())
    """


@contextmanager
def explained(learner: nn.Module, tasks: TaskBatch) -> Iterator[None]:
    """Explain errors that PyTorch's transforms raise while this context lasts.

    Also reports what would be wrong without an error: malformed tasks, targets with more axes
    than the learner takes, a module that changes the tasks' own tensors, or keeps a tensor of
    the transform beyond its end.

    Raises:
        ValueError: names the module and the remedy.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(2, torch.Generator().manual_seed(0))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> with explained(learner, batch):
        ...     batch.support.x.add_(1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: The tasks' own tensors were changed in place: ...
    """
    if any(isinstance(leaf, Tensor) and len(leaf) == 0 for leaf in leaves(tasks)[:1]):
        raise ValueError("The batch holds no task: draw one or more.")
    require_well_formed(learner, tasks)
    for part in tasks:
        if isinstance(part, Examples) and part.y.ndim > 3:
            _require_dense(learner, part.y)
    if isinstance(tasks, Task) and isinstance(tasks.support, Examples):
        require_lent_parameters(learner, tree_map(itemgetter(0), tasks.support.x))
    inputs = [leaf for leaf in leaves(tasks) if not leaf.is_inference()]
    versions = [leaf._version for leaf in inputs]
    attributes = [(module, dict(vars(module))) for module in learner.modules()]
    try:
        yield
    except Exception as error:
        sentence = explain(error, learner, tasks)
        if sentence is None:
            raise
        raise ValueError(sentence) from error
    finally:
        for module, before in attributes:
            _restore_attributes(module, before)
    if [leaf._version for leaf in inputs] != versions:
        suspects = [
            f", perhaps by {named(path, module)}"
            for path, module in learner.named_modules()
            if getattr(module, "inplace", False)
        ]
        raise ValueError(
            f"The tasks' own tensors were changed in place{''.join(suspects[:1])}: write "
            "x = x + 1 for x += 1, and no inplace=True, where x is an input."
        )
    for name, buffer in learner.named_buffers():
        if is_functorch_wrapped_tensor(buffer):
            raise ValueError(
                f"The buffer {name} was given a value of one task: keep what is learned from a "
                "task in the state that `adapt` returns, not on a module."
            )


@contextmanager
def fitting(learner: nn.Module, tasks: TaskBatch) -> Iterator[None]:
    """Explain which settings would fit if memory does not suffice while this context lasts.

    For code outside of the learner, such as the backward pass.

    Raises:
        ValueError: memory does not suffice.

    Examples:
        >>> import torch
        >>> with fitting(torch.nn.Linear(1, 1), torch.zeros(2)):
        ...     raise MemoryError
        Traceback (most recent call last):
        ValueError: Too many tasks at once for the memory: set learner.chunk to fewer.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise ValueError(explain(error, learner, tasks)) from error


def explain(
    error: Exception,
    learner: nn.Module,
    tasks: TaskBatch | None = None,
    *,
    culprit: str | None = None,
) -> str | None:
    """Return one sentence with the cause of `error` and the remedy.

    It names the culprit, or else the module of `learner`, in which PyTorch's transforms failed,
    or the settings with which `tasks` would fit into memory. None if the error explains itself
    or is of another kind.

    Examples:
        >>> import torch
        >>> error = RuntimeError("Batching rule not implemented for aten::gru")
        >>> explain(error, torch.nn.ReLU())
        "ReLU calls aten::gru, which has no batching rule: set learner.execution = 'loop'."
    """
    if isinstance(error, ExplainedError):
        return None
    if ran_out(error):
        traceback.clear_frames(error.__traceback__)  # these hold the tensors
        sentence = None if tasks is None else what_fits(learner, tasks)
        return sentence or "Too many tasks at once for the memory: set learner.chunk to fewer."
    path, module = _innermost(error, learner)
    if _is_from_checkpoint(error):
        return f"{named(path, module)} {CHECKPOINTING}"
    for pattern, sentence in _EXPLANATIONS:
        match = re.search(pattern, str(error))
        if match is None:
            continue
        if culprit is None and isinstance(module, nn.RNNBase):
            sentence = (
                "{module} has no batching rule: call use_cells(net), or set "
                "learner.execution = 'loop'."
            )
        elif (
            culprit is None
            and isinstance(module, RunningStatisticsNorm)
            and module.track_running_stats
        ):
            sentence = (
                "{module} keeps running statistics, which it cannot write inside of an inner "
                "gradient under vmap, or without a momentum: call use_batch_statistics(net), "
                "use GroupNorm, or set learner.execution = 'loop'."
            )
        operation = next((group for group in match.groups() if group), "an operation")
        return sentence.format(module=culprit or named(path, module), operation=operation)
    return None


def named(path: str, module: nn.Module) -> str:
    """Return what error messages call a module: its kind and its path.

    Examples:
        >>> import torch
        >>> named("net.head", torch.nn.Linear(1, 1))
        'Linear at net.head'
    """
    kind = type(module).__name__.lstrip("_")
    return f"{kind} at {path}" if path else kind


def _require_dense(learner: nn.Module, y: Tensor) -> None:
    if not isinstance(learner, TakesDenseTargets):
        raise ValueError(
            f"{type(learner).__name__} takes targets (N, C), and those of the tasks are (N, "
            f"{', '.join(map(str, y.shape[2:]))}): use a learner with the capability "
            "`TakesDenseTargets`, such as MAML, or make an example of each pixel or step."
        )


def _restore_attributes(module: nn.Module, before: dict[str, Any]) -> None:
    """Take back attributes that were given a tensor of a transform, which ended: features that
    a net remembers, or the weight that a hook computes."""
    registered = ("_parameters", "_buffers", "_modules")
    for name, value in [item for item in vars(module).items() if item[0] not in registered]:
        parts = tree_leaves(value)
        if any(
            isinstance(part, Tensor) and is_functorch_wrapped_tensor(part) for part in parts
        ):
            del vars(module)[name]
            if before.get(name, value) is not value:
                vars(module)[name] = before[name]


def _innermost(error: Exception, learner: nn.Module) -> tuple[str, nn.Module]:
    """The path and the module whose method was running when `error` was raised."""
    paths = {id(module): path for path, module in learner.named_modules()}
    path, innermost = "", learner
    step = error.__traceback__
    while step is not None:
        running = step.tb_frame.f_locals.get("self")
        while isinstance(running, nn.Module) and ORIGINAL in vars(running):
            running = vars(running)[ORIGINAL]
        if isinstance(running, nn.Module) and id(running) in paths:
            path, innermost = paths[id(running)], running
        step = step.tb_next
    return path, innermost


def _is_from_checkpoint(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    files = {frame.f_code.co_filename for frame, _ in frames}
    return checkpoint.__code__.co_filename in files or "torch.utils.checkpoint" in str(error)


_EXPLANATIONS = (  # PyTorch's message, the explanation
    (
        "mutate a captured Tensor",
        "{module} writes in place to a tensor from outside of the inner gradient (an input or "
        "a buffer): write x = x + 1 for x += 1, no inplace=True, and keep what is learned in "
        "the state that `adapt` returns.",
    ),
    (
        "vmap: inplace arithmetic|doesn't match the broadcast shape",
        "{module} writes one task's values into a tensor that all tasks share: make that "
        "tensor by zeros_like or new_zeros from a task's own, write x = x + y for x += y, or "
        "set learner.execution = 'loop'.",
    ),
    (
        r"vmap: .*(?:\.item\(\)|control flow|dynamic shape)",
        "{module} looks at a tensor's values (.item(), `if`, a boolean mask), which differ "
        "between tasks: use torch.where or weights, or set learner.execution = 'loop'.",
    ),
    (
        r"Batching rule not implemented for ([\w:]+)",
        "{module} calls {operation}, which has no batching rule: set "
        "learner.execution = 'loop'.",
    ),
    (
        "data pointer of Tensor that doesn't have storage|Can't call numpy",
        "{module} takes a tensor out of PyTorch (to NumPy, for example), where neither a "
        "gradient nor a batch of tasks can follow: compute it by operations of torch.",
    ),
    (
        "same dtype|type .* should be the same|expected scalar type|type int64_t|"
        "bool (?:tensor|input)|not implemented for '(?:Bool|Long)'",
        "{module} got tensors of several dtypes: give x, y and weight of the tasks the dtype "
        "of the learner's parameters.",
    ),
    (
        r"(mat1 and mat2 shapes cannot be multiplied.*\)|to have \d+ channels.* instead)",
        "{module} does not fit the examples' shape ({operation}): give it layers of these "
        "sizes, or reshape x.",
    ),
    (
        r"autograd\.Function",
        "{module} calls a torch.autograd.Function that cannot be batched or differentiated "
        "within: give it `setup_context` and `generate_vmap_rule = True`.",
    ),
    (
        r"derivative for '?([\w:]+)'? is not implemented",
        "{module} needs a derivative of {operation} that PyTorch does not have: replace that "
        "operation, or use a learner of the first order such as fomaml.",
    ),
    (
        r"Tensor\.requires_grad_\(\)|torch\.autograd\.functional",
        "{module} takes a derivative by torch.autograd, which knows nothing of batches of "
        "tasks: take it by torch.func.grad, or set learner.execution = 'loop'.",
    ),
    (
        "can't be used with Jitted modules",
        "{module} was compiled by torch.jit, so that no other parameters can be lent to it: "
        "give the learner the net itself, as it was before torch.jit.script or trace.",
    ),
    (
        "modified by an inplace operation",
        "{module} changes in place what a gradient needs: write x = x + 1 for x += 1, and no "
        "inplace=True.",
    ),
)
