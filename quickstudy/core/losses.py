"""Losses of metric learning: functions of embeddings (N, D), y (N, C) and weight (N,).

They are small if examples of one class are close and those of two are apart. `y` has one-hot
rows; examples of weight 0 are padding and do not count. Each docstring names the definition and
what the mean is taken over. A mean over nothing (no two examples of one class, say) is 0.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.core.criteria import weighted_mean
from quickstudy.core.linear import double, nonzero
from quickstudy.core.similarity import cosine_similarity, squared_distance

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
Miner: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def pairs(y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of the pairs of one class and of the pairs of two, (N, N) each.

    A pair has the product of its examples' weights. No example is paired with itself; an
    example without a label (a row of zeros) is in no pair.

    Examples:
        >>> same, other = pairs(torch.eye(2)[[0, 0, 1]], torch.ones(3))
        >>> same.sum(), other.sum()
        (tensor(2.), tensor(4.))
    """
    weight = weight * y.sum(-1)
    both = weight[:, None] * weight * (1 - torch.eye(len(y)).to(weight))
    label = y.argmax(-1)
    same = (label[:, None] == label).to(both)
    return both * same, both * (1 - same)


def relative(weight: Tensor) -> Tensor:
    """Return weights (N,) over the largest of them, so that products of several are numbers.

    Examples:
        >>> relative(torch.tensor([1e-30, 5e-31]))
        tensor([1.0000, 0.5000])
    """
    return weight / nonzero(weight.amax())


def contrastive(
    embeddings: Tensor, y: Tensor, weight: Tensor, *, margin: float = 1.0
) -> Tensor:
    """Hadsell, Chopra & LeCun (2006, doi:10.1109/CVPR.2006.100, eq. 4): examples of one class
    attract each other, those of two are pushed `margin` apart.

    With the Euclidean distance D, half of: the mean of D² over all pairs of one class, plus the
    mean of max(0, margin - D)² over all pairs of two. (The paper sums over a given list of
    pairs; of all pairs in a batch most are of two classes, so each kind has its own mean.)

    Examples:
        >>> x, y = torch.tensor([[0.0], [3.0]]), torch.eye(2)[[0, 0]]
        >>> contrastive(x, y, torch.ones(2))
        tensor(4.5000)
    """
    same, other = pairs(y, relative(weight))
    square = squared_distance(embeddings, embeddings)
    apart = square > 0  # at 0 the root has no gradient: zero is used
    distance = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
    push = (margin - distance).relu().square()
    return 0.5 * (weighted_mean(square, same) + weighted_mean(push, other))


