"""Learners that descend give the same numbers in `torch.inference_mode()`."""

from typing import Any, Literal

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.gradients import gradient
from quickstudy.core.tree import leaves
from quickstudy.testing import Blobs
from tests.zoo import ZOO


def predictions(learner: Any, task: qs.Task[qs.Examples]) -> list[torch.Tensor]:
    torch.manual_seed(0)  # of learners that draw mini-batches
    state = learner.adapt(task.support)
    return [*leaves(state), *leaves(learner.predict(state, task.query.x))]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("inside", ["the task", "nothing"])
def test_every_learner_adapts_and_predicts_the_same(
    name: str, inside: str, double: None
) -> None:
    """`inside`: what is made in inference mode, as data loaders do."""
    case = ZOO[name].case()
    learner, task = case.exact(), case.task()
    with torch.no_grad():
        expected = predictions(learner, task)
    with torch.inference_mode():
        task = case.task() if inside == "the task" else task
        found = predictions(learner, task)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("name", ["maml", "reptile", "imaml", "fine_tuning"])
def test_evaluation_is_the_same(name: str, execution: Literal["vmap", "loop"]) -> None:
    learner = ZOO[name].learner()
    learner.execution = execution
    expected = qs.evaluate(learner, Blobs(), n_tasks=6, meta_batch_size=3)
    with torch.inference_mode():
        found = qs.evaluate(learner, Blobs(), n_tasks=6, meta_batch_size=3)
    for metric, values in expected.values.items():
        torch.testing.assert_close(found.values[metric], values)


def test_estimators_are_the_same() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    learner = qs.MAML(net, lr=0.3)
    X, y = torch.randn(10, 2, 2).numpy(), [0, 1] * 5
    expected = qs.FewShotClassifier(learner).fit(X, y).predict_proba(X)
    with torch.inference_mode():
        found = qs.FewShotClassifier(learner).fit(X, y).predict_proba(X)
    assert abs(found - expected).max() < 1e-5


def test_the_gradient_of_a_cube_in_inference_mode() -> None:
    with torch.inference_mode():
        at = {"x": torch.tensor([2.0, -1.0]), "unused": torch.ones(1)}
        found = gradient(lambda params: params["x"].pow(3).sum())(at)
    assert found["x"].tolist() == [12, 3] and found["unused"].tolist() == [0]
