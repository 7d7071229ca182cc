r"""Meta networks, MetaNet (Munkhdalai & Yu, 2017, arXiv:1703.00837).

Slow weights are learned over tasks. Learned functions of gradients generate fast weights, for
one task or for one query. With the slow weights W of the base learner b and Q of the
representation u (algorithm 1):

$$Q^* = d\big(\{\nabla_Q L^{emb}_i\}_i\big), \qquad W^*_i = m\big(\nabla_W L_i\big), \qquad
  r_i = u(Q, Q^*, x_i)$$

Each example of the support set stores the key r_i and the value W*_i in a memory. A query x
reads its own fast weights, $W^* = \sum_i \mathrm{softmax}_i(\cos(r_i, r)) \, W^*_i$ with r =
u(Q, Q*, x). Its prediction is b(W, W*, x). A layer of b adds the outputs of its slow and of its
fast weights, each after its own nonlinearity ("layer augmentation").

Differs from the paper: only fully connected layers have fast weights, one of u and two of b,
after convolutions with slow weights (the authors' code for Omniglot has fast filters too); d
reads all examples of the support set, in order, not a sample; the loss $L^{emb}$ is always that
of a classifier, never of pairs. As in the authors' code, gradients are constants to the
meta-gradient. So this classifier receives no gradient, and keeps its random weights.
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
from quickstudy.core.attention import attention
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.similarity import Similarity, cosine_similarity
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append, fold, tree_map
from quickstudy.learner import Learner
from quickstudy.nets.cells import LSTMCell

Layers = tuple[Tensor, Tensor]  # of b: (..., hidden, width) and (..., C, hidden)


class MetaNetState(NamedTuple):
    """The memory of fast weights, and the fast weights of its keys.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> nets = torch.nn.Linear(2, 4), torch.nn.Linear(2, 4)
        >>> learner = qs.MetaNet(*nets, width=4, outputs=2, hidden=8, units=4)
        >>> learner.adapt(support).keys.shape
        torch.Size([2, 8])
    """

    representation: Tensor  # (hidden, width)  Q*
    keys: Tensor  # (S, hidden)
    layers: Layers  # W*: (S, hidden, width), (S, C, hidden)
    weight: Tensor  # (S,)


class MetaNet(Learner[MetaNetState], HasAttentionWeights):
    """Learns slow weights and how to generate fast ones.

    Args:
        represent: the convolutions of u, (N, *features) -> (N, width).
        base: the convolutions of b, another net with these shapes.
        width: number of inputs of the fully connected layers.
        outputs: C; the number of classes is fixed.
        hidden: width of representations and of the hidden layer of b.
        units: width of the functions d and m, which act on each entry of a gradient.
        similarity: of representations (Q, hidden) and keys (S, hidden): (Q, S).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> nets = torch.nn.Linear(1, 4), torch.nn.Linear(1, 4)
        >>> learner = qs.MetaNet(*nets, width=4, outputs=2, hidden=8, units=4)
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
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

    def adapt(self, support: Examples, state: MetaNetState | None = None) -> MetaNetState:
        """Append the examples to the memory of `state`, with the same Q* if there is one."""
        features, inputs = self.represent(support.x), self.base(support.x)
        representation = (
            self.generate_representation(features, support)
            if state is None
            else state.representation
        )
        grads = self.example_grads(self.logits, self.slow_weights(), inputs, support)
        layers = tree_map(lambda grad: self.m(preprocess(grad))[..., 0], grads)
        new = self.keys(features, representation), layers, support.weight
        return MetaNetState(representation, *append(state and state[1:], new))

    def predict(self, state: MetaNetState, x: Tensor) -> Tensor:
        """Return predictions (Q, C), each with the fast weights that the query reads."""
        weights = self.read_weights(state, x)
        fast = tree_map(lambda value: torch.einsum("qs,soi->qoi", weights, value), state.layers)
        return self.logits(self.slow_weights(), self.base(x), fast)

    def read_weights(self, state: MetaNetState, x: Tensor) -> Tensor:
        """Return the attention of each query over the memory (Q, S)."""
        queries = self.keys(self.represent(x), state.representation)
        return attention(self.similarity(queries, state.keys), state.weight)

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Return the attention over the memory (S + Q, S).

        The first S rows map each support example to its own memory.
        """
        weights = self.read_weights(self.adapt(task.support), task.query.x)
        return {"memory": torch.cat([torch.eye(weights.shape[1]).to(weights), weights])}

    def logits(self, slow: Layers, inputs: Tensor, fast: Layers | None = None) -> Tensor:
        """Apply the fully connected layers of b: (N, width) -> (N, C).

        Args:
            slow: W.
            inputs: outputs of `base`.
            fast: W* of each of the N inputs. None: slow weights alone.
        """
        hidden = F.linear(inputs, slow[0]).relu()
        if fast is None:
            return F.linear(hidden, slow[1])
        hidden = hidden + torch.einsum("qoi,qi->qo", fast[0], inputs).relu()
        return F.linear(hidden, slow[1]) + torch.einsum("qoi,qi->qo", fast[1], hidden)

    def classify_keys(self, key: Tensor, features: Tensor) -> Tensor:
        """Return the logits of the fixed classifier: (N, width) -> (N, C)."""
        return self.classify(F.linear(features, key).relu())

    def keys(self, features: Tensor, representation: Tensor) -> Tensor:
        """Return r: (N, width) -> (N, hidden)."""
        return self.key(features) + F.linear(features, representation)

    def slow_weights(self) -> Layers:
        """Return W of the layers that have fast weights too."""
        return self.first.weight, self.second.weight

    @torch.no_grad()
    def example_grads(
        self, net: Callable[..., Tensor], slow: Any, inputs: Tensor, examples: Examples
    ) -> Any:
        """Return the gradient of each example's loss, as a constant.

        It has the shapes of `slow` with an axis S in front. `net` is a function of such weights
        and of `inputs`.
        """

        def loss(slow: Any, row: Tensor, y: Tensor) -> Tensor:
            example = Examples(row[None], y[None], y.new_ones(1))
            return self.criterion(net(slow, row[None]), example)

        return vmap(grad(loss), (None, 0, 0))(slow, inputs, examples.y)

    def generate_representation(self, features: Tensor, examples: Examples) -> Tensor:
        """Apply d to the gradients of Q (S, hidden, width), one after the other; return Q*."""
        grads = self.example_grads(self.classify_keys, self.key.weight, features, examples)
        first = self.d.initial_state()
        state = tree_map(lambda part: part.expand(*grads.shape[1:], -1), first)
        entries = preprocess(grads)
        last = fold(
            lambda before, x: self.d.step(x, before)[1], state, entries, weight=examples.weight
        )
        return self.d_output(last[0])[..., 0]


def preprocess(grad: Tensor, p: float = 7.0) -> Tensor:
    """Split each entry g into size and sign, as a last axis of 2.

    (log|g| / p, sign g), or (-1, e^p g) if |g| < e^-p (Andrychowicz et al., 2016,
    arXiv:1606.04474, appendix A).

    Examples:
        >>> import torch
        >>> preprocess(torch.tensor([-1.0, 0.0]))
        tensor([[ 0., -1.],
                [-1.,  0.]])
    """
    size = grad.abs()
    small = size < math.exp(-p)
    log = torch.where(small, 1, size).log() / p
    first = torch.where(small, -1, log)
    return torch.stack([first, torch.where(small, math.exp(p) * grad, grad.sign())], -1)
