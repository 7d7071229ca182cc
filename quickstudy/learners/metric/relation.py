r"""Relation networks (Sung, Yang, Zhang, Xiang, Torr & Hospedales, 2018, arXiv:1711.06025).

The metric is learned too. A class is the sum of its examples' feature maps; a relation module g
looks at that sum and a query's feature map, side by side, and says how much they belong
together (eq. 1):

$$r_{qc} = \sigma\big(g([\,\textstyle\sum_{i \in S_c} f(x_i),\, f(x_q)\,])\big) \in (0, 1)$$

The loss is the squared error against 1 for the query's class and 0 for all others (eq. 2).

Differs from the paper: in nothing. Predictions are log r, so that their softmax is r divided by
its sum over classes. Not to be confused with the relation networks of Santoro et al. (2017).
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import squared_error
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner


class ClassMaps(NamedTuple):
    """What is known of the classes; more examples can be added later."""

    sums: Tensor  # (C, D, ...)  of the feature maps of each class
    sizes: Tensor  # (C,)  how many there were


class RelationNetwork(Learner[ClassMaps], Embeds):
    """Learns an embedding and how to compare what it gives.

    Args:
        embed: (N, *features) -> (N, D, ...), feature maps or vectors; the paper's net is
            `relation_embedding()`.
        relate: pairs (M, 2 D, ...), first the class and then the query, -> (M, 1), the
            log-odds of r, to which the learner applies the sigmoid; the paper's net is
            `relation_module()`. Where it is a `Sequential` that begins with a convolution,
            that is done once for each map, which is the same.
    """

    class_axes = {"sums": 0, "sizes": 0}

    def __init__(self, embed: nn.Module, relate: nn.Module):
        super().__init__()
        self.embed, self.relate = embed, relate

    def adapt(self, support: Examples, state: ClassMaps | None = None) -> ClassMaps:
        """The sum of the feature maps of each class, on top of what `state` has."""
        member = support.y * support.weight[:, None]  # (S, C)
        sums = torch.einsum("sc,s...->c...", member, self.embed(support.x))
        new = ClassMaps(sums, member.sum(0))
        return new if state is None else ClassMaps(*map(torch.add, state, new))

    def predict(self, state: ClassMaps, x: Tensor) -> Tensor:
        """log r (Q, C); -inf for a class of which no example was seen."""
        return F.logsigmoid(self._odds(state, x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """The squared error of r, summed over classes."""
        r = self._odds(self.adapt(task.support), task.query.x).sigmoid()
        return squared_error(r, task.query)

    def _odds(self, state: ClassMaps, x: Tensor) -> Tensor:
        """The log-odds of r (Q, C), of all pairs at once."""
        odds = _related(self.relate, state.sums, self.embed(x))
        odds = odds.view(len(x), len(state.sums))
        # a sigmoid wants all the digits that there are
        return odds.to(x.dtype).masked_fill(state.sizes == 0, -torch.inf)


def _related(net: nn.Module, classes: Tensor, queries: Tensor) -> Tensor:
    """`net` of every query (Q, D, ...) beside every class (C, D, ...): (Q * C, 1)."""
    first = net[0] if isinstance(net, nn.Sequential) else None
    if type(first) is nn.Conv2d and first.groups == 1:
        # of a pair it makes the sum of what its halves make of each: so once a map, not a pair
        a, b = first.weight.chunk(2, 1)
        of_classes = first._conv_forward(classes, a, first.bias)
        pairs = of_classes + first._conv_forward(queries, b, None)[:, None]
        return cast(nn.Sequential, net)[1:](pairs.flatten(0, 1))
    shape = len(queries), len(classes), *queries.shape[1:]
    pairs = torch.cat([classes.expand(shape), queries[:, None].expand(shape)], 2)
    return net(pairs.flatten(0, 1))


def relation_embedding(channels: int = 64, *, inputs: int = 1) -> nn.Sequential:
    """The paper's embedding: four blocks of 3x3 convolution, of which two are unpadded and
    halve. (N, inputs, height, width) -> (N, channels, h, w); 28 x 28 pixels become 5 x 5."""
    return nn.Sequential(
        *_block(inputs, channels, padding=0, halve=True),
        *_block(channels, channels, padding=0, halve=True),
        *_block(channels, channels, padding=1, halve=False),
        *_block(channels, channels, padding=1, halve=False),
    )


def relation_module(channels: int = 64, *, size: int = 5, hidden: int = 8) -> nn.Sequential:
    """The paper's relation module: two blocks of 3x3 convolution that halve, then two linear
    layers. (M, 2 * channels, size, size) -> (M, 1).

    Args:
        size: height and width of a feature map, 4 at least.
        hidden: width between the linear layers.
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
