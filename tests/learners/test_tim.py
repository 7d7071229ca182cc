"""TIM against a loop of autograd, hand-made numbers, finite differences, and a gain."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import TIM, Examples, FewShotClassifier, Task, evaluate
from quickstudy.core.tree import tree_map
from quickstudy.learners.transfer.tim import conditional_entropy, marginal_entropy
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


@pytest.fixture
def task(double: None) -> Task[Examples]:
    drawn = Blobs(ways=4, shots=2).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def learner(**settings: Any) -> TIM:
    return TIM(MLP(8, 5), nn.Linear(5, 9), **{"lr": 0.02, "steps": 12, **settings})


def by_hand(mine: TIM, task: Task[Examples]) -> Tensor:
    """Logits of the queries after torch's own Adam."""
    support, query = task
    z, q = (
        part / part.norm(dim=1, keepdim=True) for part in map(mine.embed, (support.x, query.x))
    )
    z, q, label = z.detach(), q.detach(), support.y.argmax(-1)
    w = torch.stack([z[label == c].mean(0) for c in range(4)]).requires_grad_()
    optimizer = torch.optim.Adam([w], mine.lr)
    cross, marginal, conditional = mine.weights

    def logits(z: Tensor) -> Tensor:
        return -mine.temperature / 2 * torch.cdist(z, w).square()

    for _ in range(mine.steps):
        loss = cross * F.cross_entropy(logits(z), label)
        p = logits(q).softmax(-1)
        loss = loss - conditional * (p * p.log()).sum(-1).mean()
        loss = loss + marginal * (p.mean(0) * p.mean(0).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits(q).detach()


@pytest.mark.parametrize("weights", [(0.1, 1.0, 0.1), (1.0, 0.0, 0.0), (0.0, 0.3, 2.0)])
def test_logits_are_those_of_a_loop(task: Task[Examples], weights: tuple[float, float, float]):
    mine = learner(weights=weights)
    with torch.no_grad():
        found = mine.predict(mine.adapt(task.support), task.query.x)
    torch.testing.assert_close(found, by_hand(mine, task))


def test_without_entropies_queries_do_not_matter(task: Task[Examples]):
    mine = learner(weights=(1.0, 0.0, 0.0))
    state = mine.adapt(task.support)
    some = mine.predict(state, task.query.x[:3])
    torch.testing.assert_close(some, mine.predict(state, task.query.x)[:3])


def test_entropies_by_hand():
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert conditional_entropy(p).item() == pytest.approx(math.log(2) / 2)
    expected = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert marginal_entropy(p).item() == pytest.approx(expected)
    assert marginal_entropy(torch.eye(4)).item() == pytest.approx(math.log(4))
    assert conditional_entropy(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("entropy", [conditional_entropy, marginal_entropy])
def test_gradients_of_entropies_are_finite_differences(double: None, entropy: Any):
    logits = torch.randn(6, 4, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: entropy(z.softmax(-1)), logits)


def test_a_step_goes_down_the_slope_of_the_objective(task: Task[Examples]):
    """The first step of Adam is `lr` against the sign of each slope: central differences."""
    mine = learner(lr=1e-3, steps=1)
    z, q = (F.normalize(mine.embed(part.x), dim=-1).detach() for part in task)
    label = task.support.y.argmax(-1)
    w = torch.stack([z[label == c].mean(0) for c in range(4)])

    def objective(w: Tensor) -> float:
        p = (-7.5 * torch.cdist(q, w).square()).softmax(-1)
        cross = F.cross_entropy(-7.5 * torch.cdist(z, w).square(), label)
        mean = p.mean(0)
        information = -(mean * mean.log()).sum() + 0.1 * (p * p.log()).sum(-1).mean()
        return (0.1 * cross - information).item()

    steps = 1e-6 * torch.eye(w.numel()).view(-1, *w.shape)
    grads = torch.tensor([(objective(w + d) - objective(w - d)) / 2e-6 for d in steps])
    moved = w - 1e-3 * grads.view_as(w).sign()
    found = mine.predict(mine.adapt(task.support), task.query.x)
    torch.testing.assert_close(
        found, -7.5 * torch.cdist(q, moved).square(), rtol=1e-5, atol=1e-5
    )


def test_a_class_without_examples_is_left_out(task: Task[Examples]):
    support, query = task
    mine = learner()
    found = mine.predict(mine.adapt(support._replace(weight=1 - support.y[:, 2])), query.x)
    three = support.take(support.y[:, 2] == 0)
    three = three._replace(y=three.y[:, [0, 1, 3]])
    expected = mine.predict(mine.adapt(three), query.x)
    torch.testing.assert_close(found[:, [0, 1, 3]], expected)
    assert (found[:, 2] == -torch.inf).all()


def test_information_raises_accuracy():
    tasks = Blobs(ways=4, shots=1, queries=15)
    embed = nn.Linear(8, 4, bias=False)
    embed.weight.data = torch.eye(4, 8)  # the features that tell classes apart
    mine = TIM(embed, nn.Linear(4, 9), lr=0.01, steps=40)
    after = evaluate(mine, tasks, n_tasks=200)
    mine.steps = 0
    gain = after.paired_difference(evaluate(mine, tasks, n_tasks=200))
    assert gain.mean > 2 * gain.interval > 0, gain
    assert after.card["transductive"] is True


def test_one_query_alone_is_warned_of():
    support, query = Blobs().sample(1, torch.Generator().manual_seed(0))
    rows = query.x[0].numpy()
    model = FewShotClassifier(learner(steps=3))
    model.fit(support.x[0].numpy(), support.y[0].argmax(-1).numpy())
    with pytest.warns(UserWarning, match="TIM is transductive.*many at once"):
        model.predict(rows[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(rows)
