"""Synaptic intelligence against a plain loop, and against the fall of the loss."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quickstudy import FineTuning, SynapticIntelligence
from quickstudy.core.parameters import select_parameters
from quickstudy.core.task import Examples
from quickstudy.datasets import digits
from quickstudy.datasets.labelled import split_examples
from quickstudy.evaluation import evaluate_stream
from quickstudy.learners.lifelong.synaptic_intelligence import SIState
from quickstudy.nets.backbones import MLP
from quickstudy.tasks.scenarios import permuted


def classes(size: int) -> Examples:
    y = F.one_hot(torch.randint(3, (size,)), 3).double()
    return Examples(torch.randn(size, 4), y, torch.ones(size))


@pytest.mark.usefixtures("double")
def test_it_is_the_loop_of_the_paper():
    c, xi, lr = 0.7, 0.05, 0.2
    learner = SynapticIntelligence(
        MLP(4, 3), si_lambda=c, damping=xi, lr=lr, batch_size=4, epochs=2
    )
    weights = [p.detach().clone().requires_grad_() for p in learner.net.parameters()]
    shape = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
    net = nn.Sequential(shape, nn.Linear(40, 3))  # the same layers, in the same order
    names = [name for name, _ in net.named_parameters()]
    big = [torch.zeros_like(p) for p in weights]
    state = None
    for _ in range(3):
        examples = classes(10)
        state = learner.adapt(examples, state)
        before = [p.detach().clone() for p in weights]
        small = [torch.zeros_like(p) for p in weights]
        for _ in range(2):
            for x, y in zip(examples.x.split(4), examples.y.split(4), strict=True):
                logits = torch.func.functional_call(
                    net, dict(zip(names, weights, strict=True)), (x,)
                )
                loss = F.cross_entropy(logits, y)
                penalty = torch.stack(
                    [
                        (o * (b - p) ** 2).sum()
                        for o, b, p in zip(big, before, weights, strict=True)
                    ]
                ).sum()
                grads = torch.autograd.grad(loss, weights)
                penalties = torch.autograd.grad(c * penalty, weights)
                for k, p in enumerate(weights):
                    with torch.no_grad():
                        step = -lr * (grads[k] + penalties[k])
                        small[k] -= grads[k] * step
                        p += step
        for k, p in enumerate(weights):
            moved = (p.detach() - before[k]) ** 2
            big[k] = torch.relu(big[k] + small[k] / (moved + xi))
    assert state is not None
    for part, expected in ((state.params, weights), (state.importance, big)):
        for value, other in zip(part.values(), expected, strict=True):
            torch.testing.assert_close(value, other)


@pytest.mark.usefixtures("double")
def test_the_integral_is_the_fall_of_the_loss():
    """For small steps on all examples: ω of all weights sums to it."""
    examples, xi = classes(10), 0.1
    learner = SynapticIntelligence(MLP(4, 3), damping=xi, lr=0.002, batch_size=10, epochs=150)
    start = select_parameters(learner.net)
    state = learner.adapt(examples)
    gain = sum(
        (big * ((state.params[name] - start[name]).square() + xi)).sum()
        for name, big in state.importance.items()
    )
    fall = learner.batch_loss(examples, start) - learner.batch_loss(examples, state.params)
    assert fall > 0.05
    torch.testing.assert_close(torch.as_tensor(gain), fall, rtol=5e-3, atol=0)


@pytest.mark.usefixtures("double")
def test_importance_is_never_negative():
    """A penalty above the bound 1 / (c Ω) of the rate overshoots, and ω becomes negative."""
    learner = SynapticIntelligence(MLP(4, 3), si_lambda=1000.0, lr=0.1, epochs=2)
    params = select_parameters(learner.net)
    state = SIState(params, {name: torch.full_like(p, 0.015) for name, p in params.items()})
    importance = learner.adapt(classes(10), state).importance
    assert all((value >= 0).all() for value in importance.values())
    assert any((value == 0).any() for value in importance.values())


@pytest.mark.usefixtures("double")
def test_without_strength_it_is_fine_tuning():
    net = MLP(4, 3)
    learner = SynapticIntelligence(net, si_lambda=0.0, batch_size=4, epochs=2)
    plain = FineTuning(net, batch_size=4, epochs=2)
    state, tuned = None, None
    for _ in range(3):
        examples = classes(10)
        state, tuned = learner.adapt(examples, state), plain.adapt(examples, tuned)
        for name, value in tuned.items():
            assert torch.equal(value, state.params[name])


def test_permuted_digits_are_forgotten_less():
    make = partial(permuted, *split_examples(digits(), 0.7), tasks=3, examples=400)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), MLP(64, 10, hidden=(32,)))
    settings = {"lr": 0.1, "epochs": 2}
    tuned = evaluate_stream(FineTuning(net, **settings), [make()]).report
    protected = evaluate_stream(SynapticIntelligence(net, **settings), [make()]).report
    assert protected.mean("forgetting") < tuned.mean("forgetting") - 0.05
