r"""SNAIL, the simple neural attentive learner (Mishra, Rohaninejad, Chen & Abbeel, 2018,
arXiv:1707.03141).

The examples of a task are a sequence of embeddings beside their labels, a query without a label
is its end, and a causal net says there which label is missing. Two kinds of layers take turns,
each adding to what there is: temporal convolutions of dilation d = 1, 2, 4 ... up to the length
of the sequence, and attention (section 3):

$$x_t \leftarrow [x_t, \; \tanh(W_f [x_{t-d}, x_t]) \odot \sigma(W_g [x_{t-d}, x_t])], \qquad
  x_t \leftarrow \Big[x_t, \; \sum_{s \le t} \mathrm{softmax}_s \Big(
  \tfrac{q(x_t)^\top k(x_s)}{\sqrt{K}} \Big) \, v(x_s) \Big]$$

Differs from the paper: its listing of the dilations begins at 2, so that convolutions would not
see examples at an odd distance; here it is 1. A sequence has one query in the paper; here all
queries are asked at once, none of them seen by another, which gives each the same answer.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner

Block: TypeAlias = int | tuple[int, int]

BLOCKS: tuple[Block, ...] = ((64, 32), 128, (256, 128), 128, (512, 256))


class SNAIL(Learner[Examples], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D), and a causal net.

    The order of examples and of classes matters.

    Args:
        width: D.
        ways: C, of every task.
        length: T, of the longest sequence, which is a support set and one query. Convolutions
            reach back over so many steps, attention over any number.
        blocks: the net, in order; a pair is attention, with the widths of keys and values, and
            a number the filters of a block of temporal convolutions. The default is the
            paper's; without pairs there is no attention.
    """

    def __init__(
        self,
        embed: nn.Module,
        width: int,
        ways: int,
        *,
        length: int,
        blocks: Sequence[Block] = BLOCKS,
    ):
        super().__init__()
        self.embed, self.ways, self.outputs = embed, ways, ways
        depth = math.ceil(math.log2(max(length, 2)))
        inputs = width + ways
        layers: list[nn.Module] = []
        for block in blocks:
            if isinstance(block, int):
                for i in range(depth):
                    layers.append(TemporalConvolution(inputs, block, dilation=2**i))
                    inputs += block
            else:
                layers.append(CausalAttention(inputs, *block))
                inputs += block[1]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(inputs, ways)

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """The embedded examples, after those that `state` has.

        Raises:
            ValueError: the labels have more columns than `ways`.
        """
        new = self.embedded(support, self.embed(support.x))
        return new if state is None else Examples.cat(state, new)

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Logits (Q, C): what is said of each query, were it the next example."""
        return self.say(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Of the queries; a net that normalises by batches does so by the task as a whole."""
        support, query = task
        x = self.embed(torch.cat([support.x, query.x]))
        state = self.embedded(support, x[: len(support.x)])
        return self.criterion(self.say(state, x[len(support.x) :]), query)

    def embedded(self, examples: Examples, x: Tensor) -> Examples:
        """Examples with embeddings x (N, D) in their place, and labels of `ways` columns."""
        missing = self.ways - examples.y.shape[-1]
        if missing < 0:
            raise ValueError(
                f"The tasks have {examples.y.shape[-1]} ways and the learner has {self.ways}: "
                "give SNAIL as many as the tasks."
            )
        return examples._replace(x=x, y=F.pad(examples.y, (0, missing)))

    def say(self, state: Examples, queries: Tensor) -> Tensor:
        """Logits (Q, C) of embedded queries (Q, D)."""
        untold = state.y.new_zeros(len(queries), self.ways)
        labels = torch.cat([state.y, untold])
        stream = torch.cat([torch.cat([state.x, queries]), labels], -1)
        ago = steps_ago(state.weight, len(queries))
        for layer in self.layers:
            stream = layer(stream, ago)
        return self.head(stream[len(state.x) :])


def steps_ago(weight: Tensor, queries: int) -> Tensor:
    """How many steps before each example and each query an example came: (S + Q, S); not
    positive for what came later or at once, and for padding. Padding takes no step."""
    real = weight > 0
    step = real.cumsum(0)  # (S,)
    end = real.sum(0, keepdim=True).expand(queries) + 1
    return torch.where(real, torch.cat([step, end])[:, None] - step, 0)


class TemporalConvolution(nn.Module):
    """A convolution of kernel 2 over past and present, gated, beside its input: `DenseBlock` of
    the paper."""

    def __init__(self, inputs: int, filters: int, *, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.now = nn.Linear(inputs, 2 * filters)
        self.then = nn.Linear(inputs, 2 * filters, bias=False)

    def forward(self, x: Tensor, ago: Tensor) -> Tensor:
        """(S + Q, inputs), (S + Q, S) -> (S + Q, inputs + filters)."""
        return self.beside(x, (ago == self.dilation).to(x) @ x[: ago.shape[-1]])

    def beside(self, x: Tensor, then: Tensor) -> Tensor:
        """What it says of rows (N, inputs) and those that it looks back at, which are zero
        before the first, beside the rows: (N, inputs + filters)."""
        signal, gate = (self.now(x) + self.then(then)).chunk(2, -1)
        return torch.cat([x, signal.tanh() * gate.sigmoid()], -1)


class CausalAttention(nn.Module):
    """Attention to the past and to itself, beside its input: `AttentionBlock` of the paper."""

    def __init__(self, inputs: int, keys: int, values: int):
        super().__init__()
        self.query, self.key = nn.Linear(inputs, keys), nn.Linear(inputs, keys)
        self.value = nn.Linear(inputs, values)

    def forward(self, x: Tensor, ago: Tensor) -> Tensor:
        """(S + Q, inputs), (S + Q, S) -> (S + Q, inputs + values)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        past = ago.shape[-1]
        score = (query @ key[:past].mT).masked_fill(ago < 1, -torch.inf)
        own = (query * key).sum(-1, keepdim=True)
        share = (torch.cat([score, own], -1) / math.sqrt(key.shape[-1])).softmax(-1)
        read = share[:, :past] @ value[:past] + share[:, past:] * value
        return torch.cat([x, read], -1)
