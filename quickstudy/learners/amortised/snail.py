r"""SNAIL, the simple neural attentive learner (Mishra, Rohaninejad, Chen & Abbeel, 2018,
arXiv:1707.03141).

A task is a sequence of embeddings with their labels, followed by a query without a label. A
causal net predicts the label of the query. Two kinds of layers alternate and append to their
inputs:
temporal convolutions of dilation d = 1, 2, 4 ... up to the length of the sequence, and
attention (section 3):

$$x_t \leftarrow [x_t, \; \tanh(W_f [x_{t-d}, x_t]) \odot \sigma(W_g [x_{t-d}, x_t])], \qquad
  x_t \leftarrow \Big[x_t, \; \sum_{s \le t} \mathrm{softmax}_s \Big(
  \tfrac{q(x_t)^\top k(x_s)}{\sqrt{K}} \Big) \, v(x_s) \Big]$$

Differs from the paper: its listing of the dilations starts at 2, so convolutions would miss
examples at an odd distance; here it starts at 1. A sequence has one query in the paper; here
all queries run at once and do not see each other, which gives the same predictions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append
from quickstudy.learner import Learner
from quickstudy.nets.temporal import Block, snail_layers

BLOCKS: tuple[Block, ...] = ((64, 32), 128, (256, 128), 128, (512, 256))


class SNAIL(Learner[Examples], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D), and a causal net.

    The order of examples and of classes matters.

    Args:
        embed: the embedding.
        width: D.
        ways: C, of every task.
        length: T, of the longest sequence: a support set and one query. Convolutions reach back
            this many steps, attention any number.
        blocks: of the net, in order. A pair is attention with widths of keys and values; a
            number is the filters of a block of temporal convolutions. The default is the
            paper's.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.SNAIL(torch.nn.Identity(), 1, 2, length=5, blocks=[(8, 4), 8])
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
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
        self.layers, inputs = snail_layers(width + ways, blocks, length)
        self.head = nn.Linear(inputs, ways)

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """Embed the examples and append them to those of `state`.

        Raises:
            ValueError: the labels have more columns than `ways`.
        """
        return append(state, self.embedded(support, self.embed(support.x)))

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Return logits (Q, C) of each query as the next example."""
        return self.logits(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the criterion on the query set; batch norm takes the whole task as a batch."""
        support, query = task
        x = self.embed(torch.cat([support.x, query.x]))
        state = self.embedded(support, x[: len(support.x)])
        return self.criterion(self.logits(state, x[len(support.x) :]), query)

    def embedded(self, examples: Examples, x: Tensor) -> Examples:
        """Replace inputs by embeddings x (N, D), and pad labels to `ways` columns."""
        missing = self.ways - examples.y.shape[-1]
        if missing < 0:
            raise ValueError(
                f"The tasks have {examples.y.shape[-1]} ways and the learner has {self.ways}: "
                "give SNAIL as many as the tasks."
            )
        return examples._replace(x=x, y=F.pad(examples.y, (0, missing)))

    def logits(self, state: Examples, queries: Tensor) -> Tensor:
        """Return logits (Q, C) of embedded queries (Q, D)."""
        labels = torch.cat([state.y, state.y.new_zeros(len(queries), self.ways)])
        hidden = torch.cat([torch.cat([state.x, queries]), labels], -1)
        ago = steps_ago(state.weight, len(queries))
        for layer in self.layers:
            hidden = layer(hidden, ago)
        return self.head(hidden[len(state.x) :])


def steps_ago(weight: Tensor, queries: int) -> Tensor:
    """Return how many steps before each example and each query an example came: (S + Q, S).

    It is 0 or negative for the example itself, for later ones and for padding. Padding takes no
    step.

    Examples:
        >>> import torch
        >>> steps_ago(torch.tensor([1.0, 0.0, 1.0]), queries=1)
        tensor([[ 0,  0, -1],
                [ 0,  0, -1],
                [ 1,  0,  0],
                [ 2,  0,  1]])
    """
    is_real = weight > 0
    step = is_real.cumsum(0)  # (S,)
    end = is_real.sum(0, keepdim=True).expand(queries) + 1
    return torch.where(is_real, torch.cat([step, end])[:, None] - step, 0)
