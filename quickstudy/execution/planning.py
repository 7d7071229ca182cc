"""Which option of execution is fastest, and why others are impossible."""

import math
import re
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Checkpoint, TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.core.workers import cores
from quickstudy.execution.batching import Execution
from quickstudy.execution.errors import explained
from quickstudy.execution.fit_memory import checkpoint_of, options_within
from quickstudy.execution.options import (
    ExecutionOption,
    agree,
    configured,
    configured_copy,
    outcome,
)
from quickstudy.execution.ram import parse, peak, readable

if TYPE_CHECKING:
    from quickstudy.learner import Learner


@dataclass(frozen=True)
class Plan:
    """The fastest of the `options` that agree with the loop.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> _ = Plan("vmap", 2, False, tasks=8, options=()).apply(learner)
        >>> learner.execution, learner.chunk
        ('vmap', 2)
    """

    execution: Execution
    chunk: int | None
    compiled: bool
    tasks: int  # T, in the batch that was measured
    options: tuple[ExecutionOption, ...]
    checkpoint: Checkpoint | None = None
    threads: int = 1

    @property
    def chosen(self) -> ExecutionOption:
        """The settings, without measurements."""
        return ExecutionOption(
            self.execution,
            self.chunk,
            self.compiled,
            checkpoint=self.checkpoint,
            threads=self.threads,
        )

    def apply(self, learner: "Learner[Any]") -> nn.Module:
        """Set `execution`, `chunk`, `threads` and, if it has one, `checkpoint` of `learner`.

        Returns:
            The learner, compiled if that was chosen.
        """
        return configured(learner, self.chosen)

    def __str__(self) -> str:
        loop = next((o.seconds for o in self.options if o.execution == "loop"), None)
        wide = max(18, *(len(str(option)) + 1 for option in self.options))
        measured = any(option.memory is not None for option in self.options)
        memory = f"{'memory':>10}" if measured else ""
        lines = [f"{'':{wide}}{'seconds':>9}{'tasks/s':>9}{'x loop':>8}{memory}"]
        for option in self.options:
            numbers = f"{'':26}"
            if option.seconds is not None:
                speed = "" if loop is None else f"{loop / option.seconds:.1f}"
                numbers = f"{option.seconds:9.4f}{self.tasks / option.seconds:9.0f}{speed:>8}"
            if measured:
                numbers += f"{'' if option.memory is None else readable(option.memory):>10}"
            lines.append(f"{option!s:{wide}}{numbers}  {option.note}".rstrip())
        lines.append(f"chosen: {self.chosen}")
        return "\n".join(lines)


@dataclass
class Trial:
    """An option on a copy of the learner, and its measurements.

    Examples:
        >>> trial = Trial(
        ...     ExecutionOption("loop", None, False), nn.Identity(), seconds=[3.0, 1.0, 2.0]
        ... )
        >>> trial.median, trial.option_with_measurements().seconds
        (2.0, 2.0)
    """

    option: ExecutionOption
    learner: nn.Module
    outcome: list[Tensor] | None = None  # losses and gradient; None: impossible
    error: Exception | None = None
    note: str = ""
    memory: int | None = None
    compile_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)  # empty: not eligible

    @property
    def median(self) -> float:
        """The median time of a batch."""
        return statistics.median(self.seconds)

    def option_with_measurements(self) -> ExecutionOption:
        """The option with seconds, note and memory."""
        seconds = self.median if self.seconds else None
        return self.option._replace(seconds=seconds, note=self.note, memory=self.memory)


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
    """Measure on `batch` which way to execute `learner` is fastest.

    Every option computes the losses and their gradient. An option whose numbers differ from the
    loop's is not chosen. All of it happens on copies: `learner` and torch's random state stay
    as they are.

    With `memory_limit`, only options below it count. Every checkpoint that the learner can have
    is tried with as many tasks at once as will fit, judging by the peaks of one and two tasks.

    Args:
        batch: of as many tasks as training will have.
        device: where to measure (None: where the learner is).
        compiled: tries `torch.compile` too, which takes 10 to 100 seconds; less the next time,
            as PyTorch keeps what it compiled on disk.
        chunks: numbers of tasks at once to try, besides all (None: a quarter, a sixteenth).
        repeats: timings of each option, taken in turns; their median counts.
        memory_limit: the most that a step may take beyond parameters, the optimizer's state and
            tasks, as "8GiB" or in bytes.
        steps: planned training steps; compiling is chosen only if it pays back within these.

    Raises:
        ValueError: the learner cannot be executed at all; names the module and the remedy.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> [option.note for option in plan(learner, batch, repeats=1).options][:2]
        ['', 'agrees with loop']
    """
    limit = None if memory_limit is None else parse(memory_limit)
    device = device_of(learner) if device is None else torch.device(device)
    batch = tree_map(lambda leaf: leaf.to(device), batch)
    options = _candidates(learner, batch, device, limit, chunks)
    if compiled:  # the compiler decides by itself what to store
        options.append(ExecutionOption("vmap", None, True))
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the notes repeat them
        trials = [Trial(o, configured_copy(learner, o, device)) for o in options]
        for trial in trials:
            _try(trial, batch, device, limit)
        eligible = _eligible(trials, batch, limit)
        if not eligible:
            error = next((trial.error for trial in trials if trial.error is not None), None)
            raise ValueError(_first_line(error)) from error
        for _ in range(repeats):
            for trial in eligible:
                begun = time.perf_counter()
                outcome(trial.learner, batch)
                trial.seconds.append(time.perf_counter() - begun)

    def cost(trial: Trial) -> float:
        return trial.median + (trial.compile_seconds / steps if steps else 0)

    chosen = min(eligible, key=cost).option
    _note_payback(eligible)
    return Plan(
        chosen.execution,
        chosen.chunk,
        chosen.compiled,
        len(leaves(batch)[0]),
        tuple(trial.option_with_measurements() for trial in trials),
        chosen.checkpoint,
        chosen.threads,
    )


