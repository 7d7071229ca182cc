"""The diagnosis of a learner: which of its modules matter for its execution."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quickstudy.core.task import TaskBatch
from quickstudy.core.torch_private import DropoutBase, RunningStatisticsNorm
from quickstudy.execution.errors import named
from quickstudy.execution.planning import plan

if TYPE_CHECKING:
    from quickstudy.learner import Learner


def diagnose(
    learner: "Learner[Any]",
    batch: TaskBatch,
    device: torch.device | str | None = None,
    *,
    compiled: bool = False,
    steps: int | None = None,
) -> str:
    """Return what in `learner` bears on its execution, one finding a line, and the `plan`.

    If it cannot be executed at all, the last line has the reason and the remedy.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(2, torch.Generator().manual_seed(0))
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 2), torch.nn.Dropout(0.5))
        >>> print(diagnose(qs.PrototypicalNetwork(net), batch).splitlines()[0])
        Dropout at embed.1: random; each task draws its own
    """
    try:
        summary = str(plan(learner, batch, device, compiled=compiled, steps=steps))
    except ValueError as error:
        summary = f"no way to execute it: {error}"
    return "\n".join([*_findings(learner), summary])


def _findings(learner: nn.Module) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for path, module in learner.named_modules():
        for kind, finding in _NOTABLE:
            if isinstance(module, kind) and not _harmless(module):
                places.setdefault(finding, []).append(named(path, module))
    for finding, modules in places.items():
        yield f"{_first_three(modules)}: {finding}"
    frozen = [name for name, p in learner.named_parameters() if not p.requires_grad]
    if frozen:
        yield f"{_first_three(frozen)}: frozen, neither learned nor adapted"
    owners: dict[Tensor, list[str]] = {}
    for name, p in learner.named_parameters(remove_duplicate=False):
        owners.setdefault(p, []).append(name)
    for names in owners.values():
        if len(names) > 1:
            yield f"{' = '.join(names)}: one tensor, adapted as one"


_NOTABLE: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.RNNBase, "no batching rule, loop only; use_cells(net) has one"),
    (
        RunningStatisticsNorm,
        "running statistics; in training each task starts from a copy, and their mean is kept",
    ),
    (
        nn.MultiheadAttention,
        "attention by PyTorch's MATH backend, which can be differentiated twice",
    ),
    (DropoutBase, "random; each task draws its own"),
)


def _harmless(module: nn.Module) -> bool:
    """Whether a module of a notable kind lacks what is notable about that kind."""
    if isinstance(module, RunningStatisticsNorm):
        return not module.track_running_stats
    if isinstance(module, nn.RNNBase):
        return getattr(module, "batchable", False)
    return isinstance(module, DropoutBase) and module.p == 0


def _first_three(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
