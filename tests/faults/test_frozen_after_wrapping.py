"""What adapts is asked when it is adapted: freezing and unfreezing after wrapping count."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.parameters import Params

LEARNERS: dict[str, Callable[[nn.Module], Any]] = {
    "maml": qs.MAML,
    "imaml": qs.IMAML,
    "meta_sgd": lambda net: qs.MetaSGD(net, lr=(0.05, 0.05)),
    "meta_curvature": qs.MetaCurvature,
    "maml_pp": qs.MAMLPlusPlus,
    "reptile": qs.Reptile,
    "fine_tuning": qs.FineTuning,
    "experience_replay": qs.ExperienceReplay,
    "ewc": qs.EWC,
    "gdumb": lambda net: qs.GDumb(net, epochs=1),
    "joint": qs.Joint,
}
FIRST = ("0.weight", "0.bias")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def support() -> qs.Examples:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 4, generator=generator)
    return qs.Examples(x, torch.eye(3).repeat(3, 1), torch.ones(9))


def adapted(learner: qs.Learner[Any]) -> Params:
    torch.manual_seed(0)
    state = learner.adapt(support())
    params = state if isinstance(state, dict) else state.params
    return {name: p.detach().clone() for name, p in params.items()}


@pytest.mark.parametrize("name", LEARNERS)
def test_frozen_parameters_stay_and_the_others_move_as_if_frozen_before(name: str):
    module = net()
    learner = LEARNERS[name](module)
    module[0].requires_grad_(False)
    params = adapted(learner)
    assert not set(FIRST) & set(params)
    before = net()
    before[0].requires_grad_(False)
    right = adapted(LEARNERS[name](before))
    assert params.keys() == right.keys()
    torch.testing.assert_close(params, right)


@pytest.mark.parametrize("name", LEARNERS)
def test_unfrozen_parameters_move_as_if_unfrozen_before(name: str):
    module = net()
    module[0].requires_grad_(False)
    learner = LEARNERS[name](module)
    module[0].requires_grad_(True)
    params, right = adapted(learner), adapted(LEARNERS[name](net()))
    start = dict(net().named_parameters())
    assert all(not torch.equal(params[key], start[key]) for key in FIRST)
    assert params.keys() == right.keys()
    torch.testing.assert_close({key: params[key] for key in sorted(params)}, right)


def test_the_inner_loop_of_oml_follows_too():
    embed = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6))
    learner = qs.OML(embed, features=6, classes=3, lr=0.5, adapt_parameters=None)
    task = qs.Task(support(), support())
    everything = learner.loss(task).item()
    embed.requires_grad_(False)
    embed[2].requires_grad_(True)
    last = learner.loss(task).item()
    embed.requires_grad_(True)
    by_name = qs.OML(embed, features=6, classes=3, lr=0.5, adapt_parameters=["2"])
    by_name.head.load_state_dict(learner.head.state_dict())
    assert last == pytest.approx(by_name.loss(task).item(), rel=1e-5)
    assert last != pytest.approx(everything, rel=1e-5)
