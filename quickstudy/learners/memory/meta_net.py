r"""Meta networks, MetaNet (Munkhdalai & Yu, 2017, arXiv:1703.00837).

Slow weights are learned over tasks; fast weights, for one task or even one query, are written
by learned functions of gradients. With W, Q the slow weights of the base learner b and of the
representation u (algorithm 1):

$$Q^* = d\big(\{\nabla_Q L^{emb}_i\}_i\big), \qquad W^*_i = m\big(\nabla_W L_i\big), \qquad
  r_i = u(Q, Q^*, x_i)$$

Each example of the support set leaves the key r_i and the value W*_i in a memory. A query x
reads fast weights of its own, $W^* = \sum_i \mathrm{softmax}_i(\cos(r_i, r)) \, W^*_i$ with
r = u(Q, Q*, x), and is answered by b(W, W*, x), where a layer is the sum of what slow and fast
weights make of its input, each with a nonlinearity of its own ("layer augmentation").

Differs from the paper: only fully connected layers have fast weights, one of u and two of b,
behind convolutions that have slow ones alone (the authors' code for Omniglot makes filters
fast, too); d goes through all examples of the support set, in order, instead of a sample; the
loss $L^{emb}$ is a classifier's also where there are pairs to contrast. As in the authors'
code, gradients are constants to the meta-gradient; so nothing teaches that classifier, and it
keeps its random weights.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from quickstudy.capabilities import HasAttentionWeights
from quickstudy.core.functional import Criterion, cross_entropy, tree_map
from quickstudy.core.similarity import Similarity, cosine_similarity
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.learners.memory.memory_network import attention
from quickstudy.nets.cells import LSTMCell

Layers = tuple[Tensor, Tensor]  # of b: (..., hidden, width) and (..., C, hidden)


class FastWeights(NamedTuple):
    """The memory, and with what its keys were made."""

    representation: Tensor  # (hidden, width)  Q*
    keys: Tensor  # (S, hidden)
    layers: Layers  # W*: (S, hidden, width), (S, C, hidden)
    weight: Tensor  # (S,)


class MetaNet(Learner[FastWeights], HasAttentionWeights):
    """Learns slow weights and how to write fast ones.

    Args:
        represent: the convolutions of u, (N, *features) -> (N, width).
        base: those of b, of these shapes, another net.
        width: what both give to the fully connected layers.
        outputs: C; the number of classes is fixed.
        hidden: width of representations and of the hidden layer of b.
        units: of the functions d and m, which are applied to each entry of a gradient.
        similarity: of representations (Q, hidden) and keys (S, hidden).
    """

    def __init__(
        self,
        represent: nn.Module,
        base: nn.Module,
        width: int,
        outputs: int,
        *,
        hidden: int = 64,
        units: int = 20,
        similarity: Similarity = cosine_similarity,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.represent, self.base, self.similarity = represent, base, similarity
        self.outputs = outputs
        linear = partial(nn.Linear, bias=False)
        self.key = linear(width, hidden)
        self.classify = linear(hidden, outputs).requires_grad_(False)
        self.first, self.second = linear(width, hidden), linear(hidden, outputs)
        self.d, self.d_output = LSTMCell(2, units), nn.Linear(units, 1)
        wide = nn.Linear(2, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()
        self.m = nn.Sequential(*wide, nn.Linear(units, 1))

    def adapt(self, support: Examples, state: FastWeights | None = None) -> FastWeights:
        """Writes the examples to memory, behind those of `state`, whose Q* is then kept."""
        seen, given = self.represent(support.x), self.base(support.x)
        if state is None:
            slopes = self.slopes(self.classified, self.key.weight, seen, support)
            representation = self.generated(slopes, support.weight)
        else:
            representation = state.representation
        slopes = self.slopes(self.answer, self.slow(), given, support)
        layers = tree_map(lambda slope: self.m(preprocessed(slope))[..., 0], slopes)
        new: Any = (self.keys(seen, representation), layers, support.weight)
        if state is not None:
            new = tree_map(lambda *parts: torch.cat(parts), state[1:], new)
        return FastWeights(representation, *new)

    def predict(self, state: FastWeights, x: Tensor) -> Tensor:
        """Predictions (Q, C), each with the fast weights that the query reads."""
        reads = self.reads(state, x)
        fast = tree_map(lambda each: torch.einsum("qs,soi->qoi", reads, each), state.layers)
        return self.answer(self.slow(), self.base(x), fast)

    def reads(self, state: FastWeights, x: Tensor) -> Tensor:
        """How much of each memory each query reads (Q, S)."""
        queries = self.keys(self.represent(x), state.representation)
        return attention(self.similarity(queries, state.keys), state.weight)

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """The memory that each support example becomes, then those that each query reads
        (S + Q, S)."""
        reads = self.reads(self.adapt(task.support), task.query.x)
        return {"memory": torch.cat([torch.eye(reads.shape[1]).to(reads), reads])}

    def answer(self, slow: Layers, given: Tensor, fast: Layers | None = None) -> Tensor:
        """The fully connected layers of b on (N, width): (N, C), with fast weights for each of
        the N, or none."""
        hidden = F.linear(given, slow[0]).relu()
        if fast is None:
            return F.linear(hidden, slow[1])
        hidden = hidden + torch.einsum("qoi,qi->qo", fast[0], given).relu()
        return F.linear(hidden, slow[1]) + torch.einsum("qoi,qi->qo", fast[1], hidden)

    def classified(self, key: Tensor, seen: Tensor) -> Tensor:
        """What the fixed classifier says of slow representations: (N, width) -> (N, C)."""
        return self.classify(F.linear(seen, key).relu())

    def keys(self, seen: Tensor, representation: Tensor) -> Tensor:
        """r: (N, width) -> (N, hidden)."""
        return self.key(seen) + F.linear(seen, representation)

    def slow(self) -> Layers:
        """W, of the layers that have fast weights too."""
        return self.first.weight, self.second.weight

    def slopes(
        self, net: Callable[..., Tensor], slow: Any, given: Tensor, examples: Examples
    ) -> Any:
        """The gradient of each example's own loss, constant: of the shapes of `slow`, behind an
        axis S. `net` is a function of such weights and of inputs, `given`."""

        def loss(slow: Any, given: Tensor, y: Tensor) -> Tensor:
            one = Examples(given[None], y[None], y.new_ones(1))
            return self.criterion(net(slow, given[None]), one)

        with torch.no_grad():
            return vmap(grad(loss), (None, 0, 0))(slow, given, examples.y)

    def generated(self, slopes: Tensor, weight: Tensor) -> Tensor:
        """d: Q* (hidden, width) of gradients (S, hidden, width), one after the other."""
        shape = slopes.shape[1:]
        state = tree_map(lambda part: part.expand(*shape, -1), self.d.start())
        for slope, counts in zip(preprocessed(slopes), weight > 0, strict=True):
            _, after = self.d.step(slope, state)
            state = tree_map(partial(torch.where, counts), after, state)
        return self.d_output(state[0])[..., 0]


def preprocessed(slope: Tensor, p: float = 7.0) -> Tensor:
    """Size and sign of each entry (Andrychowicz et al., 2016, arXiv:1606.04474, appendix A), as
    a last axis: (log|g| / p, sign g), or (-1, e^p g) of what is smaller than e^-p."""
    size = slope.abs()
    small = size < math.exp(-p)
    log = torch.where(small, 1, size).log() / p
    first = torch.where(small, -1, log)
    return torch.stack([first, torch.where(small, math.exp(p) * slope, slope.sign())], -1)