def _candidates(
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device,
    limit: int | None,
    chunks: Sequence[int] | None,
) -> list[ExecutionOption]:
    """The options to try, the loop first: without a limit, it is the reference."""
    size, checkpoint = len(leaves(batch)[0]), checkpoint_of(learner)
    if limit is None:
        options = [
            ExecutionOption(e, None, False, checkpoint=checkpoint) for e in ("loop", "vmap")
        ]
    else:
        options = options_within(learner, batch, device, limit)
    if any(option.execution == "vmap" and option.chunk is None for option in options):
        options += [
            ExecutionOption("vmap", chunk, False, checkpoint=checkpoint)
            for chunk in ((size // 4, size // 16) if chunks is None else chunks)
            if 1 < chunk < size
        ]
    shared = min(cores(), size)
    if device.type == "cpu" and shared > 1 and limit is None:
        options.append(
            ExecutionOption("loop", None, False, checkpoint=checkpoint, threads=shared)
        )
    return options


def _try(trial: Trial, batch: TaskBatch, device: torch.device, limit: int | None) -> None:
    """Compute the outcome of a trial, or note why it is impossible, and its peak of memory."""
    begun = time.perf_counter()
    try:
        trial.outcome, trial.note = _explained_outcome(trial.learner, batch)
    except Exception as error:
        trial.error, trial.note = error, f"impossible: {_first_line(error)}"
        return
    if trial.option.compiled:
        trial.compile_seconds = time.perf_counter() - begun
    if limit is not None:
        trial.memory = peak(partial(outcome, trial.learner, batch), device)


def _eligible(trials: Sequence[Trial], batch: TaskBatch, limit: int | None) -> list[Trial]:
    """The trials that are within the limit and agree with the first of them, the reference."""
    eligible: list[Trial] = []
    reference: ExecutionOption | None = None
    expected: list[Tensor] = []
    random = False
    for trial in trials:
        if trial.outcome is None:
            continue
        if limit is not None and trial.memory is not None and trial.memory > limit:
            trial.note += f"not chosen: takes more than {readable(limit)}"
            continue
        if trial.option.compiled:
            trial.note += f"compiled in {trial.compile_seconds:.0f} s; "
        if reference is None:
            reference, expected = trial.option, trial.outcome
            random = not agree(outcome(trial.learner, batch, seed=1), trial.outcome)
        elif random and trial.option.threads > 1:
            trial.note += "not chosen: random (dropout?), in no fixed order"
            continue
        elif random:
            trial.note += f"random (dropout?), so not compared with {reference}"
        elif agree(trial.outcome, expected):
            trial.note += f"agrees with {reference}"
        else:
            trial.note += f"not chosen: differs from {reference}"
            continue
        eligible.append(trial)
    return eligible


def _note_payback(eligible: Sequence[Trial]) -> None:
    """Note after how many steps compiling has saved the time that it took."""
    eager = min((t.median for t in eligible if not t.option.compiled), default=math.inf)
    for trial in eligible:
        saved = eager - trial.median
        if trial.option.compiled and saved > 0:
            trial.note += f"; pays back in {math.ceil(trial.compile_seconds / saved):,} steps"


def _explained_outcome(learner: nn.Module, batch: TaskBatch) -> tuple[list[Tensor], str]:
    """The outcome, and a note of the operations that vmap could only do one by one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with explained(learner, batch):
            tensors = outcome(learner, batch)
    matches = (re.search(r"batching rule for ([\w:]+)", str(w.message)) for w in caught)
    slow = sorted({match[1] for match in matches if match is not None})
    note = f"no batching rule for {', '.join(slow)}: done task by task; " if slow else ""
    return tensors, note


def _first_line(error: Exception | None) -> str:
    """The first line of an error's message that is not empty, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
