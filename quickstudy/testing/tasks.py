"""The contract of task distributions, as a test suite for yours.

>>> import quickstudy as qs
>>> check_tasks(qs.Sinusoid(shots=5, queries=5), declared={"values"})
"""

import copy
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Task, TaskDistribution
from quickstudy.core.tree import leaves
from quickstudy.testing._checks import (
    is_finite,
    require,
    require_traits,
    run_checks,
)

# a check is no function to call: `check_...` runs it and shows its docstring as the remedy
__all__ = ["TASK_CHECKS", "TaskCase", "TaskTrait", "check_tasks"]

TaskTrait: TypeAlias = Literal[
    "values",  # excuses: y holds values, not one-hot rows
    "fixed",  # excuses: the generator does not change the tasks
]
"""What may be declared of a task distribution, as it is not true of all."""


def check_tasks(
    tasks: TaskDistribution, *, declared: Collection[TaskTrait] = (), n_tasks: int = 4
) -> None:
    """Run every check of `TASK_CHECKS` on a task distribution.

    Args:
        tasks: a distribution whose tasks are drawn in milliseconds.
        declared: properties of these tasks that not all have; see `TaskTrait`.
        n_tasks: tasks per draw.

    Raises:
        AssertionError: names the check that failed, the observation, and the remedy.
        ValueError: `declared` holds an unknown trait.

    Examples:
        >>> from quickstudy.testing import Blobs, Lines
        >>> check_tasks(Blobs())
        >>> try:
        ...     check_tasks(Lines())
        ... except AssertionError as error:
        ...     print(str(error).split(":")[0])
        Lines fails `labels_are_one_hot`
    """
    run_checks(TASK_CHECKS, TaskCase(tasks, declared, n_tasks), tasks, error_type=False)


@dataclass(frozen=True)
class TaskCase:
    """A task distribution to check.

    Examples:
        >>> from quickstudy.testing import Blobs
        >>> TaskCase(Blobs(), n_tasks=2).draw().support.x.shape
        torch.Size([2, 6, 8])
    """

    tasks: TaskDistribution
    declared: Collection[TaskTrait] = ()
    n_tasks: int = 4

    def __post_init__(self) -> None:
        require_traits(self.declared, TaskTrait.__args__, "a task distribution")

    def draw(self, seed: int = 0, n_tasks: int | None = None) -> Task[Any]:
        """Draw a batch of tasks from a fresh generator."""
        generator = Generator().manual_seed(seed)
        return self.tasks.sample(self.n_tasks if n_tasks is None else n_tasks, generator)

    def examples(self) -> dict[str, Examples]:
        """Return the support and query sets of a batch, where they are `Examples`."""
        parts = zip(("support examples", "queries"), self.draw(), strict=True)
        return {name: part for name, part in parts if isinstance(part, Examples)}


def one_generator_state_draws_the_same_tasks(case: TaskCase) -> None:
    """One state of the generator draws the same tasks, whatever was drawn before, and another
    state draws others. Take all randomness from `generator`, none from `torch.rand(...)`,
    `random` or numpy, and keep nothing from one call to the next."""
    first = case.draw()
    torch.rand(1)
    other, again = case.draw(1), case.draw()
    require(_equal(first, again), "two draws from the same state differ")
    changed = "fixed" in case.declared or not _equal(first, other)
    require(changed, "draws from two states are the same")


def a_batch_has_the_tasks_asked_for(case: TaskCase) -> None:
    """Every tensor of a batch has the tasks as its first axis. Return tensors (T, N, ...)."""
    for n_tasks in (1, case.n_tasks):
        sizes = {len(leaf) for leaf in leaves(case.draw(0, n_tasks))}
        require(sizes == {n_tasks}, f"sample({n_tasks}, ...) draws {sorted(sizes)} tasks")


def shapes_agree(case: TaskCase) -> None:
    """x is (T, N, *features), y (T, N, C) or (T, N, ..., C), and weight (T, N), with one C for
    support and query set. Add axes by `[..., None]`."""
    columns = set[int]()
    for name, examples in case.examples().items():
        x, y, weight = (tuple(leaf.shape) for leaf in examples)
        agree = len(x) > 2 and len(y) > 2 and x[:2] == y[:2] == weight
        require(agree, f"{name} have x {x}, y {y} and weight {weight}")
        columns.add(y[-1])
    require(len(columns) < 2, f"support and query set have y of {sorted(columns)} columns")


def everything_is_finite(case: TaskCase) -> None:
    """No number is infinite or not a number. Look for a division or a logarithm."""
    require(is_finite(case.draw()), "a batch has numbers that are not finite")


def weights_mark_padding(case: TaskCase) -> None:
    """`weight` is 1 for an example and 0 for padding; every task has a query; y is zero in
    padding. Multiply y by the weight."""
    for name, (_, y, weight) in case.examples().items():
        require(((weight == 0) | (weight == 1)).all(), f"{name} have weights besides 0 and 1")
        require(not y[weight == 0].any(), f"padding among the {name} has a label")
        require(name != "queries" or weight.any(1).all(), "a task has no query")


def labels_are_one_hot(case: TaskCase) -> None:
    """A query has a one-hot row in y, and a support example too unless its row is zero because
    it has no label. Declare "values" for regression and for several labels at once."""
    for name, (_, y, weight) in case.examples().items():
        rows = y[weight == 1]
        total = rows.sum(-1)
        one_hot = ((rows == 0) | (rows == 1)).all() and (total <= 1).all()
        one_hot = one_hot and (name != "queries" or (total == 1).all())
        allowed = "values" in case.declared or one_hot
        require(allowed, f"{name} have y with rows other than one-hot")


def the_card_is_json_and_names_the_tasks(case: TaskCase) -> None:
    """`card` returns JSON, with a name under "tasks". Turn tuples and tensors into lists."""
    card = case.tasks.card()
    require(json.loads(json.dumps(card)) == card, f"the card changes as JSON: {card}")
    name = card.get("tasks")
    require(name and isinstance(name, str), f'the card has {name!r} under "tasks"')


def to_moves_the_tasks(case: TaskCase) -> None:
    """`to` returns the distribution, whose batches are then made on that device without a
    change (checked on a GPU where there is one). Move the data set, not the generator."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = copy.deepcopy(case.tasks)
    require(moved.to(device) is moved, "`to` does not return the distribution itself")
    batch = TaskCase(moved, n_tasks=case.n_tasks).draw()
    home = tuple(leaf.cpu() for leaf in leaves(batch))
    require(_equal(home, tuple(leaves(case.draw()))), f"the tasks differ after to({device!r})")


def sampling_leaves_no_trace(case: TaskCase) -> None:
    """Sampling changes neither the card nor torch's global generator."""
    card, state = case.tasks.card(), torch.get_rng_state()
    case.draw()
    require(case.tasks.card() == card, "the card is another one after sampling")
    require(torch.equal(state, torch.get_rng_state()), "sampling used torch's global generator")


TASK_CHECKS: tuple[Callable[[TaskCase], None], ...] = (
    one_generator_state_draws_the_same_tasks,
    a_batch_has_the_tasks_asked_for,
    shapes_agree,
    everything_is_finite,
    weights_mark_padding,
    labels_are_one_hot,
    the_card_is_json_and_names_the_tasks,
    to_moves_the_tasks,
    sampling_leaves_no_trace,
)
"""The checks of `check_tasks`."""


def _equal(a: Any, b: Any) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(leaves(a), leaves(b), strict=True))
    return all(torch.equal(x, y) for x, y in pairs)
