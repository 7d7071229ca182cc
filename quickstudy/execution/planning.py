"""Which way of execution is fastest, what fits into memory, and why a way is impossible."""

import copy
import itertools
import math
import re
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from quickstudy.core.functional import leaves, tree_map
from quickstudy.core.parameters import device_of
from quickstudy.core.task import TaskBatch
from quickstudy.execution.batching import Execution, explained, named
from quickstudy.execution.chunked import available, parse, peak, readable
from quickstudy.inner_loop.descent import Checkpoint
from quickstudy.nets.recurrent import Cells

if TYPE_CHECKING:
    from quickstudy.learner import Learner


class ExecutionOption(NamedTuple):
    """One way to execute a learner, and what was measured of it."""

    execution: Execution
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
        return f"{self.execution}{chunk}{threads}{checkpoint}{', compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Plan:
    """The fastest of the `rows` that agree with the loop."""

    execution: Execution
    chunk: int | None
    compiled: bool
    tasks: int  # T, in the batch that was measured
    rows: tuple[ExecutionOption, ...]
    checkpoint: Checkpoint | None = None
    threads: int = 1

    def apply(self, learner: "Learner[Any]") -> nn.Module:
        """Sets `execution`, `chunk`, `threads` and, where there is one, `checkpoint` of `learner`.
        Returns it, compiled if that was chosen."""
        return _set(learner, self._chosen())

    def __str__(self) -> str:
        loop = next((way.seconds for way in self.rows if way.execution == "loop"), None)
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

    def _chosen(self) -> ExecutionOption:
        return ExecutionOption(
            self.execution,
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
    memory_limit: str | int | None = None,
    steps: int | None = None,
) -> Plan:
    """Measures on `batch` which way to execute `learner` is fastest.

    Every way does the losses and their gradient; one whose numbers differ from the loop's is
    not chosen. All of it happens on copies: `learner` and torch's random state are left alone.

    With `memory_limit` only ways count that stay below it. Every checkpoint that the learner can have
    is tried with as many tasks at once as will fit, judging by the peaks of one and two tasks.

    Args:
        batch: of as many tasks as training will have.
        device: where to measure (None: where the learner is).
        compiled: tries `torch.compile` too, which takes 10 to 100 seconds; less the next time,
            as PyTorch keeps what it compiled on disk.
        chunks: numbers of tasks at once to try, besides all (None: a quarter, a sixteenth).
        repeats: timings of each way, taken in turns; their median counts.
        memory_limit: the most that a step may take beyond parameters, the optimizer's state and
            tasks, as "8GiB" or in bytes.
        steps: of training that are planned; compiling is chosen only if it pays back in these.

    Raises:
        ValueError: the learner can be executed in no way; names the module and the remedy.
    """
    limit, compiling = None if memory_limit is None else parse(memory_limit), 0.0
    where = device_of(learner) if device is None else device
    batch = tree_map(lambda leaf: leaf.to(where), batch)
    size = len(leaves(batch)[0])
    some = (size // 4, size // 16) if chunks is None else chunks
    kept = _checkpoint(learner)
    if limit is None:
        ways = [
            ExecutionOption(execution, None, False, checkpoint=kept)
            for execution in ("loop", "vmap")
        ]
    else:
        ways = _within(learner, batch, where, limit)
    whole = any(way.execution == "vmap" and way.chunk is None for way in ways)
    ways += [
        ExecutionOption("vmap", c, False, checkpoint=kept)
        for c in some
        if whole and 1 < c < size
    ]
    cores = torch.get_num_threads()
    if torch.device(where).type == "cpu" and cores > 1 and size > 1 and limit is None:
        ways.append(ExecutionOption("loop", None, False, checkpoint=kept, threads=cores))
    if compiled:
        ways.append(
            ExecutionOption("vmap", None, True)
        )  # the compiler decides by itself what to keep

    trials = {way: _set(copy.deepcopy(learner).to(where), way) for way in ways}
    notes: dict[ExecutionOption, str] = {}
    spent: dict[ExecutionOption, list[float]] = {}  # of the ways that can be chosen
    peaks: dict[ExecutionOption, int] = {}
    devices = [where] if torch.device(where).type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in the notes
        reference: tuple[ExecutionOption, list[Tensor], bool] | None = (
            None  # the first that is possible
        )
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

    def cost(way: ExecutionOption) -> float:
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
    return Plan(
        best.execution, best.chunk, best.compiled, size, rows, best.checkpoint, best.threads
    )


def _within(
    learner: "Learner[Any]", batch: TaskBatch, device: torch.device | str, limit: int
) -> list[ExecutionOption]:
    """Ways that should take less memory than `limit`, with as many tasks at once as they can.

    Raises:
        ValueError: not even one task fits.
    """
    size, least = len(leaves(batch)[0]), None
    checkpoints = (None, *get_args(Checkpoint)) if hasattr(learner, "checkpoint") else (None,)
    ways: list[ExecutionOption] = []
    for execution, checkpoint in itertools.product(get_args(Execution), checkpoints):
        way = ExecutionOption(execution, None, False, checkpoint=checkpoint)
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


def what_fits(learner: nn.Module, tasks: TaskBatch) -> str | None:
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
        way = ExecutionOption(bare.execution, None, False, checkpoint=checkpoint)
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
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device | str,
    way: ExecutionOption,
    limit: int,
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


def diagnose(
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
                places.setdefault(finding, []).append(named(path, module))
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


def _set(trial: "Learner[Any]", way: ExecutionOption) -> nn.Module:
    trial.execution, trial.chunk, trial.threads = way.execution, way.chunk, way.threads
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
