"""Semi-supervised prototypes by hand, and without unlabelled examples as the supervised."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    Examples,
    PrototypicalNetwork,
    SemiSupervisedPrototypicalNetwork,
    Task,
    evaluate,
)
from quickstudy.core.tree import tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def drawn(**settings: Any) -> Task[Examples]:
    tasks = Blobs(ways=4, **settings).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), tasks)


def line(x: list[float], y: list[list[float]]) -> Examples:
    return Examples(torch.tensor(x)[:, None], torch.tensor(y), torch.ones(len(x)))


def means(learner: SemiSupervisedPrototypicalNetwork, support: Examples) -> list[float]:
    found = learner.refined(learner.adapt(support))
    return (found.sums[:, 0] / found.sizes).tolist()


A, B, UNKNOWN = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]


def five() -> Examples:
    """Of means 1 and 6; the last two, at 3 and 1, have no label."""
    return line([0.0, 2.0, 6.0, 3.0, 1.0], [A, A, B, UNKNOWN, UNKNOWN])


def test_a_step_of_soft_k_means_by_hand():
    # 3 is 2 from the mean 1 and 3 from 6; 1 is 0 and 5 away
    near, far = 1 / (1 + math.exp(4 - 9)), 1 / (1 + math.exp(0 - 25))
    expected = [
        (0 + 2 + 3 * near + 1 * far) / (2 + near + far),
        (6 + 3 * (1 - near) + 1 * (1 - far)) / (1 + (1 - near) + (1 - far)),
    ]
    learner = SemiSupervisedPrototypicalNetwork(nn.Flatten())
    assert means(learner, five()) == pytest.approx(expected, rel=1e-12)
    logits = learner.predict(learner.adapt(five()), torch.tensor([[4.0]]))
    assert logits[0].tolist() == pytest.approx([-((4 - mean) ** 2) for mean in expected])


def test_refinements_share_anew_what_has_no_label_and_end_where_k_means_does():
    learner = SemiSupervisedPrototypicalNetwork(nn.Flatten(), refinements=50)
    one, other = means(learner, five())
    share = [1 / (1 + math.exp((x - one) ** 2 - (x - other) ** 2)) for x in (3, 1)]
    fixed = (2 + 3 * share[0] + 1 * share[1]) / (2 + sum(share))
    assert one == pytest.approx(fixed, rel=1e-9)
    assert means(SemiSupervisedPrototypicalNetwork(nn.Flatten(), refinements=0), five()) == [
        1,
        6,
    ]


def test_a_cluster_about_the_origin_takes_what_is_of_no_class():
    support = line([3.0, 6.0, 1.0], [A, B, UNKNOWN])
    learner = SemiSupervisedPrototypicalNetwork(nn.Flatten(), distractors=True)
    assert learner.log_radius is not None
    radius = 2.0
    learner.log_radius.data.fill_(math.log(radius))

    def likely(distance: float, radius: float) -> float:  # eq. 6, A(r) = log(2 pi) / 2 + log r
        a = math.log(2 * math.pi) / 2 + math.log(radius)
        return math.exp(-((distance / radius) ** 2) - a)

    parts = [likely(2, 1), likely(5, 1), likely(1, radius)]
    share = [part / sum(parts) for part in parts]
    assert share[2] > 0.9
    expected = [(3 + share[0]) / (1 + share[0]), (6 + share[1]) / (1 + share[1])]
    assert means(learner, support) == pytest.approx(expected, rel=1e-12)


def test_the_cluster_about_the_origin_takes_squared_lengths_in_space():
    points = [[3.0, 1.0, 2.0], [0.0, 2.0, 1.0], [1.0, 1.0, 2.0], [0.5, -1.0, 0.0]]
    support = Examples(
        torch.tensor(points), torch.tensor([A, B, UNKNOWN, UNKNOWN]), torch.ones(4)
    )
    learner = SemiSupervisedPrototypicalNetwork(nn.Flatten(), distractors=True)
    assert learner.log_radius is not None
    learner.log_radius.data.fill_(math.log(1.5))
    sums, sizes = [list(point) for point in points[:2]], [1.0, 1.0]
    for x in points[2:]:
        likely = [math.exp(-(math.dist(x, mean) ** 2)) for mean in points[:2]]
        total = sum(likely) + math.exp(-((math.hypot(*x) / 1.5) ** 2)) / 1.5
        for c in range(2):
            sizes[c] += likely[c] / total
            sums[c] = [s + likely[c] / total * part for s, part in zip(sums[c], x, strict=True)]
    refined = learner.refined(learner.adapt(support))
    torch.testing.assert_close(refined.sums, torch.tensor(sums))
    torch.testing.assert_close(refined.sizes, torch.tensor(sizes))


@pytest.mark.parametrize("distractors", [False, True])
def test_with_labels_only_it_is_a_prototypical_network(distractors: bool):
    support, query = drawn(shots=3)
    net = MLP(8, 5)
    learner = SemiSupervisedPrototypicalNetwork(net, distractors=distractors)
    other = PrototypicalNetwork(net)
    torch.testing.assert_close(
        learner.predict(learner.adapt(support), query.x),
        other.predict(other.adapt(support), query.x),
    )


def test_an_unseen_class_takes_nothing_and_the_gradient_is_finite():
    support, query = drawn(shots=1, unlabelled=3)
    weight = 1 - support.y[:, 2]  # no labelled example of the class 2
    weighted_query = query._replace(weight=1 - query.y[:, 2])
    embed = nn.Linear(8, 5)
    learner = SemiSupervisedPrototypicalNetwork(embed)
    state = learner.adapt(support._replace(weight=weight))
    refined = learner.refined(state)
    assert refined.sizes[2] == 0
    assert refined.sizes.sum().item() == pytest.approx(weight.sum().item())
    loss = learner.loss(Task(support._replace(weight=weight), weighted_query))
    grads: tuple[Tensor, ...] = torch.autograd.grad(loss, embed.weight)
    assert loss.isfinite() and grads[0].isfinite().all() and grads[0].any()


def test_unlabelled_examples_help():
    tasks = Blobs(ways=3, shots=1, unlabelled=10)
    embed = nn.Linear(8, 4, bias=False)
    embed.weight.data = torch.eye(4, 8)  # what tells classes apart, found already
    with_them = evaluate(SemiSupervisedPrototypicalNetwork(embed), tasks, n_tasks=300)
    change = with_them.paired_difference(
        evaluate(PrototypicalNetwork(embed), tasks, n_tasks=300)
    )
    assert change.mean > 3 * change.interval
