"""ANML against OML, of which it is a limit, and against torch's own SGD."""

import copy

import pytest
import torch
from torch import nn

from quickstudy import OML, anml, cross_entropy
from quickstudy.learners.lifelong import Gated
from quickstudy.nets.backbones import MLP
from tests.learners.test_oml import (
    by_torch,
    slopes_by_autograd,
    slopes_by_differences,
    smooth,
    started,
    task,
)

pytestmark = pytest.mark.usefixtures("double")


class Open(nn.Module):
    """A gate of exactly 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_full((len(x), 6), 100.0)


def test_with_an_open_gate_it_is_oml():
    one, net = task(ways=2), smooth()
    plain, gated = OML(net, 6, 5, lr=0.1), anml(net, Open(), 6, 5)
    gated.head = plain.head
    torch.testing.assert_close(gated.adapt(one.support), plain.adapt(one.support))
    losses = [learner.loss(one) for learner in (gated, plain)]
    torch.testing.assert_close(*losses)
    grads = [torch.autograd.grad(loss, list(plain.parameters())) for loss in losses]
    torch.testing.assert_close(*grads)


def test_a_closed_gate_lets_nothing_be_learned_or_changed():
    one = task()
    net, gate = smooth(), MLP(8, 6)
    nn.init.zeros_(gate.head.weight)
    nn.init.constant_(gate.head.bias, -100)
    learner = anml(net, gate, 6, 5, adapt_parameters=["embed"])
    head = learner.adapt(one.support)
    assert head.bias.abs().max() > 0.01  # the bias has no gate
    assert head.weight.abs().max() < 1e-40
    found = torch.autograd.grad(learner.loss(one), list(net.parameters()))
    assert max(grad.abs().max() for grad in found) < 1e-40


def test_the_inner_loop_changes_the_prediction_net_and_not_the_gate():
    one = task()
    net, gate = smooth(), smooth()
    learner = anml(net, gate, 6, 5, lr=0.3, adapt_parameters=["embed"])
    other = copy.deepcopy(learner)
    seen = one.support.y.any(0)
    other.head.weight.data, other.head.bias.data = started(learner, seen)
    assert isinstance(other.embed, Gated)
    whole = nn.Sequential(other.embed, other.head)
    by_torch(whole, nn.ModuleList([other.embed.embed, other.head]), one.support, 0.3)
    expected = cross_entropy(whole(one.query.x), one.query)
    torch.testing.assert_close(learner.loss(one), expected)
    shallow = anml(net, gate, 6, 5, lr=0.3)
    shallow.head = learner.head
    assert not torch.allclose(shallow.loss(one), expected, rtol=1e-3)


@pytest.mark.parametrize("adapt_parameters", [(), ["embed"]])
def test_the_meta_gradient_is_the_derivative(adapt_parameters: tuple[()] | list[str]):
    learner, one = (
        anml(smooth(), smooth(), 6, 5, lr=0.5, adapt_parameters=adapt_parameters),
        task(ways=2),
    )
    expected = slopes_by_differences(learner, one)
    torch.testing.assert_close(slopes_by_autograd(learner, one), expected, rtol=1e-6, atol=1e-8)
