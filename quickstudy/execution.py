"""How a function of one task is executed over a batch of tasks, and which way is fastest."""

import copy
import itertools
import math
import re
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.stateless import _reparametrize_module

from quickstudy.descent import Checkpoint
from quickstudy.functional import leaves, tree_map, unstack
from quickstudy.memory import available, by_chunk, parse, peak, ran_out, readable
from quickstudy.recompute import lasting
from quickstudy.recurrent import Cells
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
    PyTorch's MATH backend, the only one with a second derivative and a batching rule, and
    encoder layers of torch as a whole by none of its fused operations.
    """
    if how == "vmap":
        run = vmap(fn, randomness="different", chunk_size=chunk)
    elif how == "loop":

        def run(*batch: Any) -> Any:
            tasks = zip(*map(unstack, batch), strict=True)
            results = [fn(*tree_map(_pixels_together, task)) for task in tasks]
            return tree_map(lambda *leaves: torch.stack(leaves), *results)
    else:
        raise ValueError(f"how={how!r} is neither 'vmap' nor 'loop'.")

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
        return over_tasks(loss_of(own), own.how, chunk)

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
    if learner.how == "vmap" or torch.compiler.is_compiling():
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
def inference(learner: "Learner[Any]") -> Iterator[tuple[How, int | None]]:
    """Prepares a learner for much prediction without gradients; gives `how` and `chunk`.

    They are the learner's own, but for convolutions on a CPU: those are done task by task
    (the activations of many tasks leave the cache, and allocations above 32 MB come back
    from the system as fresh pages each time) and with channels last for as long as this
    context lasts. Set `learner.chunk` to have tasks done together all the same.
    """
    weights = [p for p in learner.parameters() if p.ndim == 4 and p.device.type == "cpu"]
    convolves = any(isinstance(module, _ConvNd) for module in learner.modules())
    if not (weights and convolves and learner.chunk is None):
        yield learner.how, learner.chunk
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
            f", perhaps by {_named(path, module)}"
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
        sentence = None if tasks is None else _what_fits(learner, tasks)
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
        return sentence.format(module=_named(path, module), operation=operation)
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


def _named(path: str, module: nn.Module) -> str:
    kind = type(module).__name__.lstrip("_")
    return f"{kind} at {path}" if path else kind


class Way(NamedTuple):
    """One way to execute a learner, and what was measured of it."""

    how: How
    chunk: int | None
    compiled: bool
    seconds: float | None = None  # of a batch's losses and their gradient; None: impossible
    note: str = ""  # how well it agrees with the loop, or why it is impossible
    checkpoint: Checkpoint | None = None  # of inner steps; see `descend`
    memory: int | None = None  # bytes at the peak, beyond those from before; None: not measured
    threads: int = 1

    def __str__(self) -> str:
        threads = "" if self.threads == 1 else f", {self.threads} threads"
        chunk = "" if self.chunk is None else f", chunk {self.chunk}"
        checkpoint = "" if self.checkpoint is None else f", {self.checkpoint}"
        return f"{self.how}{chunk}{threads}{checkpoint}{', compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Plan:
    """The fastest of the `rows` that agree with the loop."""

    how: How
    chunk: int | None
    compiled: bool
    tasks: int  # T, in the batch that was measured
    rows: tuple[Way, ...]
    checkpoint: Checkpoint | None = None
    threads: int = 1

    def apply(self, learner: "Learner[Any]") -> nn.Module:
        """Sets `how`, `chunk`, `threads` and, where there is one, `checkpoint` of `learner`.
        Returns it, compiled if that was chosen."""
        return _set(learner, self._chosen())

    def __str__(self) -> str:
        loop = next((way.seconds for way in self.rows if way.how == "loop"), None)
        wide = max(18, *(len(str(way)) + 1 for way in self.rows))
        measured = any(way.memory is not None for way in self.rows)
        memory = f"{'memory':>10}" if measured else ""
        lines = [f"{'':{wide}}{'seconds':>9}{'tasks/s':>9}{'x loop':>8}{memory}"]
        for way in self.rows:
            numbers = f"{'':26}"
            if way.seconds is not None:
                speed = "" if loop is None else f"{loop / way.seconds:.1f}"
                numbers = f"{way.seconds:9.4f}{self.tasks / way.seconds:9.0f}{speed:>8}"
            if measured:
                numbers += f"{'' if way.memory is None else readable(way.memory):>10}"
            lines.append(f"{way!s:{wide}}{numbers}  {way.note}".rstrip())
        lines.append(f"chosen: {self._chosen()}")
        return "\n".join(lines)

    def _chosen(self) -> Way:
        return Way(
            self.how,
            self.chunk,
            self.compiled,
            checkpoint=self.checkpoint,
            threads=self.threads,
        )


def plan(
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device | str | None = None,
    *,
    compiled: bool = False,
    chunks: Sequence[int] | None = None,
    repeats: int = 3,
    memory: str | int | None = None,
    steps: int | None = None,
) -> Plan:
    """Measures on `batch` which way to execute `learner` is fastest.

    Every way does the losses and their gradient; one whose numbers differ from the loop's is
    not chosen. All of it happens on copies: `learner` and torch's random state are left alone.

    With `memory` only ways count that stay below it. Every checkpoint that the learner can have
    is tried with as many tasks at once as will fit, judging by the peaks of one and two tasks.

    Args:
        batch: of as many tasks as training will have.
        device: where to measure (None: where the learner is).
        compiled: tries `torch.compile` too, which takes 10 to 100 seconds; less the next time,
            as PyTorch keeps what it compiled on disk.
        chunks: numbers of tasks at once to try, besides all (None: a quarter, a sixteenth).
        repeats: timings of each way, taken in turns; their median counts.
        memory: the most that a step may take beyond parameters, the optimizer's state and
            tasks, as "8GiB" or in bytes.
        steps: of training that are planned; compiling is chosen only if it pays back in these.

    Raises:
        ValueError: the learner can be executed in no way; names the module and the remedy.
    """
    limit, compiling = None if memory is None else parse(memory), 0.0
    where = next((p.device for p in learner.parameters()), "cpu") if device is None else device
    batch = tree_map(lambda leaf: leaf.to(where), batch)
    size = len(leaves(batch)[0])
    some = (size // 4, size // 16) if chunks is None else chunks
    kept = _checkpoint(learner)
    if limit is None:
        ways = [Way(how, None, False, checkpoint=kept) for how in ("loop", "vmap")]
    else:
        ways = _within(learner, batch, where, limit)
    whole = any(way.how == "vmap" and way.chunk is None for way in ways)
    ways += [Way("vmap", c, False, checkpoint=kept) for c in some if whole and 1 < c < size]
    cores = torch.get_num_threads()
    if torch.device(where).type == "cpu" and cores > 1 and size > 1 and limit is None:
        ways.append(Way("loop", None, False, checkpoint=kept, threads=cores))
    if compiled:
        ways.append(Way("vmap", None, True))  # the compiler decides by itself what to keep

    trials = {way: _set(copy.deepcopy(learner).to(where), way) for way in ways}
    notes: dict[Way, str] = {}
    spent: dict[Way, list[float]] = {}  # of the ways that can be chosen
    peaks: dict[Way, int] = {}
    devices = [where] if torch.device(where).type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the notes
        reference: tuple[Way, list[Tensor], bool] | None = None  # the first that is possible
        failure: Exception | None = None
        for way, trial in trials.items():
            begun = time.perf_counter()
            try:
                outcome, notes[way] = _try(trial, batch)
            except Exception as error:
                failure = failure or error
                notes[way] = f"impossible: {_reason(error)}"
                continue
            if limit is not None:
                peaks[way] = peak(partial(_outcome, trial, batch), where)
                if peaks[way] > limit:
                    notes[way] += f"not chosen: takes more than {readable(limit)}"
                    continue
            if way.compiled:
                compiling = time.perf_counter() - begun
                notes[way] += f"compiled in {compiling:.0f} s; "
            if reference is None:
                again, _ = _try(trial, batch, seed=1)
                reference = way, outcome, not _agree(again, outcome)
            elif reference[2] and way.threads > 1:
                notes[way] += "not chosen: random (dropout?), in no fixed order"
                continue
            elif reference[2]:
                notes[way] += f"random (dropout?), so not compared with {reference[0]}"
            elif _agree(outcome, reference[1]):
                notes[way] += f"agrees with {reference[0]}"
            else:
                notes[way] += f"not chosen: differs from {reference[0]}"
                continue
            spent[way] = []
        if not spent:
            raise ValueError(_reason(failure)) from failure
        for _ in range(repeats):
            for way, seconds in spent.items():
                begun = time.perf_counter()
                _outcome(trials[way], batch)
                seconds.append(time.perf_counter() - begun)
    median = {way: statistics.median(seconds) for way, seconds in spent.items()}

    def cost(way: Way) -> float:
        return median[way] + (compiling / steps if way.compiled and steps else 0)

    best = min(median, key=cost)
    for way in median:
        eager = min((t for other, t in median.items() if not other.compiled), default=math.inf)
        saved = eager - median[way]
        if way.compiled and saved > 0:
            notes[way] += f"; pays back in {math.ceil(compiling / saved):,} steps"
    rows = tuple(
        way._replace(seconds=median.get(way), note=notes[way], memory=peaks.get(way))
        for way in ways
    )
    return Plan(best.how, best.chunk, best.compiled, size, rows, best.checkpoint, best.threads)


def _within(
    learner: "Learner[Any]", batch: TaskBatch, device: torch.device | str, limit: int
) -> list[Way]:
    """Ways that should take less memory than `limit`, with as many tasks at once as they can.

    Raises:
        ValueError: not even one task fits.
    """
    size, least = len(leaves(batch)[0]), None
    checkpoints = (None, *get_args(Checkpoint)) if hasattr(learner, "checkpoint") else (None,)
    ways: list[Way] = []
    for how, checkpoint in itertools.product(get_args(How), checkpoints):
        way = Way(how, None, False, checkpoint=checkpoint)
        try:
            most, one = _most(learner, batch, device, way, limit)
        except Exception:  # the plan will find out why
            ways.append(way)
            continue
        if most > 0:
            ways.append(way._replace(chunk=None if most >= size else most))
        least = one if least is None else min(one, least)
    if not ways:
        raise ValueError(
            f"One task takes {readable(least or 0)}, more than {readable(limit)}: {_LESS}"
        )
    return ways


def _what_fits(learner: nn.Module, tasks: TaskBatch) -> str | None:
    """The settings of a learner that `tasks` would fit with into the memory that there is."""
    learner = getattr(learner, "module", getattr(learner, "_orig_mod", learner))  # DDP, compile
    batch, params = leaves(tasks), list(learner.parameters())
    device = batch[0].device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    room = available(device)
    if room is None or not hasattr(learner, "chunk"):
        return None
    room -= 3 * sum(p.nbytes for p in params)  # their gradient, and what Adam keeps
    size, bare = len(batch[0]), cast("Learner[Any]", learner)
    own = _checkpoint(learner)
    remedies: list[str] = []
    for checkpoint in {own: 0, "steps": 0} if hasattr(learner, "checkpoint") else (own,):
        way = Way(bare.how, None, False, checkpoint=checkpoint)
        try:
            most = min(_most(bare, tasks, device, way, room)[0], max(size // 2, 1))
        except Exception:
            continue
        also = "" if checkpoint == own else f"learner.checkpoint = {checkpoint!r} and "
        if most > 0:
            remedies.append(f"set {also}learner.chunk = {most}")
    return f"{size} tasks at once do not fit into memory: {', or '.join(remedies) or _LESS}" + (
        "." * bool(remedies)
    )


_LESS = "do fewer inner steps, set truncate=1 or first_order=True, or use a smaller net."


def _most(
    learner: "Learner[Any]", batch: TaskBatch, device: torch.device | str, way: Way, limit: int
) -> tuple[int, int]:
    """How many tasks at once `limit` should suffice for, and the bytes that one task takes."""
    trial = _set(copy.deepcopy(learner).to(device), way)
    some = [tree_map(lambda leaf, n=n: leaf[:n], batch) for n in (1, 2)]
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        _outcome(trial, some[0])  # what is allocated once, and kept
        one, two = (peak(partial(_outcome, trial, few), device) for few in some)
    gradients = 3 * sum(p.nbytes for p in learner.parameters())  # of a chunk, and all before
    spare = 0.95 * limit - one - gradients
    return int(spare // max(two - one, 1)) + 1 if spare >= 0 else int(one <= limit), one


def _checkpoint(learner: nn.Module) -> Checkpoint | None:
    return getattr(learner, "checkpoint", None)


def doctor(
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device | str | None = None,
    *,
    compiled: bool = False,
    steps: int | None = None,
) -> str:
    """What in `learner` bears on its execution, one finding a line, and the `plan`.

    Where it can be executed in no way, the last line says why, and what to do.
    """
    try:
        planned = str(plan(learner, batch, device, compiled=compiled, steps=steps))
    except ValueError as error:
        planned = f"no way to execute it: {error}"
    return "\n".join([*_findings(learner), planned])


def _findings(learner: nn.Module) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for path, module in learner.named_modules():
        for kinds, finding in _NOTABLE:
            if isinstance(module, kinds) and not _harmless(module):
                places.setdefault(finding, []).append(_named(path, module))
    for finding, modules in places.items():
        yield f"{_few(modules)}: {finding}"
    frozen = [name for name, p in learner.named_parameters() if not p.requires_grad]
    if frozen:
        yield f"{_few(frozen)}: frozen, neither learned nor adapted"
    owners: dict[Tensor, list[str]] = {}
    for name, p in learner.named_parameters(remove_duplicate=False):
        owners.setdefault(p, []).append(name)
    for names in owners.values():
        if len(names) > 1:
            yield f"{' = '.join(names)}: one tensor, adapted as one"


_NOTABLE: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.RNNBase,), "no batching rule, loop only; use_cells(net) has one"),
    (
        (_NormBase,),
        "running statistics; in training each task starts from a copy, and their mean is kept",
    ),
    (
        (nn.MultiheadAttention,),
        "attention by PyTorch's MATH backend, which can be differentiated twice",
    ),
    ((nn.modules.dropout._DropoutNd,), "random; each task draws its own"),
)


def _harmless(module: nn.Module) -> bool:
    """A module that is of a notable kind, but does not do what is notable of that kind."""
    if isinstance(module, _NormBase):
        return not module.track_running_stats
    if isinstance(module, nn.RNNBase):
        return isinstance(module, Cells)
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _set(trial: "Learner[Any]", way: Way) -> nn.Module:
    trial.how, trial.chunk, trial.threads = way.how, way.chunk, way.threads
    if hasattr(trial, "checkpoint"):
        trial.checkpoint = way.checkpoint
    return _compile(trial) if way.compiled else trial


def _compile(learner: "Learner[Any]") -> nn.Module:
    return cast(nn.Module, torch.compile(learner, fullgraph=True))


def _outcome(trial: nn.Module, batch: TaskBatch, seed: int = 0) -> list[Tensor]:
    """The losses (T,) and the gradient of their mean (P,)."""
    torch.manual_seed(seed)
    losses = trial(batch)
    wanted = [p for p in trial.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(losses.mean(), wanted, allow_unused=True) if wanted else ()
    if losses.is_cuda:
        torch.cuda.synchronize(losses.device)
    found = [slope.flatten() for slope in slopes if slope is not None]
    return [losses.detach(), torch.cat(found) if found else losses.new_zeros(0)]


def _try(trial: nn.Module, batch: TaskBatch, seed: int = 0) -> tuple[list[Tensor], str]:
    """The outcome, and a note of the operations that vmap could only do one by one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with explained(trial, batch):
            outcome = _outcome(trial, batch, seed)
    said = (re.search(r"batching rule for ([\w:]+)", str(w.message)) for w in caught)
    slow = sorted({found[1] for found in said if found is not None})
    return outcome, f"no batching rule for {', '.join(slow)}: done task by task; " * bool(slow)


def _agree(outcome: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """Whether losses and gradient are equal but for rounding, which adaptation amplifies."""
    tolerance = torch.finfo(reference[0].dtype).eps ** 0.4  # 2e-3 in float32, 5e-7 in float64
    return all(
        mine.shape == other.shape and bool((mine - other).norm() <= tolerance * other.norm())
        for mine, other in zip(outcome, reference, strict=True)
    )


def _reason(error: Exception | None) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