def all_triplets(square: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mine every anchor with every positive and every negative.

    Args:
        square: squared distances (N, N).
        same: weights of the pairs of one class (N, N).
        other: weights of the pairs of two (N, N).

    Returns:
        ‖a - p‖² - ‖a - n‖² and the weight of each triplet, both (N, N, N).

    Examples:
        >>> x, y = torch.tensor([[0.0], [3.0], [4.0]]), torch.eye(2)[[0, 0, 1]]
        >>> gap, weight = all_triplets(squared_distance(x, x), *pairs(y, torch.ones(3)))
        >>> gap[weight > 0]
        tensor([-7.,  8.])
    """
    weight = same[:, :, None] * other[:, None]
    return square[:, :, None] - square[:, None], weight


def semi_hard_triplets(square: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mine the triplets whose negative is farther away than the positive.

    With `triplet` these are FaceNet's semi-hard ones, as those beyond the margin are zero.

    Examples:
        >>> x, y = torch.tensor([[0.0], [3.0], [4.0]]), torch.eye(2)[[0, 0, 1]]
        >>> gap, weight = semi_hard_triplets(squared_distance(x, x), *pairs(y, torch.ones(3)))
        >>> gap[weight > 0]
        tensor([-7.])
    """
    gap, weight = all_triplets(square, same, other)
    return gap, weight * (gap < 0)


def hard_triplets(square: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mine every anchor with its farthest positive and its nearest negative (batch hard:
    Hermans, Beyer & Leibe, 2017, arXiv:1703.07737, eq. 5), as `all_triplets`, both (N,).

    Among equals the gradient is shared.

    Examples:
        >>> x, y = torch.tensor([[0.0], [3.0], [4.0]]), torch.eye(2)[[0, 0, 1]]
        >>> hard_triplets(squared_distance(x, x), *pairs(y, torch.ones(3)))
        (tensor([-7.,  8.,  0.]), tensor([1., 1., 0.]))
    """
    far = torch.where(same > 0, square, -torch.inf).amax(1)
    near = torch.where(other > 0, square, torch.inf).amin(1)
    exists = far.isfinite() & near.isfinite()
    # an anchor's triplet weighs the largest that one of its triplets weighs
    return torch.where(exists, far - near, 0), same.amax(1) * other.amax(1)


def triplet(
    embeddings: Tensor,
    y: Tensor,
    weight: Tensor,
    *,
    margin: float = 0.2,
    miner: Miner = all_triplets,
) -> Tensor:
    """FaceNet's (Schroff, Kalenichenko & Philbin, 2015, arXiv:1503.03832, eq. 3): an anchor is
    to be closer to its own class than to another, by `margin`.

    The mean of max(0, ‖a - p‖² - ‖a - n‖² + margin), squared Euclidean distances, over those
    mined triplets for which that is not zero: many are soon, and would only dilute it. Give
    embeddings of unit length, as the paper does, or a margin that fits their scale.

    Args:
        miner: `all_triplets`, `hard_triplets` or `semi_hard_triplets`.

    Examples:
        >>> x, y = torch.tensor([[0.0], [3.0], [4.0]]), torch.eye(2)[[0, 0, 1]]
        >>> triplet(x, y, torch.ones(3), margin=1.0)
        tensor(9.)
    """
    gap, weight = miner(squared_distance(embeddings, embeddings), *pairs(y, relative(weight)))
    violation = (gap + margin).relu()
    return weighted_mean(violation, weight * (violation > 0))


def center(embeddings: Tensor, y: Tensor, weight: Tensor, centers: Tensor) -> Tensor:
    """Wen et al. (2016, doi:10.1007/978-3-319-46478-7_31, eq. 2): half the squared distance to
    the centre of one's class, the mean over examples (the paper: the sum over a batch).

    Alone it is smallest where everything is one point: add it, times a small number (0.003 in
    the paper), to a loss that keeps classes apart. That number times the size of a batch is
    the paper's, as this is a mean.

    Args:
        centers: (C, D), which `update_centers` learns.

    Examples:
        >>> center(torch.tensor([[2.0]]), torch.ones(1, 1), torch.ones(1), torch.zeros(1, 1))
        tensor(2.)
    """
    square = (embeddings - y @ centers).square().sum(-1)
    return weighted_mean(0.5 * square, weight * y.sum(-1))


def update_centers(
    centers: Tensor, embeddings: Tensor, y: Tensor, weight: Tensor, *, rate: float = 0.5
) -> Tensor:
    """Return the centres (C, D) after a batch, without a graph.

    Each moves by `rate` times sum(c - x) / (1 + n) over the n examples of its class (Wen et
    al., eq. 4).

    Examples:
        >>> one = torch.ones(1, 1)
        >>> update_centers(0 * one, 4 * one, one, torch.ones(1))
        tensor([[1.]])
    """
    member = y * weight[:, None]  # (N, C)
    change = member.T @ (y @ centers - embeddings) / (1 + member.sum(0)[:, None])
    return (centers - rate * change).detach()


def n_pairs(embeddings: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Sohn's (N+1)-tuplet loss (2016, "Improved deep metric learning with multi-class N-pair
    loss objective", eq. 6): softmax classification of a positive among negatives.

    The mean over all ordered pairs (a, p) of one class of log(1 + Σ exp(a·n - a·p)), dot
    products, the sum over all examples n of other classes. (Sohn's batch is of two examples of
    each class, and of each other class only one is a negative.) His penalty on the length of
    embeddings is not part of it.

    Examples:
        >>> x, y = torch.zeros(3, 1), torch.eye(2)[[0, 0, 1]]
        >>> n_pairs(x, y, torch.ones(3))  # log 2
        tensor(0.6931)
    """
    same, other = pairs(y, relative(weight))
    # of differences on one anchor only, which a shift of the others leaves as they are
    similarity = embeddings @ (embeddings - embeddings.detach().mean(0)).T
    negatives = torch.logsumexp(_masked(other > 0, similarity), 1, keepdim=True)
    return weighted_mean(F.softplus(negatives - similarity), same)


def info_nce(
    embeddings: Tensor, y: Tensor, weight: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Supervised InfoNCE: the SupCon loss of Khosla et al. (2020, arXiv:2004.11362, eq. 2,
    "out"), which is InfoNCE (van den Oord, Li & Vinyals, 2018) with labels for views.

    With s the cosine similarity over `temperature`: -log(exp s(a, p) / Σ exp s(a, k)), k being
    every other example, of a's class too; the mean over the positives p of an anchor, and then
    over the anchors that have any.

    Examples:
        >>> x, y = torch.ones(3, 1), torch.eye(2)[[0, 0, 1]]
        >>> info_nce(x, y, torch.ones(3))  # log 2
        tensor(0.6931)
    """
    same, other = pairs(y, relative(weight))
    exact = double(embeddings)
    similarity = _masked(same + other > 0, cosine_similarity(exact, exact) / temperature)
    nats = torch.where(same > 0, similarity.logsumexp(1, keepdim=True) - similarity, 0)
    positives = same.sum(1)
    anchor_loss = (nats * same).sum(1) / nonzero(positives)
    return weighted_mean(anchor_loss.to(embeddings.dtype), weight * (positives > 0))


def _masked(mask: Tensor, values: Tensor) -> Tensor:
    """`values` inside `mask`, and outside numbers that vanish in a softmax. (For a row of -inf,
    the gradient would be NaN.)"""
    return torch.where(mask, values, torch.finfo(values.dtype).min / 2)
