r"""End-to-end memory networks (Sukhbaatar, Szlam, Weston & Fergus, 2015, arXiv:1503.08895).

A query u attends to a memory several times (hops). In each hop it attends to the keys m_i, and
the weighted mean of the values c_i is added to it (section 2):

$$p_i = \mathrm{softmax}_i(u^\top m_i), \qquad o = \sum_i p_i c_i, \qquad u \leftarrow u + o$$

`story_memory_network` is the paper's model: memories are sentences and the answer is a word,
$\mathrm{softmax}(W u)$. `few_shot_memory_network` is an adaptation that is not in the paper:
memories are the examples of a support set, and the values of the last hop are their labels. So
the last hop is a vote, as in a matching network, and earlier hops refine the query.

Differs from the paper: the values of a hop are always the keys of the next one ("adjacent"
tying); training omits the softmaxes for a given number of steps ("linear start"), not until the
validation loss stalls; no empty memories are inserted between sentences; the learned vectors of
ages start at 0.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings, HasAttentionWeights
from quickstudy.core.attention import attention, log_votes
from quickstudy.core.similarity import ScaledSimilarity, Similarity
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append
from quickstudy.learner import Learner


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of the rows: (A, D), (B, D) -> (A, B).

    Examples:
        >>> import torch
        >>> inner_product(torch.tensor([[1.0, 2.0]]), torch.eye(2))
        tensor([[1., 2.]])
    """
    return a @ b.T


