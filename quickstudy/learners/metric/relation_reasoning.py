r"""Relational reasoning over support and query (Santoro, Raposo, Barrett, Malinowski, Pascanu,
Battaglia & Lillicrap, 2017, "A simple neural network module for relational reasoning",
arXiv:1706.01427).

The paper answers a question about a scene from pairs of its objects: f(sum over i, j of
g(o_i, o_j, question)), eq. 1. Here the scene is a task, and its objects are the embedded
examples. A question is "is the query of class c?". The pairs are the query with every support
example, and g receives whether that example is of class c:

$$\mathrm{logit}_{qc} = f_\phi\Big(\sum_{i \in S} g_\theta(s_i,\, [y_i = c],\, q)\Big)$$

So all classes are treated alike, and a task may have any number of them. Examples of other
classes count too, unlike in the relation networks of Sung et al. (2018).

Differs from the paper: the paper has no few-shot learner; this adapts its module. Pairs of two
support examples are left out, because their number is S² for each query and class. f has no
dropout.
"""

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples
from quickstudy.core.tree import append
from quickstudy.learner import Learner
from quickstudy.nets.backbones import MLP


class RelationReasoning(Learner[Examples], Embeds):
    """The state of a task is the embedded support set.

    The nets have the sizes of the paper's section 4.

    Args:
        embed: (N, *features) -> (N, width).
        width: D, of the embedding.
        units: width of the hidden layers of g and f, and of the sum.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.RelationReasoning(torch.nn.Linear(1, 4), 4, units=16)
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
    """

    class_axes = {"y": 1}

    def __init__(self, embed: nn.Module, width: int, *, units: int = 256):
        super().__init__()
        self.embed = embed
        self.g = nn.Sequential(MLP(2 * width + 1, units, hidden=[units] * 3), nn.ReLU())
        self.f = MLP(units, 1, hidden=[units] * 2)

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """Embed the examples and append them to those of `state`."""
        return append(state, support._replace(x=self.embed(support.x)))

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Return logits (Q, C); -inf for a class without examples."""
        support, query = state.x, self.embed(x)  # (S, D), (Q, D)
        shape = len(query), len(support), -1
        pair = support.expand(shape), query[:, None].expand(shape)
        flags = [torch.full_like(pair[0][..., :1], flag) for flag in (0.0, 1.0)]
        other, same = (self.g(torch.cat([*pair, flag], -1)) for flag in flags)  # (Q, S, units)
        is_same = state.y * state.weight[:, None]  # (S, C)
        is_other = (1 - state.y) * state.weight[:, None]
        total = is_same.T @ same + is_other.T @ other  # (Q, C, units)
        return self.f(total).squeeze(-1).masked_fill(is_same.sum(0) == 0, -torch.inf)
