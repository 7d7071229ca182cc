"""Baseline and Baseline++ against loops of autograd, and scikit-learn's logistic regression."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Baseline, Examples, Task, baseline, baseline_pp
from quickstudy.core.prototypes import class_means
from quickstudy.core.tree import leaves, tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(ways: int = 4, shots: int = 3) -> Task[Examples]:
    drawn = Blobs(ways=ways, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def by_hand(
    features: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, scale: float | None
) -> list[Tensor]:
    """A head after seven steps of torch's own SGD, one example at a time in the loss."""
    params = [p.clone().requires_grad_() for p in (weight, bias) if p is not None]
    optimizer = torch.optim.SGD(params, 0.2, weight_decay=0.05)
    for _ in range(7):
        total = torch.zeros(())
        for feature, label in zip(features, y.argmax(-1), strict=True):
            if scale is None:
                logits = params[0] @ feature + params[1]
            else:
                logits = scale * F.cosine_similarity(params[0], feature[None])
            total = total + F.cross_entropy(logits, label)
        optimizer.zero_grad()
        (total / len(features)).backward()
        optimizer.step()
    return [p.detach() for p in params]


SETTINGS: dict[str, Any] = {"lr": 0.2, "steps": 7, "decay": 0.05}


def test_a_linear_head_is_that_of_a_loop():
    support, query = task()
    net = MLP(8, 5)
    learner = baseline(net, 5, 9, **SETTINGS)
    features = net(support.x).detach()
    weight, bias = by_hand(features, support.y, torch.zeros(4, 5), torch.zeros(4), None)
    found = learner.predict(learner.adapt(support), query.x)
    torch.testing.assert_close(found, net(query.x) @ weight.T + bias)


def test_a_head_of_cosines_is_that_of_a_loop():
    support, query = task()
    net = MLP(8, 5)
    learner = baseline_pp(net, 5, 9, scale=4.0, **SETTINGS)
    features = net(support.x).detach()
    means = torch.stack([features[support.y[:, c] == 1].mean(0) for c in range(4)])
    (weight,) = by_hand(features, support.y, means, None, 4.0)
    found = learner.predict(learner.adapt(support), query.x)
    cosines = F.cosine_similarity(net(query.x)[:, None], weight[None], dim=-1)
    torch.testing.assert_close(found, 4.0 * cosines)


def test_a_linear_head_ends_as_logistic_regression():
    support, query = task()
    decay = 0.1
    learner = Baseline(nn.Flatten(), nn.Linear(8, 9), lr=0.15, steps=800, decay=decay)
    found = learner.predict(learner.adapt(support), query.x).softmax(-1).detach()
    # the bias decays too: to scikit-learn it is the weight of a ninth feature
    supports, queries = (F.pad(part.x, (0, 1), value=1.0).numpy() for part in (support, query))
    other = LogisticRegression(C=1 / (decay * len(supports)), fit_intercept=False, tol=1e-10)
    other.fit(supports, support.y.argmax(-1).numpy())
    np.testing.assert_allclose(found, other.predict_proba(queries), atol=1e-6)


@pytest.mark.parametrize("make", [baseline, baseline_pp])
def test_the_loss_is_of_the_training_classes_head(make: Any):
    support, query = task()
    net = MLP(8, 5)
    learner = make(net, 5, 4)
    z, w = net(query.x), learner.head.weight
    if learner.scale is None:
        logits = z @ w.T + learner.head.bias
    else:
        logits = 10 * (z / z.norm(dim=-1, keepdim=True)) @ (w / w.norm(dim=-1, keepdim=True)).T
    expected = F.cross_entropy(logits, query.y.argmax(-1))
    torch.testing.assert_close(learner.loss(Task(support, query)), expected)


@pytest.mark.parametrize("make", [baseline, baseline_pp])
def test_adaptation_leaves_no_graph(make: Any):
    learner = make(MLP(8, 5), 5, 9)
    assert not any(leaf.requires_grad for leaf in leaves(learner.adapt(task().support)))


@pytest.mark.parametrize("make", [baseline, baseline_pp])
def test_classes_may_come_later(make: Any):
    support, query = task()
    learner = make(nn.Flatten(), 8, 9, lr=0.1)
    first = learner.adapt(support._replace(weight=1 - support.y[:, 2]))
    assert (learner.predict(first, query.x)[:, 2] == -torch.inf).all()
    learner.steps = 0
    second = learner.adapt(support._replace(weight=support.y[:, 2]), first)
    assert second.sizes.tolist() == [3, 3, 3, 3]
    others = learner.predict(second, query.x)[:, [0, 1, 3]]
    torch.testing.assert_close(others, learner.predict(first, query.x)[:, [0, 1, 3]])
    assert learner.predict(second, query.x).isfinite().all()


def test_means_are_of_each_class_by_weight():
    y = torch.eye(3)[[0, 0, 1]]
    features = torch.tensor([[1.0, 0], [3, 2], [5, 5]])
    found = class_means(features, Examples(features, y, torch.tensor([1.0, 3, 1])))
    torch.testing.assert_close(found, torch.tensor([[2.5, 1.5], [5, 5], [0, 0]]))
