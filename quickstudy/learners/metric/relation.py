r"""Relation networks (Sung, Yang, Zhang, Xiang, Torr & Hospedales, 2018, arXiv:1711.06025).

The metric is learned too. A class is represented by the sum of its examples' feature maps. A
relation module g maps this sum and a query's feature map, concatenated, to the probability that
they belong together (eq. 1):

$$r_{qc} = \sigma\big(g([\,\textstyle\sum_{i \in S_c} f(x_i),\, f(x_q)\,])\big) \in (0, 1)$$

The loss is the squared error against 1 for the query's class and 0 for all others (eq. 2).

Differs from the paper: nothing. Predictions are log r, so their softmax is r divided by its sum
over classes. The relation networks of Santoro et al. (2017) are `RelationReasoning`.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import squared_error
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import merge
from quickstudy.learner import Learner


class RelationState(NamedTuple):
    """Sums and sizes of classes; more examples can be added.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> learner = qs.RelationNetwork(torch.nn.Identity(), torch.nn.Linear(4, 1))
        >>> learner.adapt(support).sums.shape, learner.adapt(support).sizes
        (torch.Size([2, 2]), tensor([1., 1.]))
    """

    sums: Tensor  # (C, D, ...)  of the feature maps of each class
    sizes: Tensor  # (C,)  number of examples of each class


class RelationNetwork(Learner[RelationState], Embeds):
    """Learns an embedding and how to compare embeddings.

    Args:
        embed: (N, *features) -> (N, D, ...), feature maps or vectors; the paper's net is
            `relation_embedding()`.
        relate: pairs (M, 2 D, ...) of a class and a query -> (M, 1), the log-odds of r, before
            the sigmoid; the paper's net is `relation_module()`. If it is a `Sequential` that
            begins with a convolution, this runs once per map instead of once per pair, with
            the same result.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.RelationNetwork(torch.nn.Linear(1, 4), torch.nn.Linear(8, 1))
        >>> learner.predict(learner.adapt(support), x).exp().shape
        torch.Size([4, 2])
    """

    class_axes = {"sums": 0, "sizes": 0}

    def __init__(self, embed: nn.Module, relate: nn.Module):
        super().__init__()
        self.embed, self.relate = embed, relate

    def adapt(self, support: Examples, state: RelationState | None = None) -> RelationState:
        """Add the feature maps of each class to the sums of `state`."""
        member = support.y * support.weight[:, None]  # (S, C)
        sums = torch.einsum("sc,s...->c...", member, self.embed(support.x))
        return merge(torch.add, state, RelationState(sums, member.sum(0)))

    def predict(self, state: RelationState, x: Tensor) -> Tensor:
        """Return log r (Q, C); -inf for a class without examples."""
        return F.logsigmoid(self._odds(state, x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the squared error of r, summed over classes."""
        r = self._odds(self.adapt(task.support), task.query.x).sigmoid()
        return squared_error(r, task.query)

    def _odds(self, state: RelationState, x: Tensor) -> Tensor:
        """Return the log-odds of r (Q, C), for all pairs at once."""
        odds = _relate_pairs(self.relate, state.sums, self.embed(x))
        odds = odds.view(len(x), len(state.sums))
        # the sigmoid needs full precision
        return odds.to(x.dtype).masked_fill(state.sizes == 0, -torch.inf)


def _relate_pairs(net: nn.Module, classes: Tensor, queries: Tensor) -> Tensor:
    """Apply `net` to every pair of a class (C, D, ...) and a query (Q, D, ...): (Q * C, 1)."""
    first = net[0] if isinstance(net, nn.Sequential) else None
    if type(first) is nn.Conv2d and first.groups == 1:
        # a convolution is linear: convolve each map once and add, instead of once per pair
        a, b = first.weight.chunk(2, 1)
        of_classes = first._conv_forward(classes, a, first.bias)
        pairs = of_classes + first._conv_forward(queries, b, None)[:, None]
        return cast(nn.Sequential, net)[1:](pairs.flatten(0, 1))
    shape = len(queries), len(classes), *queries.shape[1:]
    pairs = torch.cat([classes.expand(shape), queries[:, None].expand(shape)], 2)
    return net(pairs.flatten(0, 1))


def relation_embedding(channels: int = 64, *, inputs: int = 1) -> nn.Sequential:
    """Return the paper's embedding: four blocks of 3x3 convolution.

    Two blocks are unpadded and followed by pooling. (N, inputs, height, width) ->
    (N, channels, h, w); 28 x 28 pixels become 5 x 5.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.metric import relation_embedding
        >>> relation_embedding(4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 4, 5, 5])
    """
    return nn.Sequential(
        *_block(inputs, channels, padding=0, halve=True),
        *_block(channels, channels, padding=0, halve=True),
        *_block(channels, channels, padding=1, halve=False),
        *_block(channels, channels, padding=1, halve=False),
    )


def relation_module(channels: int = 64, *, size: int = 5, hidden: int = 8) -> nn.Sequential:
    """Return the paper's relation module: two blocks of 3x3 convolution with pooling, then two
    linear layers. (M, 2 * channels, size, size) -> (M, 1).

    Args:
        channels: of a feature map.
        size: height and width of a feature map, at least 4.
        hidden: width between the linear layers.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.metric import relation_module
        >>> relation_module(4, size=5)(torch.zeros(6, 8, 5, 5)).shape
        torch.Size([6, 1])
    """
    return nn.Sequential(
        *_block(2 * channels, channels, padding=1, halve=True),
        *_block(channels, channels, padding=1, halve=True),
        nn.Flatten(),
        nn.Linear(channels * (size // 4) ** 2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 1),
    )


def _block(inputs: int, outputs: int, *, padding: int, halve: bool) -> list[nn.Module]:
    convolve = nn.Conv2d(inputs, outputs, 3, padding=padding)
    pool = [nn.MaxPool2d(2)] * halve  # before the ReLU: the same function, of fewer numbers
    return [convolve, nn.BatchNorm2d(outputs), *pool, nn.ReLU()]
