"""Relation networks against loops over pairs, written by hand, and prototypical networks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import Examples, PrototypicalNetwork, RelationNetwork, Task
from quickstudy.core.functional import tree_map
from quickstudy.learners.metric import relation_embedding, relation_module
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(ways: int = 3, shots: int = 2, shape: tuple[int, ...] = (8,)) -> Task[Examples]:
    tasks = Blobs(ways=ways, shots=shots, queries=2, shape=shape)
    return tree_map(lambda leaf: leaf[0], tasks.sample(1, torch.Generator().manual_seed(3)))


def images() -> tuple[RelationNetwork, Task[Examples]]:
    net = RelationNetwork(relation_embedding(3), relation_module(3, size=4))
    return net.eval(), task(shape=(1, 24, 24))


def scores_by_hand(learner: RelationNetwork, task: Task[Examples]) -> Tensor:
    """r (Q, C), one pair after the other."""
    support, query = task
    label = support.y.argmax(-1)
    rows: list[list[Tensor]] = []
    for x in query.x:
        row: list[Tensor] = []
        for c in range(support.y.shape[1]):
            total = torch.stack([learner.embed(x[None])[0] for x in support.x[label == c]])
            pair = torch.cat([total.sum(0), learner.embed(x[None])[0]])  # the class comes first
            row.append(1 / (1 + torch.exp(-learner.relate(pair[None]).squeeze())))
        rows.append(row)
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("kind", ["vectors", "feature maps"])
def test_scores_and_loss_are_those_of_a_loop_over_pairs(kind: str) -> None:
    learner, drawn = RelationNetwork(MLP(8, 4), MLP(8, 1)), task()
    if kind == "feature maps":
        learner, drawn = images()
    r = scores_by_hand(learner, drawn)
    logits = learner.predict(learner.adapt(drawn.support), drawn.query.x)
    torch.testing.assert_close(logits.exp(), r)
    torch.testing.assert_close(logits.softmax(-1), r / r.sum(-1, keepdim=True))
    label = drawn.query.y.argmax(-1)
    errors = [(r[i, c] - float(c == label[i])) ** 2 for i in range(len(r)) for c in range(3)]
    torch.testing.assert_close(learner.loss(drawn), torch.stack(errors).sum() / len(r))


@pytest.mark.parametrize(
    "settings", [{"stride": 2, "padding": 1}, {"bias": False}, {"groups": 2}]
)
def test_a_convolution_of_pairs_is_done_for_each_map(settings: Any) -> None:
    first = nn.Conv2d(4, 2, 2, **settings)
    drawn, net = task(ways=4), nn.Sequential(first, nn.Flatten(), nn.LazyLinear(1))
    net(torch.zeros(1, 4, 4, 4))
    embed = nn.Sequential(nn.Linear(8, 32), nn.Unflatten(1, (2, 4, 4)))
    learner, whole = RelationNetwork(embed, net), RelationNetwork(embed, nn.Sequential(net))
    state = learner.adapt(drawn.support)
    mine, others = (each.predict(state, drawn.query.x) for each in (learner, whole))
    torch.testing.assert_close(mine, others)
    torch.testing.assert_close(
        *(
            torch.autograd.grad(each.loss(drawn), list(each.parameters()))
            for each in (learner, whole)
        )
    )


def test_the_relation_module_sees_all_pairs_at_once() -> None:
    seen: list[torch.Size] = []

    class Relate(nn.Module):
        def forward(self, pairs: Tensor) -> Tensor:
            seen.append(pairs.shape)
            return pairs.flatten(1)[:, :1]

    drawn = task(ways=4)
    learner = RelationNetwork(nn.Unflatten(1, (2, 2, 2)), Relate())
    learner.predict(learner.adapt(drawn.support), drawn.query.x)
    assert seen == [(8 * 4, 4, 2, 2)]


class Distance(nn.Module):
    """`most` minus the squared distance of the halves of a pair, one being a sum of `shots`."""

    def __init__(self, shots: int = 1, most: float = 0.0):
        super().__init__()
        self.shots, self.most = shots, most

    def forward(self, pairs: Tensor) -> Tensor:
        a, b = pairs.chunk(2, 1)
        return self.most - (a / self.shots - b).square().sum(1, keepdim=True)


@pytest.mark.parametrize("shots", [1, 4])
def test_relating_by_distance_is_a_prototypical_network(shots: int) -> None:
    drawn, embed = task(ways=5, shots=shots), MLP(8, 4)
    learner, other = RelationNetwork(embed, Distance(shots)), PrototypicalNetwork(embed)
    r = learner.predict(learner.adapt(drawn.support), drawn.query.x).exp()
    logits = other.predict(other.adapt(drawn.support), drawn.query.x)
    assert (r.argmax(-1) == logits.argmax(-1)).all()
    torch.testing.assert_close(r, logits.sigmoid())


def test_sums_add_up_over_calls_of_adapt() -> None:
    learner, (support, _) = images()
    first = support.take(slice(1))
    rest = support.take(slice(1, None))
    state = learner.adapt(rest, learner.adapt(first))
    torch.testing.assert_close(state, learner.adapt(support))
    maps = learner.embed(support.x)
    torch.testing.assert_close(state.sums[1], maps[support.y[:, 1] == 1].sum(0))
    assert state.sums.shape == (3, 3, 4, 4) and state.sizes.tolist() == [2, 2, 2]


def test_an_unseen_class_has_no_relation_and_a_finite_loss() -> None:
    support, query = task()
    learner = RelationNetwork(MLP(8, 4), MLP(8, 1))
    known = support._replace(weight=1 - support.y[:, 1])
    logits = learner.predict(learner.adapt(known), query.x)
    assert (logits[:, 1] == -torch.inf).all() and logits[:, [0, 2]].isfinite().all()
    loss = learner.loss(Task(known, query))
    loss.backward()
    r = logits.exp()
    torch.testing.assert_close(loss, (r - query.y).square().sum(-1).mean())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_a_certain_relation_keeps_its_order() -> None:
    """Of odds so large that a sigmoid is 1 in float32."""
    learner = RelationNetwork(nn.Identity(), Distance(most=30.0))
    x = torch.tensor([[2.0], [1.0], [0.0]], dtype=torch.float32)
    y, ones = torch.eye(3, dtype=torch.float32), torch.ones(3, dtype=torch.float32)
    logits = learner.predict(learner.adapt(Examples(x, y, ones)), x)
    assert logits.dtype == torch.float32 and (logits.exp() == 1).all()
    assert (logits.argmax(-1) == torch.arange(3)).all()


def test_the_nets_are_those_of_the_paper() -> None:
    """Sizes as in its figure 2, and the number of parameters worked out layer by layer."""
    embed, relate = relation_embedding(), relation_module()

    def parameters(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert embed(torch.zeros(2, 1, 28, 28)).shape == (2, 64, 5, 5)
    assert embed(torch.ones(2, 1, 84, 84)).shape == (2, 64, 19, 19)
    assert relate(torch.zeros(2, 128, 5, 5)).shape == (2, 1)
    norm, conv = 2 * 64, 64 * 64 * 9 + 64
    assert parameters(embed) == (9 * 64 + 64) + 3 * conv + 4 * norm
    assert parameters(relate) == 128 * 64 * 9 + 64 + conv + 2 * norm + (64 * 8 + 8) + 9


def test_pairs_that_are_padding_do_not_count() -> None:
    learner, (support, query) = images()
    some = query._replace(weight=torch.arange(6.0) % 2)
    odd: Any = query.take(slice(1, None, 2))
    torch.testing.assert_close(
        learner.loss(Task(support, some)), learner.loss(Task(support, odd))
    )
