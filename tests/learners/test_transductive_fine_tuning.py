"""Transductive fine-tuning against a loop of autograd, and its start against cosines."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, Task, TransductiveFineTuning, evaluate
from quickstudy.core.tree import tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


@pytest.fixture
def task(double: None) -> Task[Examples]:
    drawn = Blobs(ways=4, shots=2).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def means(net: nn.Module, support: Examples) -> Tensor:
    z, label = net(support.x).relu(), support.y.argmax(-1)
    mean = torch.stack([z[label == c].mean(0) for c in range(4)])
    return (mean / mean.norm(dim=1, keepdim=True)).detach()


def test_it_starts_from_cosines_to_the_class_means(task: Task[Examples]):
    net = MLP(8, 20)
    mine = TransductiveFineTuning(net, steps=0)
    found = mine.predict(mine.adapt(task.support), task.query.x)
    z, w = net(task.query.x).relu(), means(net, task.support)
    torch.testing.assert_close(found, F.cosine_similarity(z[:, None], w[None], dim=-1))


@pytest.mark.parametrize("frozen", [False, True])
def test_logits_are_those_of_a_loop(task: Task[Examples], frozen: bool):
    support, query = task
    net = MLP(8, 20)
    net.body.requires_grad_(not frozen)
    mine = TransductiveFineTuning(net, lr=0.01, steps=6)
    with torch.no_grad():
        found = mine.predict(mine.adapt(support), query.x)

    copied = copy.deepcopy(net)
    w, b = means(copied, support).requires_grad_(), torch.zeros(4, requires_grad=True)
    learned = [p for p in copied.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([*learned, w, b], 0.01)

    def logits(x: Tensor) -> Tensor:
        z = copied(x).relu()
        return z / z.norm(dim=1, keepdim=True) @ w.T + b

    for _ in range(6):
        p = logits(query.x).softmax(-1)
        loss = F.cross_entropy(logits(support.x), support.y.argmax(-1))
        loss = loss - (p * p.log()).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(found, logits(query.x).detach())


def test_examples_that_come_later_count_alike(task: Task[Examples]):
    mine = TransductiveFineTuning(MLP(8, 20), lr=0.01, steps=2)
    first, second = (task.support.take(part) for part in (slice(3), slice(3, None)))
    found = mine.predict(mine.adapt(second, mine.adapt(first)), task.query.x)
    torch.testing.assert_close(found, mine.predict(mine.adapt(task.support), task.query.x))


def test_a_class_without_examples_is_left_out(task: Task[Examples]):
    support, query = task
    mine = TransductiveFineTuning(MLP(8, 20), lr=0.01, steps=4)
    found = mine.predict(mine.adapt(support._replace(weight=1 - support.y[:, 2])), query.x)
    three = support.take(support.y[:, 2] == 0)
    three = three._replace(y=three.y[:, [0, 1, 3]])
    torch.testing.assert_close(found[:, [0, 1, 3]], mine.predict(mine.adapt(three), query.x))
    assert (found[:, 2] == -torch.inf).all()


def test_the_report_says_transductive_however_small_the_steps():
    mine = TransductiveFineTuning(MLP(8, 20), lr=1e-9, steps=1)
    assert evaluate(mine, Blobs(), n_tasks=2).card["transductive"] is True
