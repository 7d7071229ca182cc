r"""Siamese networks: one embedding for both inputs of a pair, and a learned similarity.

Koch, Zemel & Salakhutdinov (2015, "Siamese neural networks for one-shot image recognition")
learn the probability that two examples are of one class. With the embedding h,

$$p(\text{same} \mid x_1, x_2) = \sigma\Big(\sum_j w_j \, |h_j(x_1) - h_j(x_2)| + b\Big)$$

The loss is the cross-entropy over pairs, half of them of one class. Older Siamese networks
(Bromley et al., 1993; Hadsell et al., 2006) and FaceNet (Schroff et al., 2015) compare by
distance and have a loss of the embeddings: `contrastive_siamese`, `triplet_siamese`.

Differs from the papers: the loss takes all pairs (or triplets) of the support and query set,
not a sample of them. Koch's one-shot rule, the most similar example, does not cover several
examples of a class; here the logit of a class is the mean over its examples. w starts as a
negative constant, so that distance counts against a pair from the first step; Koch draws it at
random.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import ComparesEmbeddings, ComparesInputs, PredictsSimilarities
from quickstudy.core import losses
from quickstudy.core.criteria import weighted_mean
from quickstudy.core.linear import nonzero
from quickstudy.core.similarity import (
    Similarity,
    compare,
    negative_squared_distance,
    unit,
)
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append
from quickstudy.learner import Learner


class SiameseNetwork(
    Learner[Examples], ComparesEmbeddings, ComparesInputs, PredictsSimilarities
):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and a similarity.

    The state of a task is the embedded support set.

    Args:
        embed: the embedding.
        similarity: of embeddings (A, D) and (B, D): (A, B); `WeightedL1`,
            `negative_squared_distance`, `cosine_similarity` or `ScaledSimilarity`.
        objective: a loss of embeddings, y and weight, such as those of
            `quickstudy.core.losses`. None: Koch's cross-entropy of pairs, with the similarities
            as logits.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.SiameseNetwork(torch.nn.Identity(), qs.learners.metric.WeightedL1(1))
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
        >>> learner.pair_logits(x[:1], x[1:2]).sigmoid() < 0.5
        tensor([True])
    """

    class_axes = {"y": 1}

    def __init__(
        self,
        embed: nn.Module,
        similarity: Similarity,
        objective: losses.Loss | None = None,
    ):
        super().__init__()
        self.embed, self.similarity, self.objective = embed, similarity, objective

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """Embed the examples and append them to those of `state`."""
        return append(state, support._replace(x=self.embed(support.x)))

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Return the mean similarity to the examples of each class: logits (Q, C).

        -inf for a class without examples. With one example each, the softmax of the logits is
        the probability of the class, given that the query belongs to exactly one.
        """
        member = state.y * state.weight[:, None]  # (S, C)
        sizes = member.sum(0)
        similarities = compare(self.similarity, self.embed(x), state.x)  # (Q, S)
        logits = similarities @ member.to(similarities) / nonzero(sizes)
        return logits.masked_fill(sizes == 0, -torch.inf)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the `objective` of the support and query set together."""
        x, y, weight = Examples.cat(task.support, task.query)
        embedded = self.embed(x)
        if self.objective is not None:
            return self.objective(embedded, y, weight)
        return pair_cross_entropy(self.similarity(embedded, embedded), y, weight)

    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the similarity of each pair of inputs: (N, *features) twice -> (N,).

        With `WeightedL1` it is the logit that both are of one class.
        """
        both = self.embed(torch.cat([a, b])).unflatten(0, (2, len(a)))
        return torch.vmap(partial(compare, self.similarity))(*both[:, :, None]).flatten()


class WeightedL1(nn.Module):
    """Koch's similarity: a learned logit, linear in |a - b|, that a and b are of one class.

    Initially the logit is 0 where all `width` dimensions differ by 1/2.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.metric import WeightedL1
        >>> WeightedL1(2)(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.5, 0.5]])).detach()
        tensor([[2., 0.]])
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), -4 / width))
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, D), (B, D) -> (A, B)."""
        return (a[:, None] - b).abs() @ self.weight + self.bias


class L2Normalize(nn.Module):
    """Divide each row by its length: (N, D) -> (N, D).

    Examples:
        >>> import torch
        >>> L2Normalize()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the directions of the rows of `x`."""
        return unit(x)


def pair_cross_entropy(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return the binary cross-entropy of pair logits (N, N), balanced over both kinds of pairs.

    It is the average of two means: over all pairs of one class, and over all pairs of two.

    Examples:
        >>> import torch
        >>> pair_cross_entropy(torch.zeros(3, 3), torch.eye(2)[[0, 0, 1]], torch.ones(3))
        tensor(0.6931)
    """
    same, other = losses.pairs(y, losses.relative(weight))
    positive = weighted_mean(F.softplus(-logits), same)
    return 0.5 * (positive + weighted_mean(F.softplus(logits), other))


def contrastive_siamese(embed: nn.Module, *, margin: float = 1.0) -> SiameseNetwork:
    """Return the network of Hadsell, Chopra & LeCun (2006): `losses.contrastive`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.contrastive_siamese(torch.nn.Identity())
        >>> learner.pair_logits(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([-25.])
    """
    objective = partial(losses.contrastive, margin=margin)
    return SiameseNetwork(embed, negative_squared_distance, objective)


def triplet_siamese(
    embed: nn.Module,
    *,
    margin: float = 0.2,
    miner: losses.Miner = losses.semi_hard_triplets,
) -> SiameseNetwork:
    """Return FaceNet (2015): embeddings of unit length and `losses.triplet`.

    Args:
        embed: the embedding, before it is normalised.
        margin: of the loss.
        miner: of triplets; see `losses.triplet`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.triplet_siamese(torch.nn.Identity())
        >>> learner.pair_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([-2.])
    """
    objective = partial(losses.triplet, margin=margin, miner=miner)
    unit = nn.Sequential(embed, L2Normalize())
    return SiameseNetwork(unit, negative_squared_distance, objective)
