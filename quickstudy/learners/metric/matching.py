r"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, 2016,
arXiv:1606.04080).

Every support example votes for its label, by how similar it is to the query (eq. 1):

$$P(y \mid x, S) = \sum_{i \in S} a(x, x_i) \, y_i, \qquad
  a(x, x_i) = \frac{\exp c(f(x, S), g(x_i, S))}{\sum_{j \in S} \exp c(f(x, S), g(x_j, S))}$$

c is the cosine. f and g are one embedding; with `FullContext`, what it makes of each example
depends on the whole support set.

Differs from the paper: f and g share one net, which the paper allows. Its softmax of plain
cosines is the default; with it, however, published numbers have not been reproduced: in five
ways no probability exceeds 0.65. Give `similarity=ScaledSimilarity()`, cosines with a learned factor, or
`negative_squared_distance`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings
from quickstudy.core.similarity import Similarity, cosine_similarity
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.nets.recurrent import use_cells


class Embedded(NamedTuple):
    """The support set, embedded one by one: context comes later, as more examples may."""

    keys: Tensor  # (S, D)
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class MatchingNetwork(Learner[Embedded], ComparesEmbeddings):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        similarity: of embeddings (Q, D) and (S, D): (Q, S); 1 times the cosine is the paper's.
        context: makes of embeddings (S, D), their weights (S,) and those of the queries (Q, D)
            the two sets of embeddings that are compared, such as `FullContext`. None: they
            are compared as they are.
    """

    class_axes = {"y": 1}

    def __init__(
        self,
        embed: nn.Module,
        *,
        similarity: Similarity = cosine_similarity,
        context: nn.Module | None = None,
    ):
        super().__init__()
        self.embed, self.similarity, self.context = embed, similarity, context

    def adapt(self, support: Examples, state: Embedded | None = None) -> Embedded:
        """The embedded examples, after those that `state` has."""
        new = Embedded(self.embed(support.x), support.y, support.weight)
        return new if state is None else Embedded(*map(torch.cat, zip(state, new, strict=True)))

    def predict(self, state: Embedded, x: Tensor) -> Tensor:
        """Logits (Q, C), whose softmax is eq. 1; -inf for a class of which no example was
        seen."""
        keys, queries = state.keys, self.embed(x)
        if self.context is not None:
            keys, queries = self.context(keys, state.weight, queries)
        return log_votes(self.similarity(queries, keys), state.y * state.weight[:, None])


class FullContext(nn.Module):
    r"""Full-context embeddings (appendix A of the paper).

    A bidirectional LSTM goes over the support set, whose order therefore matters, and what it
    says is added to each embedding. Queries attend to the result, `steps` times (eq. 2 to 6):

    $$g(x_i, S) = \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i), \qquad
      h_k = \mathrm{LSTM}(f'(x), [h_{k-1}, r_{k-1}]) + f'(x), \qquad
      r_k = \sum_i \mathrm{softmax}_i(h_k^\top g(x_i)) \, g(x_i)$$

    Args:
        width: of the embeddings.
        steps: K, how often a query reads the support set; the paper gives no number.
    """

    def __init__(self, width: int, *, steps: int = 5):
        super().__init__()
        self.steps = steps
        self.ahead = use_cells(nn.LSTM(width, width))
        self.back = use_cells(nn.LSTM(width, width))
        # linear in all it is given: r may stand beside f'(x) instead of beside h
        self.reader = use_cells(nn.LSTM(2 * width, width))

    def forward(self, keys: Tensor, weight: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(S, D), (S,), (Q, D) -> (S, D), (Q, D)."""
        ahead = _over_examples(self.ahead, keys, weight)
        back = _over_examples(self.back, keys.flip(0), weight.flip(0)).flip(0)
        keys = ahead + back + keys
        hidden = cell = torch.zeros_like(queries)
        for _ in range(self.steps):
            attention = (hidden @ keys.T + weight.log()).softmax(-1)  # (Q, S)
            given = torch.cat([queries, attention @ keys], -1)
            _, (said, cells) = self.reader(given[None], (hidden[None], cell[None]))
            hidden, cell = said[0] + queries, cells[0]
        return keys, hidden


def _over_examples(lstm: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What an LSTM says at each example (S, D), having seen padding after all others."""
    order = (weight == 0).byte().argsort(stable=True)
    return lstm(x[order])[0][order.argsort()]


def log_votes(score: Tensor, votes: Tensor) -> Tensor:
    """log of sum over examples of exp(score) * votes: (Q, S), (S, C) -> (Q, C); -inf for a
    class without a vote. Nothing underflows, and the derivative is finite."""
    counts = votes > 0
    each = score[:, :, None] + torch.where(counts, votes, 1).log()  # (Q, S, C)
    each = each.masked_fill(~counts, torch.finfo(score.dtype).min)
    return each.logsumexp(1).masked_fill(~counts.any(0), -torch.inf)
