"""Losses of metric learning against pytorch-metric-learning, and against loops over pairs."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import (
    ContrastiveLoss,
    NTXentLoss,
    SupConLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer
from torch import Tensor
from torch.nn import functional as F

from quickstudy.core import losses

pytestmark = pytest.mark.usefixtures("double")

SQUARE = LpDistance(normalize_embeddings=False, power=2)
MINERS = losses.all_triplets, losses.semi_hard_triplets, losses.hard_triplets
LOSSES: dict[str, losses.Loss] = {
    "contrastive": losses.contrastive,
    **{miner.__name__: partial(losses.triplet, miner=miner) for miner in MINERS},
    "n_pairs": losses.n_pairs,
    "info_nce": losses.info_nce,
    "center": lambda e, y, w: losses.center(e, y, w, torch.ones(y.shape[1], e.shape[1])),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(sizes: tuple[int, ...] = (3, 1, 4, 2)) -> tuple[Tensor, Tensor]:
    """Embeddings (N, 5) whose classes overlap, and their labels (N,)."""
    label = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    label = label[torch.randperm(len(label))]
    centre = 0.6 * torch.randn(len(sizes), 5)
    return centre[label] + 0.3 * torch.randn(len(label), 5), label


def value(loss: Callable[..., Tensor], embeddings: Tensor, label: Tensor, **kw: Any) -> Tensor:
    y = F.one_hot(label).to(embeddings)
    return loss(embeddings, y, torch.ones(len(label)), **kw)


def assert_same(mine: Callable[..., Tensor], other: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Value and gradient agree on four batches."""
    for _ in range(4):
        embeddings, label = batch()
        embeddings.requires_grad_()
        a, b = value(mine, embeddings, label), other(embeddings, label)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        grads = [torch.autograd.grad(x, embeddings)[0] for x in (a, b)]
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)


# against pytorch-metric-learning


def test_contrastive_squares_its_terms_and_halves_their_means():
    distance = LpDistance(normalize_embeddings=False)
    theirs = ContrastiveLoss(neg_margin=2, distance=distance, reducer=DoNothingReducer())

    def other(embeddings: Tensor, label: Tensor) -> Tensor:
        each = theirs(embeddings, label)
        pull, push = each["pos_loss"]["losses"], each["neg_loss"]["losses"]
        return 0.5 * (pull.square().mean() + push.square().mean())

    assert_same(partial(losses.contrastive, margin=2.0), other)


def test_triplet_of_all():
    theirs = TripletMarginLoss(0.4, distance=SQUARE)
    assert_same(partial(losses.triplet, margin=0.4), theirs)


@pytest.mark.parametrize(
    ("mine", "miner"),
    [
        (losses.semi_hard_triplets, TripletMarginMiner(0.4, "semihard", distance=SQUARE)),
        (losses.hard_triplets, BatchHardMiner(distance=SQUARE)),
    ],
    ids=["semi-hard", "hard"],
)
def test_triplet_of_mined(mine: losses.Miner, miner: Any):
    theirs = TripletMarginLoss(0.4, distance=SQUARE)
    assert_same(
        partial(losses.triplet, margin=0.4, miner=mine),
        lambda embeddings, label: theirs(embeddings, label, miner(embeddings, label)),
    )


def test_n_pairs_is_the_softmax_of_one_positive_among_all_negatives():
    dot = DotProductSimilarity(normalize_embeddings=False)
    theirs = NTXentLoss(temperature=1, distance=dot, reducer=MeanReducer())
    assert_same(losses.n_pairs, theirs)


def test_n_pairs_is_sohns_for_one_anchor():
    """Of N classes with one example each, and an anchor: NPairsLoss, of that anchor."""
    positives, anchor = torch.randn(6, 5), torch.randn(5)
    embeddings = torch.cat([anchor[None], positives])
    y = torch.eye(6)[[2, *range(6)]]
    both = value(losses.n_pairs, embeddings, y.argmax(-1))
    nats = F.cross_entropy(positives @ anchor, torch.tensor(2))  # Sohn's eq. 6
    others = torch.cat([anchor[None], positives[[0, 1, 3, 4, 5]]])  # the pair the other way
    back = F.cross_entropy(others @ positives[2], torch.tensor(0))
    torch.testing.assert_close(both, (nats + back) / 2)


def test_info_nce_is_supcon():
    assert_same(partial(losses.info_nce, temperature=0.3), SupConLoss(0.3))


# against loops


def test_pairs():
    label = [0, 1, 0, 2]
    weight = torch.tensor([1.0, 1.0, 2.0, 0.5])
    same, other = losses.pairs(torch.eye(3)[label], weight)
    for i, j in itertools.product(range(4), repeat=2):
        both = weight[i] * weight[j] if i != j else 0
        assert same[i, j] == both * (label[i] == label[j])
        assert other[i, j] == both * (label[i] != label[j])


def test_triplets_by_loops():
    embeddings, label = batch()
    margin, every, semi, hard = 0.4, [], [], []
    square = [[math.dist(a, b) ** 2 for b in embeddings] for a in embeddings]
    for a, row in enumerate(square):
        to_same = [d for p, d in enumerate(row) if p != a and label[p] == label[a]]
        to_other = [d for n, d in enumerate(row) if label[n] != label[a]]
        gaps = [p - n for p in to_same for n in to_other]
        every += [gap + margin for gap in gaps if gap + margin > 0]
        semi += [gap + margin for gap in gaps if -margin < gap < 0]
        if to_same:
            hard += [max(0, max(to_same) - min(to_other) + margin)]
    expected = [sum(every) / len(every), sum(semi) / len(semi)]
    expected.append(sum(hard) / sum(x > 0 for x in hard))
    for miner, number in zip(MINERS, expected, strict=True):
        found = value(losses.triplet, embeddings, label, margin=margin, miner=miner)
        assert found.item() == pytest.approx(number)


