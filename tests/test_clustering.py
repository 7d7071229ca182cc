"""Clustering: the groups of scikit-learn on a learner's embeddings, and what they are worth."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score
from torch import nn

from quickstudy import MAML, FewShot, PrototypicalNetwork, datasets
from quickstudy.core.task import batches
from quickstudy.estimators import cluster, embeddings, evaluate_clustering
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


def informed() -> PrototypicalNetwork:
    """Sees of `Blobs` what tells the classes apart, and none of the noise."""
    learner = PrototypicalNetwork(nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        learner.embed.get_parameter("weight").copy_(torch.eye(8)[:4])
    return learner


def clouds(classes: int = 4, each: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(classes * each) % classes)
    X = 5 * rng.normal(size=(classes, 8))[y] + 0.2 * rng.normal(size=(len(y), 8))
    return X + 30 * rng.normal(size=X.shape) * (np.arange(8) >= 4), y


def test_embeddings_are_the_modules_and_leave_it_alone():
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 2)))
    learner.embed.get_submodule("2").eval()
    modes = [module.training for module in learner.modules()]
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), np.uint8)
    found = embeddings(learner, images)
    with torch.no_grad():
        want = learner.embed.get_submodule("2")(torch.from_numpy(images).flatten(1) / 255)
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-5, atol=1e-6)
    assert [module.training for module in learner.modules()] == modes


def test_groups_are_those_of_the_embeddings():
    X, y = clouds()
    labels = cluster(informed(), X, 4)
    assert adjusted_rand_score(y, labels) == 1
    assert adjusted_rand_score(y, cluster(PrototypicalNetwork(nn.Flatten()), X, 4)) < 0.5
    assert labels[0] == 0  # numbered in the order of their first examples
    assert (np.diff(np.maximum.accumulate(labels)) <= 1).all()
    theirs = AgglomerativeClustering(3).fit_predict(X[:, :4])
    assert adjusted_rand_score(theirs, cluster(informed(), X, 3)) == 1


def test_the_number_of_groups_is_found():
    X, y = clouds()
    assert adjusted_rand_score(y, cluster(informed(), X)) == 1
    assert cluster(informed(), X, most=3).max() == 2


@pytest.mark.parametrize(
    ("X", "number", "message"),
    [
        (np.ones((2, 8)), None, "How many clusters 2 example"),
        (np.ones((1, 8)), 1, "two examples at least"),
        (np.ones((3, 8)), 4, "4 clusters of 3 example"),
        (np.ones((3, 8)), 0, "0 clusters of 3 example"),
        (np.full((3, 8), np.nan), 2, "NaN"),
    ],
)
def test_bad_examples_get_a_sentence(X: Any, number: Any, message: str):
    with pytest.raises(ValueError, match=message):
        cluster(informed(), X, number)


def test_a_learner_without_embeddings_gets_a_sentence():
    with pytest.raises(ValueError, match="MAML has no module `embed`"):
        cluster(MAML(MLP(8, 3)), np.ones((4, 8)), 2)


def test_what_groups_are_worth_over_tasks():
    tasks = Blobs(ways=4, queries=6)
    learned, pixels = evaluate_clustering(informed(), tasks, n_tasks=6, meta_batch_size=3)
    batch = next(iter(batches(tasks, 3, steps=1, seed=1, rank=2**32 - 1)))
    x, y = batch.query.x[0].double().numpy(), batch.query.y[0].argmax(-1).numpy()
    for report, seen in (learned, x[:, :4]), (pixels, x):
        want = adjusted_rand_score(y, AgglomerativeClustering(4).fit_predict(seen))
        assert report.values["adjusted_rand_index"][0] == pytest.approx(want)
    gap = learned.paired_difference(pixels)
    assert gap.mean > gap.interval > 0
    assert learned.card["clusters"] == "as many as classes"


def test_the_number_of_groups_and_padding_over_tasks():
    tasks = FewShot(datasets.digits(), ways=(2, 5), shots=1, queries=8)
    learner = PrototypicalNetwork(nn.Flatten())
    found = evaluate_clustering(learner, tasks, known=False, n_tasks=4, meta_batch_size=4)
    assert found.learned.paired_difference(found.pixels).mean == 0
    assert 0.3 < found.learned.mean("adjusted_rand_index") <= 1
    assert found.learned.values["clusters"].min() >= 2
    given = evaluate_clustering(learner, tasks, n_tasks=4, meta_batch_size=4).learned
    assert set(given.values) == {"adjusted_rand_index"}
