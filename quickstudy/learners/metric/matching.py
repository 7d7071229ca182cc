r"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, 2016,
arXiv:1606.04080).

Every support example votes for its label, weighted by its similarity to the query (eq. 1):

$$P(y \mid x, S) = \sum_{i \in S} a(x, x_i) \, y_i, \qquad
  a(x, x_i) = \frac{\exp c(f(x, S), g(x_i, S))}{\sum_{j \in S} \exp c(f(x, S), g(x_j, S))}$$

c is the cosine. f and g are one embedding. With `FullContext` the embedding of an example
depends on the whole support set.

Differs from the paper: f and g share one net, which the paper allows. The default is the
paper's softmax of plain cosines, but it has not reproduced the published numbers: with five
ways no probability exceeds 0.65. Give `similarity=ScaledSimilarity()`, cosines with a learned
factor, or `negative_squared_distance`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings
from quickstudy.core.attention import log_votes
from quickstudy.core.similarity import Similarity, compare, cosine_similarity
from quickstudy.core.task import Examples
from quickstudy.core.tree import append
from quickstudy.learner import Learner
from quickstudy.nets.recurrent import use_cells


class MatchingState(NamedTuple):
    """The embedded support set; `predict` adds the context, so more examples can be added.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.MatchingNetwork(torch.nn.Identity()).adapt(support)
        >>> state.keys.shape, state.weight
        (torch.Size([2, 2]), tensor([1., 1.]))
    """

    keys: Tensor  # (S, D)
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class MatchingNetwork(Learner[MatchingState], ComparesEmbeddings):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        embed: the embedding.
        similarity: of embeddings (Q, D) and (S, D): (Q, S). The paper's is the cosine.
        context: maps embeddings (S, D), their weights (S,) and those of the queries (Q, D) to
            the two sets of embeddings that are compared, such as `FullContext`. None: compare
            them directly.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.MatchingNetwork(torch.nn.Identity())
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
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

    def adapt(self, support: Examples, state: MatchingState | None = None) -> MatchingState:
        """Embed the examples and append them to those of `state`."""
        return append(state, MatchingState(self.embed(support.x), support.y, support.weight))

    def predict(self, state: MatchingState, x: Tensor) -> Tensor:
        """Return logits (Q, C), the logarithm of eq. 1; -inf for a class without examples."""
        keys, queries = state.keys, self.embed(x)
        if self.context is not None:
            keys, queries = self.context(keys, state.weight, queries)
        scores = compare(self.similarity, queries, keys)
        return log_votes(scores, state.y * state.weight[:, None])


class FullContext(nn.Module):
    r"""Full-context embeddings (appendix A of the paper).

    A bidirectional LSTM reads the support set, so its order matters. Its outputs are added to
    the embeddings. Queries attend to the result `steps` times (eq. 2 to 6):

    $$g(x_i, S) = \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i), \qquad
      h_k = \mathrm{LSTM}(f'(x), [h_{k-1}, r_{k-1}]) + f'(x), \qquad
      r_k = \sum_i \mathrm{softmax}_i(h_k^\top g(x_i)) \, g(x_i)$$

    Args:
        width: D, of the embeddings.
        steps: K, number of times that a query reads the support set; the paper gives none.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.metric import FullContext
        >>> context = FullContext(width=4)
        >>> keys, queries = context(torch.randn(6, 4), torch.ones(6), torch.randn(3, 4))
        >>> keys.shape, queries.shape
        (torch.Size([6, 4]), torch.Size([3, 4]))
    """

    def __init__(self, width: int, *, steps: int = 5):
        super().__init__()
        self.steps = steps
        self.ahead = use_cells(nn.LSTM(width, width))
        self.back = use_cells(nn.LSTM(width, width))
        # the LSTM is linear in all its inputs: r may be concatenated to f'(x) instead of to h
        self.reader = use_cells(nn.LSTM(2 * width, width))

    def forward(self, keys: Tensor, weight: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(S, D), (S,), (Q, D) -> (S, D), (Q, D)."""
        ahead = _hidden_states(self.ahead, keys, weight)
        back = _hidden_states(self.back, keys.flip(0), weight.flip(0)).flip(0)
        keys = ahead + back + keys
        hidden = cell = torch.zeros_like(queries)
        for _ in range(self.steps):
            attention = (hidden @ keys.T + weight.log()).softmax(-1)  # (Q, S)
            inputs = torch.cat([queries, attention @ keys], -1)
            _, (outputs, cells) = self.reader(inputs[None], (hidden[None], cell[None]))
            hidden, cell = outputs[0] + queries, cells[0]
        return keys, hidden


def _hidden_states(lstm: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Return the output of an LSTM at each example (S, D); it reads padding last."""
    order = (weight == 0).byte().argsort(stable=True)
    return lstm(x[order])[0][order.argsort()]
