"""The way to execute a training, chosen by its first steps within a budget of time."""

import copy
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.parameters import device_of
from quickstudy.core.task import TaskBatch
from quickstudy.core.torch_private import ConvBase
from quickstudy.core.tree import leaves, tree_map
from quickstudy.core.workers import cores
from quickstudy.execution.fit_memory import checkpoint_of
from quickstudy.execution.options import ExecutionOption, agree, configured, outcome

MOST_SECONDS = 10.0
SHARE = 0.02  # of the planned training
ROUNDS = 5


def choose(
    module: nn.Module, batch: TaskBatch, steps: int, precision: torch.dtype | None = None
) -> ExecutionOption:
    """Time ways to execute a learner on `batch`, set the fastest one, and return it.

    The timing takes about 2 % of the planned time, and 10 seconds, at most. A training of few
    steps leaves no time for it and gets the way that is best in most cases: a CPU loops over
    convolutions in as many threads as it has cores, and all else is executed as the learner is
    set. A way whose losses and gradient differ from the first one's is not chosen. Timed steps
    are no training steps: they are taken by copies, and torch's random state is restored. One
    line about the choice goes to stderr.

    Args:
        module: a `Learner`, or a module with one in it, such as `EmbedTogether`.
        batch: of as many tasks as training will have.
        steps: planned training steps.
        precision: a dtype to autocast to.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> print(choose(qs.PrototypicalNetwork(nn.Linear(8, 2)), batch, steps=10))
        vmap
    """
    device, begun = device_of(module), time.perf_counter()
    batch = tree_map(lambda leaf: leaf.to(device), batch)
    timed: dict[ExecutionOption, list[float]] = {}
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.autocast(device.type, precision) if precision else nullcontext(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        options = list(_ways(module, batch, device))
        chosen = options[0]
        if steps * SHARE > 2 * len(options):
            timed = _timed(module, batch, options, steps, begun)
    if timed:
        chosen = min(timed, key=lambda option: statistics.median(timed[option]))
    _with(module, chosen)
    print(_line(chosen, timed, len(leaves(batch)[0]), begun), file=sys.stderr)
    return chosen


def _timed(
    module: nn.Module,
    batch: TaskBatch,
    options: list[ExecutionOption],
    steps: int,
    begun: float,
) -> dict[ExecutionOption, list[float]]:
    """The seconds of a batch by the ways that agree, within the budget. Each is computed once
    for its numbers and then timed; the slowest so far is what another is expected to take."""
    learners: dict[ExecutionOption, nn.Module] = {}
    timed: dict[ExecutionOption, list[float]] = {}
    reference: list[Tensor] | None = None
    budget, slowest = MOST_SECONDS, 0.0
    for option in options:
        if time.perf_counter() - begun + 2 * slowest > budget:
            break
        start = time.perf_counter()
        learner = _copy(module, option)
        numbers = None if learner is None else _outcome(learner, batch)
        slowest = max(slowest, time.perf_counter() - start)
        if learner is None or numbers is None:
            continue
        if reference is None:
            reference = numbers
            budget = min(MOST_SECONDS, SHARE * steps * slowest)
        elif not (agree(numbers, reference) or _as_exact(numbers, reference, module, batch)):
            continue
        learners[option], timed[option] = learner, [_seconds(learner, batch)]
    for _ in range(ROUNDS):
        for option, learner in learners.items():
            if time.perf_counter() - begun + timed[option][0] < budget:
                timed[option].append(_seconds(learner, batch))
    return timed


def _as_exact(
    numbers: list[Tensor], reference: list[Tensor], module: nn.Module, batch: TaskBatch
) -> bool:
    """Whether numbers are about as near as the reference to those in double precision: where
    gradients cancel, as before a normalisation, rounding is more than `agree` allows."""
    double = tree_map(lambda x: x.double() if x.is_floating_point() else x, batch)
    copied = _copy(module, option_of(module))
    with torch.autocast(device_of(module).type, enabled=False):
        exact = None if copied is None else _outcome(copied.double(), double)
    if exact is None:
        return False
    return all(
        bool((a - c).norm() <= 4 * (b - c).norm())
        for a, b, c in zip(numbers, reference, exact, strict=True)
    )


def _copy(module: nn.Module, option: ExecutionOption) -> nn.Module | None:
    try:
        return _with(copy.deepcopy(module), option)
    except Exception:  # it holds something that cannot be copied
        return None


def option_of(module: nn.Module) -> ExecutionOption:
    """Return the way in which a learner, or the learner in a module, is executed.

    Examples:
        >>> import quickstudy as qs
        >>> print(option_of(qs.PrototypicalNetwork(nn.Linear(8, 2))))
        vmap
    """
    learner = _learner(module)
    return ExecutionOption(
        learner.execution,
        learner.chunk,
        False,
        checkpoint=checkpoint_of(learner),
        threads=learner.threads,
        intra_op=learner.intra_op,
    )


def _ways(
    module: nn.Module, batch: TaskBatch, device: torch.device
) -> Iterator[ExecutionOption]:
    """Ways to execute a training. The first is that of a training without timing."""
    now, tasks = option_of(module), len(leaves(batch)[0])
    available = cores() if device.type == "cpu" else 1
    convolves = device.type == "cpu" and any(isinstance(m, ConvBase) for m in module.modules())
    together = module is not _learner(module)  # a module around it computes most, by itself
    shared = min(available, tasks)
    ways: list[ExecutionOption] = []
    if not together:
        if shared > 1 and not _is_random(module, batch):
            ways += [now._replace(execution=e, threads=shared) for e in ("loop", "vmap")]
        ways += [now._replace(execution=e, threads=1) for e in ("loop", "vmap")]
    if available > 1:
        ways += [
            way._replace(intra_op=available)
            for way in (now._replace(threads=1), *ways)
            if way.threads == 1
        ]
    first = ways[0] if convolves and ways else now
    yield from dict.fromkeys([first, *ways])


def _is_random(module: nn.Module, batch: TaskBatch) -> bool:
    """Whether the loss of a task draws random numbers."""
    copied = _copy(module, option_of(module))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = tree_map(lambda leaf: leaf[:1], batch)
    if copied is None or _outcome(copied, one) is None:  # which begins with the same seed
        return True
    return not torch.equal(before, torch.get_rng_state())


def _with(module: nn.Module, option: ExecutionOption) -> nn.Module:
    configured(_learner(module), option)
    return module


def _learner(module: nn.Module) -> Any:
    return next(m for m in module.modules() if hasattr(m, "execution"))


def _outcome(learner: nn.Module, batch: TaskBatch) -> list[Tensor] | None:
    try:
        return outcome(learner, batch)
    except Exception:  # training will raise it, if no other way is possible
        return None


def _seconds(learner: nn.Module, batch: TaskBatch) -> float:
    begun = time.perf_counter()
    outcome(learner, batch)
    return time.perf_counter() - begun


def _line(
    chosen: ExecutionOption,
    timed: dict[ExecutionOption, list[float]],
    tasks: int,
    begun: float,
) -> str:
    if not timed:
        return f"Execution: {chosen} (untimed)"
    speeds = {option: tasks / statistics.median(times) for option, times in timed.items()}
    others = ", ".join(
        f"{option} {speed:.3g}" for option, speed in speeds.items() if option != chosen
    )
    seconds = time.perf_counter() - begun
    return (
        f"Execution: {chosen}, {speeds[chosen]:.3g} tasks/s"
        f"{f' ({others})' if others else ''}, timed in {seconds:.1f} s"
    )
