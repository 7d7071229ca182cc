"""Weights that are all scaled by one factor change no prediction, however small they are."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.linear import nonzero
from quickstudy.learners.lifelong.oml import OML
from quickstudy.learners.memory.memory_network import MemoryNetwork
from tests.faults.test_moments_far_from_origin import log_probabilities
from tests.zoo import ZOO

FAMILIES = ("lifelong", "gradient", "transfer", "amortised", "memory")
NAMES = [
    name
    for name, entry in ZOO.items()
    if type(entry.learner()).__module__.split(".")[2] in FAMILIES
]


def predictions(name: str, factor: float) -> Tensor:
    """After two adaptations, to halves of a support set whose weights have this factor."""
    entry = ZOO[name]
    task = entry.tasks.sample(1, torch.Generator().manual_seed(0))
    support, query = (qs.Examples(*(leaf[0] for leaf in part)) for part in task)
    support = support._replace(weight=support.weight * factor)
    learner, half = entry.learner().eval(), len(support.x) // 2
    torch.manual_seed(0)
    with torch.no_grad():
        state = learner.adapt(support.take(slice(half)))
        state = learner.adapt(support.take(slice(half, None)), state)
        prediction = learner.predict(state, query.x)
    if isinstance(learner, MemoryNetwork):  # its logits are the logarithms of votes
        return prediction.softmax(-1)
    return prediction if isinstance(prediction, Tensor) else torch.cat(list(prediction), -1)


@pytest.mark.parametrize("name", NAMES)
def test_a_common_factor_changes_no_prediction(name: str):
    if isinstance(ZOO[name].learner(), OML):
        pytest.skip("a weight is a factor of an example's step")
    right = predictions(name, 1.0)
    for factor in (1e-20, 1e-30, 1e20):
        torch.testing.assert_close(predictions(name, factor), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_common_factor_changes_no_loss(name: str):
    entry = ZOO[name]
    batch = entry.tasks.sample(2, torch.Generator().manual_seed(0))
    if isinstance(entry.learner(), OML):
        pytest.skip("a weight is a factor of an example's step")
    losses = []
    for factor in (1.0, 1e-20):
        parts = (part._replace(weight=part.weight * factor) for part in batch)
        torch.manual_seed(0)
        losses.append(entry.learner()(qs.Task(*parts)).detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-20, 1e-14, 1.0])
def test_moments_of_a_class_of_small_weights_are_those_of_numpy(factor: float):
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = generator.normal(size=(60, 4)) + 2 * labels[:, None]
    weight = generator.uniform(0.5, 1.5, size=60) * np.where(labels == 2, factor, 1.0)
    examples = qs.Examples(
        torch.tensor(x, dtype=torch.float32),
        torch.eye(3)[labels],
        torch.tensor(weight, dtype=torch.float32),
    )
    learner, state = qs.StreamingLDA(nn.Identity(), shrinkage=0.1), None
    for start in range(0, 60, 7):
        state = learner.adapt(examples.take(slice(start, start + 7)), state)
    assert state is not None
    for c in range(3):
        mean = np.average(x[labels == c], 0, weight[labels == c])
        torch.testing.assert_close(state.means[c], torch.tensor(mean, dtype=torch.float32))
    found = learner.predict(state, examples.x).log_softmax(-1)
    right = log_probabilities(x, labels, weight, 0.1)
    torch.testing.assert_close(found, torch.tensor(right).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1.0])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_fisher_information_is_that_of_a_loop(factor: float, size: int):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    x, y, weight = torch.randn(9, 3), torch.eye(4)[torch.arange(9) % 4], torch.rand(9)
    weight[2] = 0
    right = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for row, share in zip(x, weight / weight.sum(), strict=True):
        log_prob = net(row[None]).log_softmax(-1)[0]
        for value in log_prob:
            grads = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
            for (name, _), grad in zip(net.named_parameters(), grads, strict=True):
                right[name] += share * value.exp().detach() * grad**2
    learner = qs.EWC(net, fisher_batch=size)
    examples = qs.Examples(x, y, weight * factor)
    found = learner.fisher(examples, dict(net.named_parameters()))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-7)


def test_embeddings_of_any_length_have_the_same_direction():
    x, y = (
        torch.tensor([[3.0, 1.0], [1.0, 3.0], [4.0, 1.0], [1.0, 5.0]]),
        torch.eye(2)[[0, 1, 0, 1]],
    )

    def shot(factor: float) -> list[Tensor]:
        examples = qs.Examples(x * factor, y, torch.ones(4))
        learners: Any = (
            qs.SimpleShot(nn.Identity(), nn.Linear(2, 2), transform="L2N"),
            qs.TIM(nn.Identity(), nn.Linear(2, 2), steps=5),
            qs.LifeLongMemory(nn.Identity(), memory_size=4),
            qs.baseline_pp(nn.Identity(), 2, 2, steps=0),
            qs.TransductiveFineTuning(nn.Identity(), steps=2),
        )
        return [
            learner.eval().predict(learner.adapt(examples), x * factor) for learner in learners
        ]

    for factor in (1e-15, 1e-30, 1e15):
        for small, right in zip(shot(factor), shot(1.0), strict=True):
            torch.testing.assert_close(small, right, rtol=1e-4, atol=1e-5)


def test_entropies_have_no_floor_in_half_precision():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float16)
    entropy = qs.learners.transfer.tim.conditional_entropy(p)
    assert math.isclose(entropy.item(), math.log(2) / 2, abs_tol=1e-3)


def test_nothing_divides_by_zero():
    assert nonzero(torch.tensor([0.0, 1e-38])).tolist() == pytest.approx([1.0, 1e-38])
