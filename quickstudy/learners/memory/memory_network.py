r"""End-to-end memory networks (Sukhbaatar, Szlam, Weston & Fergus, 2015, arXiv:1503.08895).

A question u is put to a memory several times (hops). Each time it attends to the keys m_i, and
what it reads, a mean of the values c_i, becomes part of it (section 2):

$$p_i = \mathrm{softmax}_i(u^\top m_i), \qquad o = \sum_i p_i c_i, \qquad u \leftarrow u + o$$

`story_memory_network` is the paper's model: memories are sentences, the answer is a word,
$\mathrm{softmax}(W u)$. `few_shot_memory_network` is an adaptation that the paper does not
have: memories are the examples of a support set, and the values of the last hop are their
labels, so that a query ends in a vote, as in a matching network; earlier hops refine what it
asks.

Differs from the paper: the values of a hop are always the keys of the next one ("adjacent"
tying); a number of steps says for how long training does without the softmaxes ("linear
start"), not the validation loss; no empty memories are put among the sentences; the learned
vectors of ages begin at 0.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import ComparesEmbeddings, HasAttentionWeights
from quickstudy.core.similarity import ScaledSimilarity, Similarity
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.learners.metric.matching import log_votes


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Of every row of (A, D) and every row of (B, D): (A, B)."""
    return a @ b.T


class Memory(NamedTuple):
    """The examples, in order. Layer k holds the values of hop k and the keys of the next."""

    written: Tensor  # (S, L, D)
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class MemoryNetwork(Learner[Memory], ComparesEmbeddings, HasAttentionWeights):
    """Learns what to write and how to ask.

    Args:
        embed: (N, *features) -> (N, L, D), what an example is in each of L layers; a question
            begins as what it is in the first.
        answer: of what a question has become after L - 1 hops (Q, D), logits (Q, C). None: a
            last hop, the L-th, reads labels.
        similarity: of questions (Q, D) and keys (S, D): (Q, S).
        time: makes of what was written (S, L, D) and its weight (S,) what is remembered, of
            these shapes, such as `TemporalEncoding`. None: the order does not matter.
        linear_until: for how many first meta-steps the loss does without the softmax in the
            hops that read values, p being plain similarities (section 4.2, "linear start").
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

    def adapt(self, support: Examples, state: Memory | None = None) -> Memory:
        """The embedded examples, after those that `state` has."""
        new = Memory(self.embed(support.x), support.y, support.weight)
        return new if state is None else Memory(*map(torch.cat, zip(state, new, strict=True)))

    def predict(self, state: Memory, x: Tensor) -> Tensor:
        """Logits (Q, C); where labels are read, -inf for a class of which no example was
        seen."""
        return self.answered(state, x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """That of the predictions, made without softmaxes as long as `linear_until` says."""
        logits = self.answered(self.adapt(task.support), task.query.x, linear=self.linear)
        return self.criterion(logits, task.query)

    def set_step(self, done: int) -> None:
        """Ends the linear start when its time has come."""
        self.linear = done < self.linear_until

    def answered(self, state: Memory, x: Tensor, *, linear: bool = False) -> Tensor:
        """As `predict`; if `linear`, without the softmax where values are read."""
        question, layers, weight, _ = self.ask(state, x, linear=linear)
        if self.answer is not None:
            return self.answer(question)
        score = self.similarity(question, layers[-1])
        return log_votes(score, state.y * weight[:, None])

    def ask(
        self, state: Memory, x: Tensor, *, linear: bool = False
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Puts the questions x to the memory.

        Returns:
            What they have become (Q, D); layers (S, D) and weight (S,) of what is remembered;
            and p of every hop that reads values (Q, S).
        """
        written, weight = state.written, state.weight
        if self.time is not None:
            written, weight = self.time(written, weight)
        layers = list(written.unbind(1))
        question, read = self.embed(x)[:, 0], list[Tensor]()
        for keys, values in pairwise(layers):
            score = self.similarity(question, keys)
            read.append(score * weight if linear else attention(score, weight))
            question = question + read[-1] @ values
        return question, layers, weight, read

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Of every hop: the memory that each support example becomes, then those that each
        query reads (S + Q, S)."""
        state = self.adapt(task.support)
        question, layers, weight, read = self.ask(state, task.query.x)
        if self.answer is None:
            read.append(attention(self.similarity(question, layers[-1]), weight))
        own = torch.eye(len(weight)).to(question)
        return {f"hop {k}": torch.cat([own, p]) for k, p in enumerate(read, 1)}


class BagsOfWords(nn.Module):
    r"""Sentences as sums of their words' vectors, each multiplied by its place in the sentence
    (section 4.1, "position encoding"): entry k of D, at word j of J, by

    $$l_{kj} = (1 - j / J) - (k / D) (1 - 2 j / J)$$

    Args:
        words: how many there are, word 0 being none: it fills up shorter sentences.
        layers: L, each with vectors of its own.
        width: D.
    """

    def __init__(self, words: int, layers: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(0.1 * torch.randn(words, layers, width))

    def forward(self, x: Tensor) -> Tensor:
        """Words (N, J), as whole numbers -> (N, L, D)."""
        vectors = self.vectors[x]  # (N, J, L, D)
        present = (x > 0).to(vectors)
        places = position_encoding(present, vectors.shape[-1])
        return torch.einsum("njd,njld->nld", places, vectors)


def position_encoding(present: Tensor, width: int) -> Tensor:
    """l of sentences whose words are `present` (N, J), 1 or 0, without gaps: (N, J, width);
    zeros where no word is."""
    of = present.sum(-1, keepdim=True).clamp_min(1)
    j = (present.cumsum(-1) / of)[..., None]  # as a share of the sentence
    k = torch.arange(1, width + 1).to(present) / width
    return ((1 - j) - k * (1 - 2 * j)) * present[..., None]


class TemporalEncoding(nn.Module):
    """Adds to a memory a learned vector that says how many came after it (section 4.1).

    Args:
        layers: L.
        width: D.
        latest: how many are remembered.
    """

    def __init__(self, layers: int, width: int, latest: int = 50):
        super().__init__()
        self.ages = nn.Parameter(torch.zeros(latest, layers, width))

    def forward(self, written: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(S, L, D), (S,) -> (S, L, D), (S,), with weight 0 for what is forgotten."""
        since = (weight > 0).flip(0).cumsum(0).flip(0) - 1
        latest = len(self.ages)
        age = since.clamp(0, latest - 1)
        return written + self.ages[age], weight * (since < latest)


