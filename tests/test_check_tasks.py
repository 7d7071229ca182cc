"""Every task distribution of the zoo × every check; every check on tasks that must fail it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator

from quickstudy import Examples, Task, TaskDistribution
from quickstudy.core.tree import tree_map
from quickstudy.testing import TASK_CHECKS, Blobs, TaskCase, check_tasks
from quickstudy.testing import tasks as checks
from tests.zoo import TASKS


@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TASKS)
def test_tasks(name: str, check: Callable[[TaskCase], None]) -> None:
    make, declared = TASKS[name]
    torch.manual_seed(0)
    check(TaskCase(make(), declared))


class Changed(TaskDistribution):
    """Blobs with a change to a batch, or to the card."""

    def __init__(self, change: Any = lambda task: task, card: Any = None):
        self.change, self.facts, self.draws = change, card or {"tasks": "changed"}, 0

    def sample(self, n_tasks: int, generator: Generator) -> Task[Any]:
        self.draws += 1
        return self.change(Blobs().sample(n_tasks, generator))

    def card(self) -> dict[str, Any]:
        return self.facts


class Moved(Changed):
    def to(self, device: Any) -> Any:
        self.change = lambda task: tree_map(lambda leaf: leaf + 1, task)
        return self


class Counting(Changed):
    def card(self) -> dict[str, Any]:
        return {"tasks": "counting", "draws": self.draws}


def on_queries(**changes: Callable[[Examples], Any]) -> Callable[[Task[Examples]], Task[Any]]:
    def change(task: Task[Examples]) -> Task[Any]:
        new = {name: make(task.query) for name, make in changes.items()}
        return task._replace(query=task.query._replace(**new))

    return change


def padded(examples: Examples) -> torch.Tensor:
    weight = examples.weight.clone()
    weight[:, 0] = 0
    return weight


BROKEN: list[tuple[Callable[[TaskCase], None], TaskDistribution, str]] = [
    (
        checks.one_generator_state_draws_the_same_tasks,
        Changed(on_queries(x=lambda q: q.x + torch.rand(()))),
        "same state differ",
    ),
    (
        checks.one_generator_state_draws_the_same_tasks,
        Changed(lambda _: Blobs().sample(4, Generator().manual_seed(0))),
        "two states are the same",
    ),
    (
        checks.a_batch_has_the_tasks_asked_for,
        Changed(lambda task: tree_map(lambda leaf: leaf[:1], task)),
        r"draws \[1\] tasks",
    ),
    (checks.shapes_agree, Changed(on_queries(weight=lambda q: q.weight[..., None])), "weight"),
    (checks.shapes_agree, Changed(on_queries(y=lambda q: q.y[..., :2])), "columns"),
    (checks.everything_is_finite, Changed(on_queries(x=lambda q: q.x / 0)), "not finite"),
    (
        checks.weights_mark_padding,
        Changed(on_queries(weight=lambda q: q.weight / 2)),
        "0 and 1",
    ),
    (checks.weights_mark_padding, Changed(on_queries(weight=padded)), "has a label"),
    (
        checks.weights_mark_padding,
        Changed(on_queries(weight=lambda q: 0 * q.weight, y=lambda q: 0 * q.y)),
        "no query",
    ),
    (checks.labels_are_one_hot, Changed(on_queries(y=lambda q: 2 * q.y)), "one-hot"),
    (checks.labels_are_one_hot, Changed(on_queries(y=lambda q: 0 * q.y)), "one-hot"),
    (
        checks.the_card_is_json_and_names_the_tasks,
        Changed(card={"tasks": "a", "x": (0, 1)}),
        "as JSON",
    ),
    (checks.the_card_is_json_and_names_the_tasks, Changed(card={"name": "a"}), "tasks"),
    (checks.to_moves_the_tasks, Moved(), "differ after"),
    (checks.sampling_leaves_no_trace, Counting(), "another one"),
    (
        checks.sampling_leaves_no_trace,
        Changed(on_queries(x=lambda q: q.x + torch.rand(()))),
        "global generator",
    ),
]


@pytest.mark.parametrize(("check", "tasks", "message"), BROKEN)
def test_broken_tasks_fail(check: Any, tasks: TaskDistribution, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(TaskCase(tasks))


def test_every_check_is_seen_to_fail() -> None:
    assert {check for check, *_ in BROKEN} == set(TASK_CHECKS)


def test_the_error_names_the_check_and_the_remedy() -> None:
    broken = Changed(on_queries(x=lambda q: q.x / 0))
    with pytest.raises(AssertionError, match=r"(?s)everything_is_finite.*logarithm"):
        check_tasks(broken)
    with pytest.raises(ValueError, match="is no trait"):
        check_tasks(broken, declared={"nonsense"})  # pyright: ignore[reportArgumentType]