def test_a_negative_as_far_away_as_the_positive_is_not_semi_hard():
    embeddings, label = torch.tensor([[0.0], [2.0], [-2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    square = (embeddings - embeddings.T).square()
    same, other = losses.pairs(F.one_hot(label).to(embeddings), torch.ones(4))
    _, weight = losses.semi_hard_triplets(square, same, other)
    # 0 has its positive at distance 2 and negatives at 2 and 3
    assert weight[0].nonzero().tolist() == [[1, 3]]


def test_center_by_loops():
    embeddings, label = batch()
    centers = torch.randn(4, 5)
    pairs = list(zip(embeddings, label.tolist(), strict=True))
    half = [0.5 * (x - centers[c]).square().sum() for x, c in pairs]
    found = value(losses.center, embeddings, label, centers=centers)
    torch.testing.assert_close(found, torch.stack(half).mean())


def test_centers_move_as_eq_4_says():
    embeddings, label = batch((3, 0, 4, 2))  # a class that the batch has not
    centers = torch.randn(4, 5)
    expected = centers.clone()
    for c in range(4):
        members = embeddings[label == c]
        change = sum((centers[c] - x for x in members), torch.zeros(5)) / (1 + len(members))
        expected[c] -= 0.7 * change
    y = torch.eye(4)[label]
    weight = torch.ones(len(label))
    embeddings.requires_grad_()
    found = losses.update_centers(centers, embeddings, y, weight, rate=0.7)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    torch.testing.assert_close(found[1], centers[1])
    for _ in range(100):
        found = losses.update_centers(found, embeddings, y, weight)
    torch.testing.assert_close(found[0], embeddings[label == 0].mean(0).detach())


def test_info_nce_weighs_positives_and_anchors_by_loops():
    label, weight = [0, 0, 0, 1, 1], [1.0, 2.0, 0.5, 3.0, 1.0]
    unit = F.normalize(torch.randn(5, 3), dim=-1)
    score = (unit @ unit.T / 0.3).tolist()
    total = 0.0
    for a in range(5):
        others = sum(math.exp(score[a][k]) for k in range(5) if k != a)
        positives = [p for p in range(5) if p != a and label[p] == label[a]]
        nats = sum(weight[p] * (math.log(others) - score[a][p]) for p in positives)
        total += weight[a] * nats / sum(weight[p] for p in positives)
    y = F.one_hot(torch.tensor(label)).to(unit)
    result = losses.info_nce(unit, y, torch.tensor(weight), temperature=0.3)
    assert result.item() == pytest.approx(total / sum(weight))


# what all of them obey


@each_loss
def test_padding_and_examples_without_a_label_count_for_nothing(loss: losses.Loss):
    embeddings, label = batch()
    y, weight = torch.eye(4)[label], torch.ones(len(label))
    more = torch.cat([embeddings, torch.randn(3, 5)])
    padded = loss(
        more,
        torch.cat([y, torch.eye(4)[[0, 3]], torch.zeros(1, 4)]),
        torch.cat([weight, torch.tensor([0.0, 0.0, 1.0])]),
    )
    torch.testing.assert_close(padded, loss(embeddings, y, weight))


@each_loss
@pytest.mark.parametrize("label", [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]])
def test_gradients_are_finite_where_all_coincide(loss: losses.Loss, label: list[int]):
    for start in (torch.zeros(5, 3), torch.ones(5, 3)):
        embeddings = start.requires_grad_()
        result = value(loss, embeddings, torch.tensor(label))
        (grads,) = torch.autograd.grad(result, embeddings)
        assert result.isfinite() and grads.isfinite().all()


@each_loss
@pytest.mark.parametrize("label", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_nothing_to_compare_is_no_nan(loss: losses.Loss, label: list[int]):
    embeddings = torch.randn(4, 3, requires_grad=True)
    for weight in (torch.ones(4), torch.zeros(4)):
        result = loss(embeddings, F.one_hot(torch.tensor(label), 5).double(), weight)
        (grads,) = torch.autograd.grad(result, embeddings)
        assert result.isfinite() and grads.isfinite().all()


@each_loss
def test_a_batch_of_tasks_by_vmap(loss: losses.Loss):
    drawn = [batch() for _ in range(3)]
    embeddings = torch.stack([x for x, _ in drawn])
    y = torch.stack([torch.eye(4)[label] for _, label in drawn])
    weight = torch.ones(y.shape[:2])
    one_by_one = [loss(*task) for task in zip(embeddings, y, weight, strict=True)]
    torch.testing.assert_close(torch.vmap(loss)(embeddings, y, weight), torch.stack(one_by_one))


def test_contrastive_vanishes_where_classes_are_points_beyond_the_margin():
    embeddings = torch.tensor([[0.0], [0.0], [1.5], [1.5]])
    assert value(losses.contrastive, embeddings, torch.tensor([0, 0, 1, 1])) == 0
    half = value(losses.contrastive, embeddings, torch.tensor([0, 0, 1, 1]), margin=2.5)
    assert half.item() == pytest.approx(0.5)  # half of (2.5 - 1.5)²


def test_info_nce_of_equal_embeddings_is_the_logarithm_of_their_number():
    found = value(losses.info_nce, torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert found.item() == pytest.approx(math.log(5))
