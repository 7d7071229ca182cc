r"""Siamese networks: one embedding for both of a pair, and a judgement of how alike they are.

Koch, Zemel & Salakhutdinov (2015, "Siamese neural networks for one-shot image recognition")
learn the probability that two examples are of one class, h being the embedding,

$$p(\text{same} \mid x_1, x_2) = \sigma\Big(\sum_j w_j \, |h_j(x_1) - h_j(x_2)| + b\Big)$$

by its cross-entropy over pairs, as many of one class as of two. The older Siamese networks
(Bromley et al., 1993; Hadsell et al., 2006) and FaceNet (Schroff et al., 2015) compare by
distance instead, and have a loss of the embeddings: `contrastive_siamese`, `triplet_siamese`.

Differs from the papers: pairs (or triplets) are all that there are in the support and query set
of a task, not drawn one by one. Koch's one-shot rule, the most similar example, says nothing of
several examples of a class: here a class's logit is the mean of theirs. w starts as a constant
below 0, so that distance speaks against from the first step on; Koch draws it at random.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import ComparesEmbeddings, ComparesInputs, PredictsSimilarities
from quickstudy.core import losses
from quickstudy.core.functional import weighted_mean
from quickstudy.core.similarity import Similarity, negative_squared_distance
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner


class SiameseNetwork(
    Learner[Examples], ComparesEmbeddings, ComparesInputs, PredictsSimilarities
):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and how embeddings are compared.

    Its state is the examples seen, embedded.

    Args:
        compare: a similarity, (A, D), (B, D) -> (A, B): `WeightedL1`,
            `negative_squared_distance`, `cosine_similarity` or `ScaledSimilarity`.
        objective: a loss of embeddings, y and weight, such as those of `quickstudy.losses`.
            None: Koch's, the cross-entropy of pairs, for which `compare` gives the logits.
    """

    class_axes = {"y": 1}

    def __init__(
        self,
        embed: nn.Module,
        compare: Similarity,
        objective: losses.Loss | None = None,
    ):
        super().__init__()
        self.embed, self.similarity, self.objective = embed, compare, objective

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """The support set, embedded, after what `state` has."""
        new = support._replace(x=self.embed(support.x))
        return new if state is None else _union(state, new)

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """The mean similarity to the examples of each class: logits (Q, C); -inf for a class
        of which no example was seen.

        Of one example each, Koch's: the softmax of the logits is then the probability that it
        is this class, given that it is exactly one.
        """
        member = state.y * state.weight[:, None]  # (S, C)
        sizes = member.sum(0)
        alike = self.similarity(self.embed(x), state.x)  # (Q, S)
        logits = alike @ member / sizes.clamp_min(1e-12)
        return logits.masked_fill(sizes == 0, -torch.inf)

    def loss(self, task: Task[Examples]) -> Tensor:
        """`objective` of the support and query set together."""
        x, y, weight = _union(task.support, task.query)
        embedded = self.embed(x)
        if self.objective is not None:
            return self.objective(embedded, y, weight)
        return pair_cross_entropy(self.similarity(embedded, embedded), y, weight)

    def pair_logits(self, a: Tensor, b: Tensor) -> Tensor:
        """How alike are the inputs a and b, both (N, *features), pair by pair: (N,).

        The logit of being of one class, or minus the squared distance: as `compare` says.
        """
        both = self.embed(torch.cat([a, b])).unflatten(0, (2, len(a)))
        return torch.vmap(self.similarity)(*both[:, :, None]).flatten()


class WeightedL1(nn.Module):
    """Koch's comparison: a learned logit, linear in |a - b|, of being of one class.

    At the start a distance of 1/2 in each of the `width` dimensions leaves it open.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), -4 / width))
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, D), (B, D) -> (A, B)."""
        return (a[:, None] - b).abs() @ self.weight + self.bias


class L2Normalize(nn.Module):
    """(N, D) -> (N, D), each row divided by its length."""

    def forward(self, x: Tensor) -> Tensor:
        """The directions of the rows of `x`."""
        return F.normalize(x, dim=-1)


def pair_cross_entropy(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The cross-entropy of "of one class" (logits: (N, N)), half of it the mean over all pairs
    of one class, half that over all pairs of two."""
    same, other = losses.pairs(y, weight)
    missed = weighted_mean(F.softplus(-logits), same)
    return 0.5 * (missed + weighted_mean(F.softplus(logits), other))


def contrastive_siamese(embed: nn.Module, *, margin: float = 1.0) -> SiameseNetwork:
    """Hadsell, Chopra & LeCun's (2006): Euclidean distances and `losses.contrastive`."""
    objective = partial(losses.contrastive, margin=margin)
    return SiameseNetwork(embed, negative_squared_distance, objective)


def triplet_siamese(
    embed: nn.Module,
    *,
    margin: float = 0.2,
    mine: losses.Mine = losses.semi_hard_triplets,
) -> SiameseNetwork:
    """FaceNet (2015): embeddings of unit length, Euclidean distances and `losses.triplet`."""
    objective = partial(losses.triplet, margin=margin, mine=mine)
    unit = nn.Sequential(embed, L2Normalize())
    return SiameseNetwork(unit, negative_squared_distance, objective)


def _union(a: Examples, b: Examples) -> Examples:
    return Examples.cat(a, b)
