"""Prototypical networks against scikit-learn's nearest centroid."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from quickstudy import Examples, PrototypicalNetwork, Task, cosine_prototypical
from quickstudy.core.tree import tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


def task(ways: int = 4, shots: int = 3) -> Task[Examples]:
    drawn = Blobs(ways=ways, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


@pytest.mark.parametrize("shots", [2, 5])
def test_predictions_are_those_of_the_nearest_centroid(shots: int):
    support, query = task(shots=shots)
    net = MLP(8, 5).double()
    learner = PrototypicalNetwork(net)
    with torch.no_grad():
        logits = learner.predict(learner.adapt(support), query.x)
        supports, queries = net(support.x).numpy(), net(query.x).numpy()
    other = NearestCentroid().fit(supports, support.y.argmax(-1).numpy())
    assert (logits.argmax(-1).numpy() == other.predict(queries)).all()
    distance = np.linalg.norm(queries[:, None] - other.centroids_[None], axis=-1)
    np.testing.assert_allclose(logits, -(distance**2), rtol=1e-10)


def test_probabilities_are_eq_2():
    support, query = task()
    learner = PrototypicalNetwork(nn.Flatten())
    probability = learner.predict(learner.adapt(support), query.x).softmax(-1)
    means = torch.stack([support.x[support.y[:, c] == 1].mean(0) for c in range(4)])
    likely = torch.exp(-((query.x[:, None] - means) ** 2).sum(-1))
    torch.testing.assert_close(probability, likely / likely.sum(-1, keepdim=True))


def test_cosine_prototypical_multiplies_cosines_by_what_it_learns():
    support, query = task()
    learner = cosine_prototypical(nn.Flatten(), scale=4)
    means = torch.stack([support.x[support.y[:, c] == 1].mean(0) for c in range(4)])
    cosine = nn.functional.cosine_similarity(query.x[:, None], means, dim=-1)
    state = learner.adapt(support)
    for p in learner.parameters():
        torch.testing.assert_close(learner.predict(state, query.x), 4 * cosine)
        p.data += np.log(3)
        torch.testing.assert_close(learner.predict(state, query.x), 12 * cosine)
    assert len(list(learner.parameters())) == 1


def test_examples_that_come_later_and_one_by_one():
    support = task().support
    learner = PrototypicalNetwork(MLP(8, 5).double())
    state = None
    for example in zip(*support, strict=True):
        state = learner.adapt(Examples(*(part[None] for part in example)), state)
    assert state is not None
    at_once = learner.adapt(support)
    torch.testing.assert_close(state, at_once)
    torch.testing.assert_close(state.sizes, torch.full((4,), 3.0).double())


def test_weights_are_numbers_of_examples():
    support = task().support
    learner = PrototypicalNetwork(MLP(8, 5).double())
    weight = torch.arange(1.0, 13.0).double()
    times = weight.long()
    repeated = Examples(*(leaf.repeat_interleave(times, 0) for leaf in support))
    torch.testing.assert_close(
        learner.adapt(support._replace(weight=weight)), learner.adapt(repeated)
    )


def without_class(support: Examples, unseen: int) -> Examples:
    return support._replace(weight=1 - support.y[:, unseen])


def test_an_unseen_class_has_probability_zero():
    support, query = task()
    learner = PrototypicalNetwork(nn.Flatten())
    probability = learner.predict(learner.adapt(without_class(support, 2)), query.x).softmax(-1)
    assert (probability[:, 2] == 0).all()
    torch.testing.assert_close(probability.sum(-1), torch.ones(len(query.x)).double())
    three = support.take(support.y[:, 2] == 0)
    three = three._replace(y=three.y[:, [0, 1, 3]])
    expected = learner.predict(learner.adapt(three), query.x).softmax(-1)
    torch.testing.assert_close(probability[:, [0, 1, 3]], expected)


def test_the_gradient_is_finite_with_an_unseen_class():
    support, query = task()
    support = without_class(support, 2)
    grads: list[Tensor] = []
    for weighted_query in (
        query._replace(weight=1 - query.y[:, 2]),  # padding may have the label of that class
        query.take(query.y[:, 2] == 0),
    ):
        embed = nn.Linear(8, 5, dtype=torch.float64)
        nn.init.eye_(embed.weight)
        loss = PrototypicalNetwork(embed).loss(Task(support, weighted_query))
        grads += torch.autograd.grad(loss, embed.weight)
        assert loss.isfinite() and grads[-1].isfinite().all() and grads[-1].any()
    torch.testing.assert_close(grads[0], grads[1])
