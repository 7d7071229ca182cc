"""Checks of learners on what criteria and metrics see: NaN, and targets with further axes."""

import copy
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.task import Examples, Task
from quickstudy.evaluation.protocol import evaluate
from quickstudy.testing._checks import require, require_same

if TYPE_CHECKING:
    from quickstudy.testing.learners import Case

# a check is no function to call: `check_...` runs it and shows its docstring as the remedy
__all__: list[str] = []

STEPS = 3  # of an example with a target for each


def nan_is_not_hidden(case: "Case") -> None:
    """Where parameters are NaN, as in a learner that diverged, all metrics of `evaluate` are
    NaN. Do not replace NaN in `adapt`, `predict` or a metric, and let no comparison and no
    `argmax` hide it."""
    learner = copy.deepcopy(case.learner)
    floating = [p for p in learner.parameters() if p.is_floating_point()]
    for p in floating:
        p.data.fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = evaluate(learner, case.tasks, n_tasks=2, meta_batch_size=2)
    numbers = [name for name, value in report.values.items() if not value.isnan().all()]
    require(not floating or not numbers, f"{', '.join(numbers)} of NaN is a number")


def dense_targets_are_averaged(case: "Case") -> None:
    """Where `TakesDenseTargets` is declared, an example of equal steps (N, L, *features), each
    with the same target, has the loss of one of them. Leave targets to the criterion, which is
    a mean over the axes in the middle. (Not tried on nets that take no such inputs.)"""
    learner, batch = case.exact(), case.batch()
    if not isinstance(learner, TakesDenseTargets):
        return
    dense = Task(*map(_repeated, batch))
    torch.manual_seed(0)
    expected = case.exact()(batch)
    torch.manual_seed(0)
    try:
        losses = case.exact()(dense)
    except (RuntimeError, ValueError):
        return
    require_same(losses, expected, "an example of equal steps has another loss")


def _repeated(examples: Examples) -> Examples:
    def repeat(leaf: Tensor) -> Tensor:
        return leaf[:, :, None].expand(-1, -1, STEPS, *leaf.shape[2:])

    return examples._replace(x=repeat(examples.x), y=repeat(examples.y))