class MemoryNetworkState(NamedTuple):
    """The embedded examples in order. Layer k has values of hop k and keys of hop k + 1.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> learner = qs.few_shot_memory_network(torch.nn.Linear(2, 4), 4, hops=2)
        >>> learner.adapt(support).written.shape
        torch.Size([2, 2, 4])
    """

    written: Tensor  # (S, L, D)
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class MemoryNetwork(Learner[MemoryNetworkState], ComparesEmbeddings, HasAttentionWeights):
    """Learns the embeddings of memories and queries.

    Args:
        embed: (N, *features) -> (N, L, D), an embedding for each of L layers. A query starts as
            its embedding in the first layer.
        answer: maps queries after L - 1 hops (Q, D) to logits (Q, C). None: a last hop, the
            L-th, reads labels.
        similarity: of queries (Q, D) and keys (S, D): (Q, S).
        time: maps memories (S, L, D) and their weight (S,) to tensors of these shapes, such as
            `TemporalEncoding`. None: the order does not matter.
        linear_until: number of first meta-steps in which the loss omits the softmax in hops
            that read values; p is then the plain similarity (section 4.2, "linear start").

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> embed = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Unflatten(-1, (2, 4)))
        >>> learner = qs.MemoryNetwork(embed)
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
    """

    class_axes = {"y": 1}

    def __init__(
        self,
        embed: nn.Module,
        answer: nn.Module | None = None,
        *,
        similarity: Similarity = inner_product,
        time: nn.Module | None = None,
        linear_until: int = 0,
    ):
        super().__init__()
        self.embed, self.answer, self.similarity, self.time = embed, answer, similarity, time
        self.linear_until, self.linear = linear_until, False

    def adapt(
        self, support: Examples, state: MemoryNetworkState | None = None
    ) -> MemoryNetworkState:
        """Embed the examples and append them to those of `state`."""
        written = self.embed(support.x)
        return append(state, MemoryNetworkState(written, support.y, support.weight))

    def predict(self, state: MemoryNetworkState, x: Tensor) -> Tensor:
        """Return logits (Q, C); without `answer`, -inf for a class without examples."""
        return self.logits(state, x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the criterion on the query set, without softmaxes until `linear_until`."""
        logits = self.logits(self.adapt(task.support), task.query.x, linear=self.linear)
        return self.criterion(logits, task.query)

    def set_step(self, done: int) -> None:
        """End the linear start after `linear_until` meta-steps."""
        self.linear = done < self.linear_until

    def logits(self, state: MemoryNetworkState, x: Tensor, *, linear: bool = False) -> Tensor:
        """Return logits (Q, C); if `linear`, without the softmax in hops that read values."""
        query, layers, weight, _ = self.attend(state, x, linear=linear)
        if self.answer is not None:
            return self.answer(query)
        return log_votes(self.similarity(query, layers[-1]), state.y * weight[:, None])

    def attend(
        self, state: MemoryNetworkState, x: Tensor, *, linear: bool = False
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Let the queries x attend to the memory, hop by hop.

        Returns:
            The queries after all hops (Q, D); the layers (S, D) and weights (S,) of the memory;
            and p (Q, S) of every hop that reads values.
        """
        written, weight = state.written, state.weight
        if self.time is not None:
            written, weight = self.time(written, weight)
        layers = list(written.unbind(1))
        query, attention_weights = self.embed(x)[:, 0], list[Tensor]()
        for keys, values in pairwise(layers):
            score = self.similarity(query, keys)
            p = score * weight if linear else attention(score, weight)
            query = query + p @ values
            attention_weights.append(p)
        return query, layers, weight, attention_weights

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Return the attention over memories of every hop (S + Q, S).

        The first S rows map each support example to its own memory.
        """
        query, layers, weight, hops = self.attend(self.adapt(task.support), task.query.x)
        if self.answer is None:
            hops.append(attention(self.similarity(query, layers[-1]), weight))
        identity = torch.eye(len(weight)).to(query)
        return {f"hop {k}": torch.cat([identity, p]) for k, p in enumerate(hops, 1)}


class BagsOfWords(nn.Module):
    r"""Embeds sentences as sums of word vectors with position encoding (section 4.1).

    Entry k of D of the vector of word j of J is multiplied by

    $$l_{kj} = (1 - j / J) - (k / D) (1 - 2 j / J)$$

    Args:
        words: size of the vocabulary; word 0 pads shorter sentences.
        layers: L, each with its own vectors.
        width: D.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.memory.memory_network import BagsOfWords
        >>> BagsOfWords(words=9, layers=2, width=4)(torch.tensor([[3, 1, 0], [5, 2, 8]])).shape
        torch.Size([2, 2, 4])
    """

    def __init__(self, words: int, layers: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(0.1 * torch.randn(words, layers, width))

    def forward(self, x: Tensor) -> Tensor:
        """Word indices (N, J) -> (N, L, D)."""
        vectors = self.vectors[x]  # (N, J, L, D)
        present = (x > 0).to(vectors)
        positions = position_encoding(present, vectors.shape[-1])
        return torch.einsum("njd,njld->nld", positions, vectors)


def position_encoding(present: Tensor, width: int) -> Tensor:
    """Return l (N, J, width) of sentences; `present` (N, J) is 1 for words and 0 for padding.

    Examples:
        >>> import torch
        >>> position_encoding(torch.tensor([[1.0, 1.0, 0.0]]), width=2)
        tensor([[[0.5000, 0.5000],
                 [0.5000, 1.0000],
                 [0.0000, 0.0000]]])
    """
    length = present.sum(-1, keepdim=True).clamp_min(1)
    j = (present.cumsum(-1) / length)[..., None]  # as a share of the sentence
    k = torch.arange(1, width + 1).to(present) / width
    return ((1 - j) - k * (1 - 2 * j)) * present[..., None]


class TemporalEncoding(nn.Module):
    """Adds a learned vector of its age to each memory (section 4.1).

    The age is the number of later memories.

    Args:
        layers: L.
        width: D.
        latest: number of latest memories that are kept.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.memory.memory_network import TemporalEncoding
        >>> time = TemporalEncoding(layers=1, width=4, latest=2)
        >>> time(torch.zeros(3, 1, 4), torch.ones(3))[1]
        tensor([0., 1., 1.])
    """

    def __init__(self, layers: int, width: int, latest: int = 50):
        super().__init__()
        self.ages = nn.Parameter(torch.zeros(latest, layers, width))

    def forward(self, written: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(S, L, D), (S,) -> (S, L, D), (S,), with weight 0 for forgotten memories."""
        age = (weight > 0).flip(0).cumsum(0).flip(0) - 1
        latest = len(self.ages)
        return written + self.ages[age.clamp(0, latest - 1)], weight * (age < latest)


class OutputEmbedding(nn.Module):
    """The answer W: inner products with the word vectors of the last layer.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.memory.memory_network import BagsOfWords, OutputEmbedding
        >>> OutputEmbedding(BagsOfWords(words=9, layers=2, width=4))(torch.zeros(3, 4)).shape
        torch.Size([3, 9])
    """

    def __init__(self, bags: BagsOfWords):
        super().__init__()
        self.bags = bags

    def forward(self, query: Tensor) -> Tensor:
        """(Q, D) -> (Q, words)."""
        return query @ self.bags.vectors[:, -1].T


def story_memory_network(
    words: int, *, width: int = 20, hops: int = 3, latest: int = 50, linear_until: int = 0
) -> MemoryNetwork:
    """Return the paper's model, for tasks such as `Stories`.

    Args:
        words: size of the vocabulary; sentences are rows of word indices, padded with zeros.
        width: of all vectors.
        hops: number of times that a query attends to the memory.
        latest: number of latest sentences that are kept.
        linear_until: meta-steps of linear start; some hundreds help to learn several hops.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.story_memory_network(words=9, hops=2)
        >>> x = torch.tensor([[3, 1], [5, 2]])
        >>> story = qs.Examples(x, torch.zeros(2, 9), torch.ones(2))
        >>> learner.predict(learner.adapt(story), torch.tensor([[7, 3]])).shape
        torch.Size([1, 9])
    """
    bags = BagsOfWords(words, hops + 1, width)
    time = TemporalEncoding(hops + 1, width, latest)
    return MemoryNetwork(bags, OutputEmbedding(bags), time=time, linear_until=linear_until)


def few_shot_memory_network(embed: nn.Module, width: int, *, hops: int = 3) -> MemoryNetwork:
    """Return a memory of labelled examples: a matching network with several hops.

    Each layer is a linear map of the same embedding. Similarities are cosines times a learned
    factor, initially 10.

    Args:
        embed: (N, *features) -> (N, width).
        width: of all vectors.
        hops: number of times that a query attends to the memory; the last hop reads labels.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.few_shot_memory_network(torch.nn.Linear(1, 4), 4, hops=2)
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
    """
    layers = nn.Linear(width, hops * width), nn.Unflatten(-1, (hops, width))
    return MemoryNetwork(nn.Sequential(embed, *layers), similarity=ScaledSimilarity())
