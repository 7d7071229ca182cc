r"""Prototypical networks (Snell, Swersky & Zemel, 2017, arXiv:1703.05175).

A class is represented by the mean of its embedded examples, its prototype. Logits are minus the
squared distances of a query to the prototypes (eq. 1, 2):

$$p(y = c \mid x) \propto \exp(-\lVert f(x) - \mu_c \rVert^2), \qquad
  \mu_c = \tfrac{1}{|S_c|} \sum_{i \in S_c} f(x_i)$$

Differs from the paper: nothing. `cosine_prototypical` is the classifier of Meta-Baseline (Chen,
Liu, Xu, Darrell & Wang, 2021, arXiv:2003.04390, section 3.2).
"""

from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings, PredictsSimilarities
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.similarity import ScaledSimilarity, Similarity, negative_squared_distance
from quickstudy.core.task import Examples
from quickstudy.learner import Learner


class PrototypicalNetwork(Learner[Prototypes], ComparesEmbeddings, PredictsSimilarities):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        embed: the embedding.
        similarity: of embeddings (Q, D) and prototypes (C, D): logits (Q, C).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    class_axes = {"sums": 0, "sizes": 0}
    independent_classes = True

    def __init__(self, embed: nn.Module, *, similarity: Similarity = negative_squared_distance):
        super().__init__()
        self.embed, self.similarity = embed, similarity

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """Add the embeddings of each class to the sums of `state`."""
        return class_sums(self.embed(support.x), support, state)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Return logits (Q, C); -inf for a class without examples."""
        return class_logits(self.embed(x), state, self.similarity)


def cosine_prototypical(embed: nn.Module, *, scale: float = 10.0) -> PrototypicalNetwork:
    """Return a prototypical network whose logits are cosines times a learned factor.

    Args:
        embed: the embedding, (N, *features) -> (N, D).
        scale: initial value of the factor.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.cosine_prototypical(torch.nn.Identity(), scale=10)
        >>> learner.similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])).round()
        tensor([[10.]], grad_fn=<RoundBackward0>)
    """
    return PrototypicalNetwork(embed, similarity=ScaledSimilarity(scale=scale))
