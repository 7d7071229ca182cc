"""How a function of one task is executed over a batch of tasks."""

import math
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.stateless import _reparametrize_module

from quickstudy.core.functional import leaves, tree_map, unstack
from quickstudy.core.task import Task, TaskBatch
from quickstudy.execution.chunked import by_chunk, ran_out
from quickstudy.inner_loop.recompute import lasting

if TYPE_CHECKING:
    from quickstudy.learner import Learner

Execution: TypeAlias = Literal["vmap", "loop"]


def over_tasks(
    fn: Callable[..., Any], execution: Execution = "vmap", chunk: int | None = None
) -> Callable[..., Any]:
    """Turns a function of one task into a function of a batch of tasks.

    `execution` and `chunk` change speed and memory, never the result: "vmap" does all tasks at
    once (`chunk`: that many at once), "loop" one after the other. Attention is computed by
    PyTorch's MATH backend, the only one with a second derivative and a batching rule, and
    encoder layers of torch as a whole by none of its fused operations.
    """
    if execution == "vmap":
        run = vmap(fn, randomness="different", chunk_size=chunk)
    elif execution == "loop":

        def run(*batch: Any) -> Any:
            tasks = zip(*map(unstack, batch), strict=True)
            results = [fn(*tree_map(_pixels_together, task)) for task in tasks]
            return tree_map(lambda *leaves: torch.stack(leaves), *results)
    else:
        raise ValueError(f"how={execution!r} is neither 'vmap' nor 'loop'.")

    def batched(*batch: Any) -> Any:
        whole = nullcontext() if torch.compiler.is_compiling() else _no_fused_layers()
        with sdpa_kernel(SDPBackend.MATH), whole:
            return run(*batch)

    return batched


def _pixels_together(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) on a CPU, with channels last in memory."""
    if x.ndim != 4 or x.device.type != "cpu" or not x.is_floating_point():
        return x
    return x.to(memory_format=torch.channels_last)


@contextmanager
def _no_fused_layers() -> Iterator[None]:
    """In inference, torch's encoder layers would be operations without a batching rule."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def losses_over_tasks(learner: "Learner[Any]", tasks: TaskBatch) -> Tensor:
    """The loss of every task (T,).

    In training mode the running statistics of normalisation layers ride along: every task
    starts from a copy, and the mean of what the tasks make of it is kept.

    Raises:
        ValueError: a module cannot be executed in this way; names it and the remedy.
    """
    if torch.compiler.is_compiling():
        return _losses(learner, tasks)
    with explained(learner, tasks):
        return _losses(learner, tasks)


def _losses(learner: "Learner[Any]", tasks: TaskBatch) -> Tensor:
    with _channels_last(learner), _lasting(learner):
        statistics = running_statistics(learner) if learner.training else {}
        if not statistics:
            return _each(learner, attrgetter("loss"), tasks)
        size = len(tasks.query[0])
        copies = {k: v.expand(size, *v.shape).contiguous() for k, v in statistics.items()}
        losses, after = _each(
            learner, lambda own: partial(_loss_and_statistics, own), tasks, copies
        )
    with torch.no_grad():
        for name, value in statistics.items():
            mean = after[name].mean(0) if value.is_floating_point() else after[name][0]
            value.copy_(mean)
    return losses


def _each(
    learner: "Learner[Any]",
    loss_of: Callable[["Learner[Any]"], Callable[..., Any]],
    *batch: Any,
) -> Any:
    """The loss of every task of a batch. Where a gradient may follow, that of each chunk is
    computed along with it, so that no more than one chunk's graph is in memory, or so that
    threads share the work."""

    def losses_of(own: "Learner[Any]", chunk: int | None = None) -> Callable[..., Any]:
        return over_tasks(loss_of(own), own.execution, chunk)

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
        or peek_interpreter_stack() is not None  # a transform of torch.func asks for more
    ):
        return losses_of(learner, learner.chunk)(*batch)
    # settings of the whole process: threads that set and reset them would meet each other's
    with sdpa_kernel(SDPBackend.MATH), _no_fused_layers():
        return by_chunk(learner, losses_of, batch, chunk, learner.threads)


@contextmanager
def _channels_last(learner: "Learner[Any]") -> Iterator[None]:
    """Convolutions on a CPU, one task after the other, are up to twice as fast with channels
    last in memory; the weights are for as long as this context lasts."""
    if learner.execution == "vmap" or torch.compiler.is_compiling():
        yield
        return
    own = {
        # by `to`: `contiguous` takes weights of one channel as they are
        name: p.to(memory_format=torch.channels_last)
        for name, p in learner.named_parameters()
        if p.ndim == 4 and p.device.type == "cpu"
    }
    with _reparametrize_module(learner, own) if own else nullcontext():
        yield


def _lasting(learner: nn.Module) -> AbstractContextManager[None]:
    """For inner steps that are done again after a lender of parameters has taken them back."""
    again = getattr(learner, "checkpoint", None) and not torch.compiler.is_compiling()
    return lasting(learner) if again else nullcontext()


