"""Losses and their gradient as one compiled graph, against the same learner uncompiled."""

import copy

import pytest
import torch
from torch import Tensor, nn

from quickstudy import MAML, PrototypicalNetwork
from quickstudy.core.task import TaskBatch
from quickstudy.execution.one_graph import OneGraph
from quickstudy.execution.options import compile_learner, outcome
from quickstudy.nets.backbones import MLP
from quickstudy.storage.learner_tensors import unwrapped
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler itself


def batch(size: int) -> TaskBatch:
    return Blobs(ways=3, shape=(4,)).sample(size, torch.Generator().manual_seed(0))


def learner() -> MAML:
    torch.manual_seed(0)
    return MAML(MLP(4, 3, hidden=(6,)), steps=2)


def pair() -> tuple[MAML, OneGraph]:
    torch._dynamo.reset()
    eager = learner()
    return eager, OneGraph(copy.deepcopy(eager), backend="aot_eager")


def gradient(module: nn.Module, losses: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(losses, list(module.parameters())))


def test_losses_and_gradient_are_those_of_the_learner() -> None:
    eager, compiled = pair()
    for size in (3, 3, 4):
        torch.testing.assert_close(
            outcome(compiled, batch(size)), outcome(eager, batch(size)), rtol=1e-4, atol=1e-6
        )


def test_tasks_may_have_weights() -> None:
    eager, compiled = pair()
    weights, tasks = torch.tensor([1.0, 0.0, -2.0]), batch(3)
    torch.testing.assert_close(
        gradient(compiled, compiled(tasks) @ weights),
        gradient(eager, eager(tasks) @ weights),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_setting_that_changes_is_compiled_anew() -> None:
    eager, compiled = pair()
    tasks = batch(3)
    compiled(tasks)
    for name, value in {"steps": 1, "lr": 0.3, "first_order": True}.items():
        for module in (eager, unwrapped(compiled)):
            setattr(module, name, value)
        torch.testing.assert_close(
            outcome(compiled, tasks), outcome(eager, tasks), rtol=1e-4, atol=1e-6
        )


def test_without_gradients_nothing_is_compiled() -> None:
    eager, compiled = pair()
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch(3)), eager(batch(3)), rtol=0, atol=0)


def test_learners_that_compare_embeddings_compile() -> None:
    torch._dynamo.reset()
    eager = PrototypicalNetwork(nn.Linear(4, 3))
    compiled = OneGraph(copy.deepcopy(eager), backend="eager")
    torch.testing.assert_close(
        outcome(compiled, batch(3)), outcome(eager, batch(3)), rtol=1e-4, atol=1e-6
    )


def test_running_statistics_are_compiled_as_torch_does() -> None:
    torch._dynamo.reset()
    plain = compile_learner(PrototypicalNetwork(nn.Sequential(nn.Linear(4, 3))))
    running = compile_learner(PrototypicalNetwork(nn.Sequential(nn.BatchNorm1d(4))))
    assert isinstance(plain, OneGraph) and not isinstance(running, OneGraph)
