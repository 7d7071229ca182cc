"""Siamese networks by loops over pairs, and in the limits where they are something else."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from quickstudy import (
    Examples,
    PrototypicalNetwork,
    SiameseNetwork,
    Task,
    contrastive_siamese,
    triplet_siamese,
)
from quickstudy.core import losses
from quickstudy.core.similarity import cosine_similarity
from quickstudy.core.tree import tree_map
from quickstudy.learners.metric import WeightedL1
from quickstudy.learners.metric.siamese import L2Normalize, pair_cross_entropy
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(shots: int = 2) -> Task[Examples]:
    drawn = Blobs(ways=4, shots=shots, queries=2).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0], drawn)


def koch() -> SiameseNetwork:
    learner = SiameseNetwork(MLP(8, 5), WeightedL1(5))
    assert isinstance(learner.similarity, WeightedL1)
    nn.init.normal_(learner.similarity.weight)
    nn.init.normal_(learner.similarity.bias)
    return learner


def log_odds(learner: SiameseNetwork, x: Tensor, z: Tensor) -> Tensor:
    """Of one pair, as Koch's section 3.1 has it."""
    compare = learner.similarity
    assert isinstance(compare, WeightedL1)
    total = compare.bias
    for w, h, k in zip(compare.weight, learner.embed(x), learner.embed(z), strict=True):
        total = total + w * abs(h - k)
    return total


def test_the_logit_of_a_class_is_the_mean_log_odds_of_its_pairs():
    support, query = task()
    learner = koch()
    logits = learner.predict(learner.adapt(support), query.x)
    for i, x in enumerate(query.x):
        for c in range(4):
            pairs = [log_odds(learner, x, z) for z in support.x[support.y[:, c] == 1]]
            torch.testing.assert_close(logits[i, c], torch.stack(pairs).mean())


def test_one_shot_probabilities_are_those_of_one_and_only_one_pair_being_of_one_class():
    support, query = task(shots=1)
    learner = koch()
    found = learner.predict(learner.adapt(support), query.x[:1]).softmax(-1)[0]
    same = [torch.sigmoid(log_odds(learner, query.x[0], z)) for z in support.x]
    alone = torch.stack(
        [p * math.prod(1 - q for j, q in enumerate(same) if j != i) for i, p in enumerate(same)]
    )
    torch.testing.assert_close(found, support.y.T @ (alone / alone.sum()))


def test_one_shot_by_distance_is_the_nearest_neighbour():
    support, query = task(shots=1)
    for learner in (contrastive_siamese(MLP(8, 5)), triplet_siamese(MLP(8, 5))):
        with torch.no_grad():
            found = learner.predict(learner.adapt(support), query.x).argmax(-1)
            supports, queries = learner.embed(support.x).numpy(), learner.embed(query.x).numpy()
        other = KNeighborsClassifier(1).fit(supports, support.y.argmax(-1).numpy())
        assert (found.numpy() == other.predict(queries)).all()


def test_several_shots_by_distance_are_a_prototype_less_the_spread_of_its_class():
    support, query = task()
    net = MLP(8, 5)
    learner, other = contrastive_siamese(net), PrototypicalNetwork(net)
    state = learner.adapt(support)
    prototype = other.predict(other.adapt(support), query.x)
    spread = [state.x[support.y[:, c] == 1].var(0, correction=0).sum() for c in range(4)]
    expected = prototype - torch.stack(spread)
    torch.testing.assert_close(learner.predict(state, query.x), expected)


def test_the_loss_is_the_balanced_cross_entropy_of_all_pairs():
    support, query = task()
    learner = koch()
    x, label = torch.cat([support.x, query.x]), torch.cat([support.y, query.y]).argmax(-1)
    missed: list[Tensor] = []
    confused: list[Tensor] = []
    for i in range(len(x)):
        for j in range(i):
            p = torch.sigmoid(log_odds(learner, x[i], x[j]))
            if label[i] == label[j]:
                missed.append(-p.log())
            else:
                confused.append(-(1 - p).log())
    expected = (torch.stack(missed).mean() + torch.stack(confused).mean()) / 2
    torch.testing.assert_close(learner.loss(Task(support, query)), expected)


def test_logits_that_know_nothing_cost_a_bit_whatever_the_number_of_classes():
    for ways in (2, 7):
        y = torch.eye(ways).repeat(2, 1)
        nats = pair_cross_entropy(torch.zeros(2 * ways, 2 * ways), y, torch.ones(2 * ways))
        assert nats.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("mine", [losses.semi_hard_triplets, losses.hard_triplets])
def test_variants_have_the_loss_that_they_say(mine: losses.Miner):
    support, query = task()
    net = MLP(8, 5)
    x, y, weight = map(torch.cat, zip(support, query, strict=True))
    found = contrastive_siamese(net, margin=3.0).loss(Task(support, query))
    torch.testing.assert_close(found, losses.contrastive(net(x), y, weight, margin=3.0))
    found = triplet_siamese(net, margin=0.5, miner=mine).loss(Task(support, query))
    unit = net(x) / net(x).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, losses.triplet(unit, y, weight, margin=0.5, miner=mine))


@pytest.mark.parametrize(
    "make",
    [
        koch,
        lambda: triplet_siamese(MLP(8, 5)),
        lambda: SiameseNetwork(MLP(8, 5), cosine_similarity, losses.info_nce),
    ],
    ids=["pairs", "triplet", "info_nce"],
)
def test_similarity_is_that_of_every_pair(make: Callable[[], SiameseNetwork]):
    network = make()
    a, b = torch.randn(2, 6, 8)
    found = network.pair_logits(a, b)
    table = network.similarity(network.embed(a), network.embed(b))
    torch.testing.assert_close(found, table.diagonal())
    torch.testing.assert_close(network.pair_logits(b, a), found)  # it is symmetric
    by_task = torch.vmap(network.pair_logits)(a.unflatten(0, (2, 3)), b.unflatten(0, (2, 3)))
    torch.testing.assert_close(by_task.flatten(), found)
    assert network.pair_logits(a[:0], b[:0]).shape == (0,)


def test_an_unseen_class_is_impossible():
    support, query = task()
    learner = koch()
    two_classes = support._replace(weight=1 - support.y[:, 2])
    logits = learner.predict(learner.adapt(two_classes), query.x)
    assert (logits[:, 2] == -torch.inf).all() and logits[:, [0, 1, 3]].isfinite().all()


def test_unit_length():
    rows = L2Normalize()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_similarity_learns_the_log_odds_of_a_logistic_regression():
    """With nothing to embed, Koch's model is a logistic regression on |x - z|."""
    tasks = Blobs(ways=5, shots=8, queries=8)
    support, query = tree_map(lambda leaf: leaf[0], tasks.sample(1, torch.Generator()))
    x, y, weight = map(torch.cat, zip(support, query, strict=True))
    learner = SiameseNetwork(nn.Identity(), WeightedL1(8))
    optimizer = torch.optim.LBFGS(learner.similarity.parameters(), max_iter=200)  # pyright: ignore

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = learner.loss(Task(support, query))
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    same, other = losses.pairs(y, weight)
    apart = (x[:, None] - x).abs()[same + other > 0]
    kind = same[same + other > 0] > 0
    model = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8, max_iter=1000)
    model.fit(apart.numpy(), kind.numpy())
    compare = learner.similarity
    assert isinstance(compare, WeightedL1)
    expected = torch.cat([torch.tensor(model.coef_[0]), torch.tensor(model.intercept_)])
    found = torch.cat([compare.weight.detach(), compare.bias.detach()[None]])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