def running_statistics(learner: nn.Module) -> dict[str, Tensor]:
    """The buffers, by name, that normalisation layers write in training mode."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in learner.named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats
        for name, buffer in module.named_buffers(recurse=False)
    }


def _loss_and_statistics(
    learner: "Learner[Any]", task: Task[Any], statistics: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    own = {name: value.clone() for name, value in statistics.items()}
    with _reparametrize_module(learner, own):  # `functional_call`, of `loss` instead of forward
        return learner.loss(task), own


@contextmanager
def inference(learner: "Learner[Any]") -> Iterator[tuple[Execution, int | None]]:
    """Prepares a learner for much prediction without gradients; gives `execution` and `chunk`.

    They are the learner's own, but for convolutions on a CPU: those are done task by task
    (the activations of many tasks leave the cache, and allocations above 32 MB come back
    from the system as fresh pages each time) and with channels last for as long as this
    context lasts. Set `learner.chunk` to have tasks done together all the same.
    """
    weights = [p for p in learner.parameters() if p.ndim == 4 and p.device.type == "cpu"]
    convolves = any(isinstance(module, _ConvNd) for module in learner.modules())
    if not (weights and convolves and learner.chunk is None):
        yield learner.execution, learner.chunk
        return
    # freed, this makes the C library keep what is freed after it for the next allocation
    torch.empty(31 << 20, dtype=torch.uint8)
    before = [p.data for p in weights]
    try:
        for p in weights:  # by `to`: `contiguous` takes weights of one channel as they are
            p.data = p.data.to(memory_format=torch.channels_last)
        yield "loop", None
    finally:
        for p, data in zip(weights, before, strict=True):
            p.data = data


@contextmanager
def explained(learner: nn.Module, tasks: TaskBatch) -> Iterator[None]:
    """Turns errors that PyTorch's transforms raise in here into a sentence with the remedy.

    Also refuses what would be wrong without an error: a module that changes the tasks' own
    tensors, or keeps a tensor of the transform beyond its end.

    Raises:
        ValueError: names the module and the remedy.
    """
    inputs = [leaf for leaf in leaves(tasks) if not leaf.is_inference()]
    versions = [leaf._version for leaf in inputs]
    try:
        yield
    except Exception as error:
        sentence = explain(error, learner, tasks)
        if sentence is None:
            raise
        raise ValueError(sentence) from error
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
    """Says of memory that does not suffice in here, as in a backward pass, what would fit.

    Raises:
        ValueError: memory does not suffice.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise ValueError(explain(error, learner, tasks)) from error


def explain(error: Exception, learner: nn.Module, tasks: TaskBatch | None = None) -> str | None:
    """One sentence that names the module of `learner` in which PyTorch's transforms failed,
    or the settings with which `tasks` would fit into memory, and so the remedy. None: the error
    says it itself, or is of another kind."""
    if ran_out(error):
        traceback.clear_frames(error.__traceback__)  # which hold the tensors
        from quickstudy.execution.planning import what_fits  # it executes in turn

        sentence = None if tasks is None else what_fits(learner, tasks)
        return sentence or "Too many tasks at once for the memory: set learner.chunk to fewer."
    path, module = _innermost(error, learner)
    for pattern, sentence in _EXPLANATIONS:
        found = re.search(pattern, str(error))
        if found is None:
            continue
        if isinstance(module, nn.RNNBase):
            sentence = (
                "{module} has no batching rule: call use_cells(net), or set learner.how = "
                "'loop'."
            )
        elif isinstance(module, _NormBase) and module.track_running_stats:
            sentence = (
                "{module} keeps running statistics, which it cannot write inside of an inner "
                "gradient under vmap, or without a momentum: call use_batch_statistics(net), "
                "use GroupNorm, or set learner.how = 'loop'."
            )
        operation = next((group for group in found.groups() if group), "an operation")
        return sentence.format(module=named(path, module), operation=operation)
    return None


_EXPLANATIONS = (  # what PyTorch says, what we say
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
        "set learner.how = 'loop'.",
    ),
    (
        r"vmap: .*(?:\.item\(\)|control flow|dynamic shape)",
        "{module} looks at a tensor's values (.item(), `if`, a boolean mask), which differ "
        "between tasks: use torch.where or weights, or set learner.how = 'loop'.",
    ),
    (
        r"Batching rule not implemented for ([\w:]+)",
        "{module} calls {operation}, which has no batching rule: set learner.how = 'loop'.",
    ),
    (
        "data pointer of Tensor that doesn't have storage|Can't call numpy",
        "{module} takes a tensor out of PyTorch (to NumPy, for example), where neither a "
        "gradient nor a batch of tasks can follow: compute it by operations of torch.",
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
        "modified by an inplace operation",
        "{module} changes in place what a gradient needs: write x = x + 1 for x += 1, and no "
        "inplace=True.",
    ),
)


def _innermost(error: Exception, learner: nn.Module) -> tuple[str, nn.Module]:
    """The path and the module whose method was running when `error` was raised."""
    paths = {id(module): path for path, module in learner.named_modules()}
    path, innermost = "", learner
    step = error.__traceback__
    while step is not None:
        running = step.tb_frame.f_locals.get("self")
        if isinstance(running, nn.Module) and id(running) in paths:
            path, innermost = paths[id(running)], running
        step = step.tb_next
    return path, innermost


def named(path: str, module: nn.Module) -> str:
    """What is said of a module: its kind, and where it is."""
    kind = type(module).__name__.lstrip("_")
    return f"{kind} at {path}" if path else kind
