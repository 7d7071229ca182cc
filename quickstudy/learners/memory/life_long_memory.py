r"""The life-long memory module (Kaiser, Nachum, Roy & Bengio, 2017, arXiv:1703.03129).

A memory has keys K of unit length, their values V, and their ages A. A query q with the label v
is looked up and then written. With the nearest key n and the oldest key o (section 2):

$$K_n \leftarrow \frac{q + K_n}{\lVert q + K_n \rVert}, \; A_n \leftarrow 0 \;
  \text{ if } V_n = v; \qquad
  K_o \leftarrow q, \; V_o \leftarrow v, \; A_o \leftarrow 0 \; \text{ if not}$$

All other ages increase by 1. The memory loss makes the nearest key with the right value, p,
more similar to q than the nearest key with another value, b, by a margin:

$$L(q, v) = \max(0, \; q^\top K_b - q^\top K_p + \alpha)$$

No gradient flows through stored keys. The support set and then the query set of a task form a
sequence, and the loss is the mean over it.

Differs from the paper: ages have no noise; it only keeps parallel workers apart. Every task has
its own memory of 256 slots; the authors' code shares 8,192 slots in a batch and empties them
after it. The paper restricts the lookup to the 256 nearest slots. The paper predicts the value
of the nearest key, with its softmax as confidence; here all keys vote with theirs. As in the
authors' code, the similarity to a value that is not in the memory is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds, HasAttentionWeights, HasMemorySize
from quickstudy.core.attention import attention, log_votes
from quickstudy.core.criteria import weighted_mean
from quickstudy.core.similarity import unit
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import fold, scan, tree_map
from quickstudy.learner import Learner


class LifeLongMemoryState(NamedTuple):
    """Keys, values and ages of the slots; an empty slot has zeros and an age.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.LifeLongMemory(torch.nn.Identity(), memory_size=8).adapt(support)
        >>> state.keys.shape, state.values.shape, state.ages.shape
        (torch.Size([8, 2]), torch.Size([8, 2]), torch.Size([8]))
    """

    keys: Tensor  # (M, D)  of unit length
    values: Tensor  # (M, C)
    ages: Tensor  # (M,)  steps since the slot was written


class LifeLongMemory(Learner[LifeLongMemoryState], Embeds, HasAttentionWeights, HasMemorySize):
    """Learns the embedding `embed`: (N, *features) -> (N, D), whose outputs query a memory.

    The order of examples matters: they are written one by one.

    Args:
        embed: the embedding.
        memory_size: M, number of slots; with one for each example, nothing is forgotten.
        margin: α.
        scale: t in the paper, the factor of the cosines in the softmax.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2)
        >>> learner = qs.LifeLongMemory(torch.nn.Identity(), memory_size=8)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> learner.predict(state, torch.tensor([[3.0, 1.0], [1.0, 3.0]])).argmax(-1)
        tensor([0, 1])
    """

    class_axes = {"values": 1}

    def __init__(
        self,
        embed: nn.Module,
        *,
        memory_size: int = 256,
        margin: float = 0.1,
        scale: float = 40.0,
    ):
        super().__init__()
        self.embed, self.memory_size, self.margin, self.scale = (
            embed,
            memory_size,
            margin,
            scale,
        )

    def adapt(
        self, support: Examples, state: LifeLongMemoryState | None = None
    ) -> LifeLongMemoryState:
        """Write all examples to the memory, in order."""
        queries = self.queries(support.x).detach()
        memory = self._empty(queries, support) if state is None else state
        return fold(write, memory, queries, support.y, weight=support.weight)

    def predict(self, state: LifeLongMemoryState, x: Tensor) -> Tensor:
        """Return logits (Q, C): log of the share of each class in the softmax over keys.

        -inf for a class that is not in the memory.
        """
        return log_votes(self.scale * self.queries(x) @ state.keys.mT, state.values)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the mean memory loss of all examples, each before it is written."""
        support, query = task
        sequence = Examples.cat(support, query)
        queries = self.queries(sequence.x)
        before = self.memories(queries, sequence)[:-1]
        memories = tree_map(lambda *parts: torch.stack(parts), *before)
        losses = memory_loss(memories, queries, sequence.y, margin=self.margin)
        return weighted_mean(losses, sequence.weight)

    def queries(self, x: Tensor) -> Tensor:
        """Embed inputs to unit length: (N, *features) -> (N, D)."""
        return unit(self.embed(x))

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Return the weights over slots of reading and writing (S + Q, M).

        Support examples read before they are written; queries read the final memory.
        """
        (support, query), read = task, list[Tensor]()
        support_queries, queries = self.queries(support.x), self.queries(query.x)
        memories = self.memories(support_queries, support)
        for q, memory in zip([*support_queries[:, None], queries], memories, strict=True):
            is_written = (memory.values > 0).any(-1)
            read.append(attention(self.scale * q @ memory.keys.mT, is_written.to(q)))
        ages = torch.stack([memory.ages for memory in memories[1:]])
        written = (ages == 0) & (support.weight > 0)[:, None]
        zeros = written.new_zeros(len(queries), self.memory_size)
        return {
            "read head": torch.cat(read),
            "write head": torch.cat([written, zeros]).to(queries),
        }

    def memories(
        self, queries: Tensor, examples: Examples, memory: LifeLongMemoryState | None = None
    ) -> list[LifeLongMemoryState]:
        """Return the N + 1 memories before, between and after the N examples are written."""
        memory = self._empty(queries, examples) if memory is None else memory
        return scan(write, memory, queries.detach(), examples.y, weight=examples.weight)

    def _empty(self, queries: Tensor, examples: Examples) -> LifeLongMemoryState:
        size = self.memory_size
        keys = queries.new_zeros(size, queries.shape[-1])
        values = examples.y.new_zeros(size, examples.y.shape[-1])
        return LifeLongMemoryState(keys, values, queries.new_zeros(size))


def write(memory: LifeLongMemoryState, query: Tensor, value: Tensor) -> LifeLongMemoryState:
    """Write a query (D,) of unit length with the value (C,) to the memory.

    Ties for the nearest or oldest slot go to the first one.

    Examples:
        >>> import torch
        >>> empty = LifeLongMemoryState(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2))
        >>> write(empty, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
        LifeLongMemoryState(keys=tensor([[0., 1.],
                [0., 0.]]), values=tensor([[0., 0., 1.],
                [0., 0., 0.]]), ages=tensor([0., 1.]))
    """
    keys, values, ages = memory
    slot = torch.arange(len(ages), device=ages.device)
    similarity = (keys @ query).masked_fill(~(values > 0).any(-1), -torch.inf)
    nearest = slot == similarity.argmax()
    is_right = nearest.to(values) @ values @ value > 0.5
    written = torch.where(is_right, nearest, slot == ages.argmax())
    key = F.normalize(query + is_right * (nearest.to(keys) @ keys), dim=-1)
    return LifeLongMemoryState(
        torch.where(written[:, None], key, keys),
        torch.where(written[:, None], value, values),
        torch.where(written, 0, ages + 1),
    )


def memory_loss(
    memory: LifeLongMemoryState, query: Tensor, value: Tensor, *, margin: float = 0.1
) -> Tensor:
    """Return the memory loss (...) of queries (..., D) of unit length, each with its memory.

    Args:
        memory: of each query.
        query: of unit length.
        value: the target values (..., C), one-hot.
        margin: α.

    Examples:
        >>> import torch
        >>> memory = LifeLongMemoryState(torch.eye(2), torch.eye(2), torch.zeros(2))
        >>> memory_loss(memory, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.1000)
    """
    similarity = (memory.keys @ query[..., None]).squeeze(-1)  # (..., M)
    same = (memory.values @ value[..., None]).squeeze(-1) > 0.5
    other = (memory.values > 0).any(-1) & ~same
    return (largest(similarity, other) - largest(similarity, same) + margin).relu()


def largest(similarity: Tensor, among: Tensor) -> Tensor:
    """Return the largest similarity (...) of the slots (..., M) that are `among` these, or 0.

    Examples:
        >>> import torch
        >>> largest(torch.tensor([0.5, 0.9]), torch.tensor([True, False]))
        tensor(0.5000)
    """
    maximum = similarity.masked_fill(~among, -torch.inf).amax(-1)
    return torch.where(among.any(-1), maximum, 0)
