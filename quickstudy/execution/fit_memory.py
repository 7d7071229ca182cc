"""How many tasks at once fit into a limit of memory, from the peaks of one and two."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import nn

from quickstudy.capabilities import Checkpointed
from quickstudy.core.task import Checkpoint, TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.execution.batching import Execution
from quickstudy.execution.options import ExecutionOption, configured_copy, outcome
from quickstudy.execution.ram import available, peak, readable

if TYPE_CHECKING:
    from quickstudy.learner import Learner

_LESS = "do fewer inner steps, set truncate=1 or first_order=True, or use a smaller net."


def options_within(
    learner: "Learner[Any]", batch: TaskBatch, device: torch.device | str, limit: int
) -> list[ExecutionOption]:
    """Return options that should take less memory than `limit`, each with as many tasks at once
    as it can.

    Raises:
        ValueError: not even one task fits.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 2))
        >>> [str(option) for option in options_within(learner, batch, "cpu", 2**30)]
        ['vmap', 'loop']
    """
    size, smallest = len(leaves(batch)[0]), None
    checkpoints = (
        (None, *get_args(Checkpoint)) if isinstance(learner, Checkpointed) else (None,)
    )
    options: list[ExecutionOption] = []
    for execution, checkpoint in itertools.product(get_args(Execution), checkpoints):
        option = ExecutionOption(execution, None, False, checkpoint=checkpoint)
        try:
            tasks, one = _capacity(learner, batch, device, option, limit)
        except Exception:  # `plan` will find the reason
            options.append(option)
            continue
        if tasks > 0:
            options.append(option._replace(chunk=None if tasks >= size else tasks))
        smallest = one if smallest is None else min(one, smallest)
    if not options:
        raise ValueError(
            f"One task takes {readable(smallest or 0)}, more than {readable(limit)}: {_LESS}"
        )
    return options


def what_fits(learner: nn.Module, tasks: TaskBatch) -> str | None:
    """Return a sentence with the settings of a learner that `tasks` would fit with into the
    available memory; None if that is unknown.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(4, torch.Generator().manual_seed(0))
        >>> what_fits(qs.PrototypicalNetwork(torch.nn.Linear(8, 2)), batch)
        '4 tasks at once do not fit into memory: set learner.chunk = 2.'
    """
    learner = getattr(learner, "module", getattr(learner, "_orig_mod", learner))  # DDP, compile
    batch, params = leaves(tasks), list(learner.parameters())
    device = batch[0].device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    room = available(device)
    if room is None or not hasattr(learner, "chunk"):
        return None
    room -= 3 * sum(p.nbytes for p in params)  # their gradient, and Adam's moments
    remedies = list(_remedies(cast("Learner[Any]", learner), tasks, device, room))
    remedy = f"{', or '.join(remedies)}." if remedies else _LESS
    return f"{len(batch[0])} tasks at once do not fit into memory: {remedy}"


def _remedies(
    learner: "Learner[Any]", tasks: TaskBatch, device: torch.device, room: int
) -> Iterator[str]:
    """Settings that fit, as the end of a sentence."""
    half = max(len(leaves(tasks)[0]) // 2, 1)
    current = checkpoint_of(learner)
    checkpoints = (current, "steps") if isinstance(learner, Checkpointed) else (current,)
    for checkpoint in dict.fromkeys(checkpoints):
        option = ExecutionOption(learner.execution, None, False, checkpoint=checkpoint)
        try:
            chunk = min(_capacity(learner, tasks, device, option, room)[0], half)
        except Exception:
            continue
        also = "" if checkpoint == current else f"learner.checkpoint = {checkpoint!r} and "
        if chunk > 0:
            yield f"set {also}learner.chunk = {chunk}"


def checkpoint_of(learner: nn.Module) -> Checkpoint | None:
    """Return the setting `checkpoint` of a learner; None if it has none.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> checkpoint_of(qs.MAML(torch.nn.Linear(8, 2), checkpoint="steps"))
        'steps'
    """
    return learner.checkpoint if isinstance(learner, Checkpointed) else None


def _capacity(
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device | str,
    option: ExecutionOption,
    limit: int,
) -> tuple[int, int]:
    """How many tasks at once `limit` should suffice for, and the bytes that one task takes."""
    trial = configured_copy(learner, option, device)
    batches = [tree_map(lambda leaf, n=n: leaf[:n], batch) for n in (1, 2)]
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        outcome(trial, batches[0])  # allocates what is allocated once, and kept
        one, two = (peak(partial(outcome, trial, part), device) for part in batches)
    gradients = 3 * sum(p.nbytes for p in learner.parameters())  # of a chunk, and all before
    spare = 0.95 * limit - one - gradients
    return int(spare // max(two - one, 1)) + 1 if spare >= 0 else int(one <= limit), one
