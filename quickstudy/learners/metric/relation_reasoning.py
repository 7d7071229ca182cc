r"""Relational reasoning over support and query (Santoro, Raposo, Barrett, Malinowski, Pascanu,
Battaglia & Lillicrap, 2017, "A simple neural network module for relational reasoning",
arXiv:1706.01427).

The paper answers a question about a scene from its objects, in pairs: f(sum over i, j of
g(o_i, o_j, question)), eq. 1. Here the scene is a task. Its objects are the embedded examples,
a question is "is the query of class c?", and the pairs are those of the query with every
support example, which g is told whether it is of class c:

$$\mathrm{logit}_{qc} = f_\phi\Big(\sum_{i \in S} g_\theta(s_i,\, [y_i = c],\, q)\Big)$$

So classes are treated alike, there may be any number of them, and what belongs to other classes
counts too, unlike in the relation networks of Sung et al. (2018).

Differs from the paper: it has no few-shot learner, so the above is an adaptation of its module;
pairs of two support examples are left out, as a task would have the square of their number for
each query and class; f has no dropout.
"""

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.nets.backbones import MLP


class RelationReasoning(Learner[Examples], Embeds):
    """A state is the support examples, embedded.

    The nets have the sizes of the paper's section 4.

    Args:
        embed: (N, *features) -> (N, width).
        width: of the embedding, D.
        units: of the hidden layers of g and f, and of what is summed.
    """

    class_axes = {"y": 1}

    def __init__(self, embed: nn.Module, width: int, *, units: int = 256):
        super().__init__()
        self.embed = embed
        self.g = nn.Sequential(MLP(2 * width + 1, units, hidden=[units] * 3), nn.ReLU())
        self.f = MLP(units, 1, hidden=[units] * 2)

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """The embedded examples, after those that `state` has."""
        new = support._replace(x=self.embed(support.x))
        if state is None:
            return new
        return Examples.cat(state, new)

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Logits (Q, C); -inf for a class of which no example was seen."""
        support, query = state.x, self.embed(x)  # (S, D), (Q, D)
        shape = len(query), len(support), -1
        pair = support.expand(shape), query[:, None].expand(shape)
        told = [torch.full_like(pair[0][..., :1], flag) for flag in (0.0, 1.0)]
        other, own = (self.g(torch.cat([*pair, flag], -1)) for flag in told)  # (Q, S, units)
        is_own = state.y * state.weight[:, None]  # (S, C)
        is_other = (1 - state.y) * state.weight[:, None]
        total = is_own.T @ own + is_other.T @ other  # (Q, C, units)
        return self.f(total).squeeze(-1).masked_fill(is_own.sum(0) == 0, -torch.inf)
