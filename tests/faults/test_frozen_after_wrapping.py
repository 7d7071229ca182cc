"""What adapts is asked when it is adapted: freezing and unfreezing after wrapping count."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.execution.batching import Execution
from quickstudy.learner import ParameterLearner
from quickstudy.learners.lifelong import SynapticIntelligence
from quickstudy.testing.learners import Blobs

LEARNERS: dict[str, Callable[[nn.Module], ParameterLearner[Any]]] = {
    "MAML": qs.MAML,
    "Reptile": qs.Reptile,
    "MetaSGD": qs.MetaSGD,
    "MetaCurvature": qs.MetaCurvature,
    "MAML++": qs.MAMLPlusPlus,
    "iMAML": qs.IMAML,
    "fine-tuning": qs.FineTuning,
    "EWC": qs.EWC,
    "synaptic intelligence": SynapticIntelligence,
}
TASKS = Blobs().sample(2, torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def adapted(learner: ParameterLearner[Any]) -> dict[str, torch.Tensor]:
    state = learner.adapt(qs.Examples(*(part[0] for part in TASKS.support)))
    return state if isinstance(state, dict) else state.params


@pytest.mark.parametrize("name", LEARNERS)
def test_a_layer_frozen_after_wrapping_does_not_adapt(name: str):
    module = net()
    learner = LEARNERS[name](module)
    module[0].requires_grad_(False)
    state = adapted(learner)
    assert set(state) == {"2.weight", "2.bias"}
    assert not torch.equal(state["2.weight"], module[2].weight)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_layer_unfrozen_after_wrapping_adapts(name: str):
    module = net()
    module[0].requires_grad_(False)
    learner = LEARNERS[name](module)
    module[0].requires_grad_(True)
    state = adapted(learner)
    assert not torch.equal(state["0.weight"], module[0].weight)


def test_one_step_with_a_frozen_layer_is_that_of_autograd():
    module = net()
    learner = qs.MAML(module, lr=0.5, steps=1)
    module[0].requires_grad_(False)
    support = qs.Examples(*(part[0] for part in TASKS.support))
    loss = nn.functional.cross_entropy(module(support.x), support.y.argmax(-1))
    (grad,) = torch.autograd.grad(loss, module[2].weight)
    expected = module[2].weight - 0.5 * grad
    torch.testing.assert_close(adapted(learner)["2.weight"], expected)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_lent_tensors_of_convolutions_adapt_without_gradients(execution: Execution):
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(9, 3)
    )
    learner = qs.MAML(conv, lr=0.5, steps=2)
    learner.execution = execution
    with torch.no_grad():
        losses = learner(TASKS)
    torch.testing.assert_close(losses, learner(TASKS).detach())
