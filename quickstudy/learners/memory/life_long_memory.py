r"""The life-long memory module (Kaiser, Nachum, Roy & Bengio, 2017, arXiv:1703.03129).

A memory has keys K of unit length, their values V, and their ages A. A query q with the label v
is asked, and then written. With n the nearest key, and o the oldest (section 2):

$$K_n \leftarrow \frac{q + K_n}{\lVert q + K_n \rVert}, \; A_n \leftarrow 0 \;
  \text{ if } V_n = v; \qquad
  K_o \leftarrow q, \; V_o \leftarrow v, \; A_o \leftarrow 0 \; \text{ if not}$$

and everything else is a step older. Learning makes the nearest key of the right value, p, more
similar to q than the nearest of another value, b, by a margin (the memory loss):

$$L(q, v) = \max(0, \; q^\top K_b - q^\top K_p + \alpha)$$

Keys are what was written, and no gradient goes through them. Of a task the support set and then
the query set are a sequence, and the loss is the mean over it.

Differs from the paper: ages have no noise, which only serves to keep parallel workers apart.
Every task has its own memory, of 256 slots, where the authors' code has one of 8,192 for a
batch, emptied after each; the paper looks at the 256 nearest slots. It answers by the value of
the nearest key and gives its softmax as a strength; here all keys vote by theirs. As in the
authors' code, a similarity to what the memory does not have counts as 0.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds, HasAttentionWeights, HasMemorySize
from quickstudy.core.functional import tree_map, weighted_mean
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.learners.memory.memory_network import attention
from quickstudy.learners.metric.matching import log_votes


class Memory(NamedTuple):
    """What was written; in a slot that is empty all is zero but the age."""

    keys: Tensor  # (M, D)  of unit length
    values: Tensor  # (M, C)
    ages: Tensor  # (M,)  steps since a slot was written


class LifeLongMemory(Learner[Memory], Embeds, HasAttentionWeights, HasMemorySize):
    """Learns the embedding `embed`: (N, *features) -> (N, D), by which a memory is asked.

    The order of examples matters: the memory is written one by one.

    Args:
        slots: M; with at least as many as examples, nothing is forgotten.
        margin: α.
        scale: t of the paper, by which cosines are multiplied before the softmax.
    """

    class_axes = {"values": 1}

    def __init__(
        self,
        embed: nn.Module,
        *,
        slots: int = 256,
        margin: float = 0.1,
        scale: float = 40.0,
    ):
        super().__init__()
        self.embed, self.memory_size, self.margin, self.scale = embed, slots, margin, scale

    def adapt(self, support: Examples, state: Memory | None = None) -> Memory:
        """The memory after all examples were written to it, in order."""
        return self.memories(self.ask(support.x), support, state)[-1]

    def predict(self, state: Memory, x: Tensor) -> Tensor:
        """Logits (Q, C), whose softmax is the share of each class in the softmax over keys;
        -inf for a class that is not in the memory."""
        return log_votes(self.scale * self.ask(x) @ state.keys.mT, state.values)

    def loss(self, task: Task[Examples]) -> Tensor:
        """The memory loss, of each example before it is written; those of the support set come
        first."""
        support, query = task
        sequence = Examples.cat(support, query)
        queries = self.ask(sequence.x)
        before = self.memories(queries, sequence)[:-1]
        memories = tree_map(lambda *parts: torch.stack(parts), *before)
        losses = memory_loss(memories, queries, sequence.y, margin=self.margin)
        return weighted_mean(losses, sequence.weight)

    def ask(self, x: Tensor) -> Tensor:
        """(N, *features) -> (N, D), of unit length."""
        return F.normalize(self.embed(x), dim=-1)

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """How much of each slot each example of the support set, before it is written, and then
        each query reads; and the slot that each example is written to (S + Q, M)."""
        (support, query), read = task, list[Tensor]()
        told, asked = self.ask(support.x), self.ask(query.x)
        memories = self.memories(told, support)
        for queries, memory in zip([*told[:, None], asked], memories, strict=True):
            there = (memory.values > 0).any(-1)
            read.append(attention(self.scale * queries @ memory.keys.mT, there.to(queries)))
        ages = torch.stack([memory.ages for memory in memories[1:]])
        written = (ages == 0) & (support.weight > 0)[:, None]
        nothing = written.new_zeros(len(asked), self.memory_size)
        return {
            "read head": torch.cat(read),
            "write head": torch.cat([written, nothing]).to(told),
        }

    def memories(
        self, queries: Tensor, examples: Examples, memory: Memory | None = None
    ) -> list[Memory]:
        """The N + 1 memories before, between and after N examples are written."""
        queries, y = queries.detach(), examples.y
        if memory is None:
            keys = queries.new_zeros(self.memory_size, queries.shape[-1])
            values = y.new_zeros(self.memory_size, y.shape[-1])
            memory = Memory(keys, values, queries.new_zeros(self.memory_size))
        found = [memory]
        for query, value, weight in zip(queries, y, examples.weight, strict=True):
            written = write(found[-1], query, value)
            found.append(tree_map(partial(torch.where, weight > 0), written, found[-1]))
        return found


def write(memory: Memory, query: Tensor, value: Tensor) -> Memory:
    """The memory after it was told that a query (D,) of unit length has the value (C,).

    Of equals the first slot is the nearest, or the oldest.
    """
    keys, values, ages = memory
    slot = torch.arange(len(ages), device=ages.device)
    similarity = (keys @ query).masked_fill(~(values > 0).any(-1), -torch.inf)
    nearest = slot == similarity.argmax()
    right = nearest.to(values) @ values @ value > 0.5
    place = torch.where(right, nearest, slot == ages.argmax())
    key = F.normalize(query + right * (nearest.to(keys) @ keys), dim=-1)
    return Memory(
        torch.where(place[:, None], key, keys),
        torch.where(place[:, None], value, values),
        torch.where(place, 0, ages + 1),
    )


def memory_loss(memory: Memory, query: Tensor, value: Tensor, *, margin: float = 0.1) -> Tensor:
    """The loss (...) of queries (..., D) of unit length whose values should be (..., C), each
    asked of a memory of its own."""
    similarity = (memory.keys @ query[..., None]).squeeze(-1)  # (..., M)
    same = (memory.values @ value[..., None]).squeeze(-1) > 0.5
    other = (memory.values > 0).any(-1) & ~same
    return (largest(similarity, other) - largest(similarity, same) + margin).relu()


def largest(similarity: Tensor, among: Tensor) -> Tensor:
    """The largest (...) of those (..., M) that are `among` these; 0 where none is."""
    found = similarity.masked_fill(~among, -torch.inf).amax(-1)
    return torch.where(among.any(-1), found, 0)