class LastWords(nn.Module):
    """The answer: which word's vectors, in the last layer, a question has become."""

    def __init__(self, bags: BagsOfWords):
        super().__init__()
        self.bags = bags

    def forward(self, question: Tensor) -> Tensor:
        """(Q, D) -> (Q, words)."""
        return question @ self.bags.vectors[:, -1].T


def attention(score: Tensor, weight: Tensor) -> Tensor:
    """Softmax of scores (Q, S), of which each counts `weight` (S,) times; zeros where there is
    nothing but padding."""
    present = weight > 0
    score = score + torch.where(present, weight, 1).log()
    lowest = torch.finfo(score.dtype).min  # a softmax of nothing but -inf is NaN
    return score.masked_fill(~present, lowest).softmax(-1) * present


def story_memory_network(
    words: int, *, width: int = 20, hops: int = 3, latest: int = 50, linear_until: int = 0
) -> MemoryNetwork:
    """The paper's model, for tasks such as `Stories`.

    Args:
        words: of the vocabulary; sentences are rows of numbers below it, ended by zeros.
        width: of all vectors.
        hops: how often a question is put to the memory.
        latest: how many sentences are remembered.
        linear_until: meta-steps of linear start; some hundreds help to learn several hops.
    """
    bags = BagsOfWords(words, hops + 1, width)
    time = TemporalEncoding(hops + 1, width, latest)
    return MemoryNetwork(bags, LastWords(bags), time=time, linear_until=linear_until)


def few_shot_memory_network(embed: nn.Module, width: int, *, hops: int = 3) -> MemoryNetwork:
    """A memory of labelled examples: a matching network that asks `hops` times.

    Each layer is a linear one of the same embedding; similarities are cosines times a learned
    factor, from 10.

    Args:
        embed: (N, *features) -> (N, width).
        width: of all vectors.
        hops: how often a query is put to the memory; the last time it reads labels.
    """
    layers = nn.Linear(width, hops * width), nn.Unflatten(-1, (hops, width))
    return MemoryNetwork(nn.Sequential(embed, *layers), similarity=ScaledSimilarity())
