r"""FEAT: few-shot embedding adaptation with a Transformer (Ye, Hu, Zhan & Sha, 2020,
arXiv:1812.03664).

A prototypical network whose prototypes look at each other before they are compared with
queries, so that what tells these classes apart can count more (section 3.3):

$$\mu' = T(\mu) = \mathrm{norm}(\mu + W_o\, \mathrm{attention}(\mu W_q, \mu W_k, \mu W_v)),
  \qquad p(y = c \mid x) \propto \exp(-\lVert f(x) - \mu'_c \rVert^2 / \tau)$$

In training T is also applied to all examples of each class, and every example has to be nearest
to the mean of its own class after that: a contrast, which counts `balance`.

Differs from the paper: no dropout of attention weights (0.1 in the authors' code). As in that
code, the contrast is of embeddings before T with means after it, of support and query.
"""

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import squared_distance
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import Prototypes


class FEAT(Learner[Prototypes], Embeds):
    """Learns an embedding, best a pretrained one, and how a set of prototypes adapts it.

    The other defaults are those of the authors' code for one shot and a Conv4 of width 64.

    Args:
        embed: (N, *features) -> (N, width).
        width: of the embedding, D.
        temperature: that squared distances to prototypes are divided by.
        contrast_temperature: the same, of the contrast.
        balance: weight of the contrast; 0: none.
        dropout: of what attention adds to an embedding.
    """

    class_axes = {"sums": 0, "sizes": 0}

    def __init__(
        self,
        embed: nn.Module,
        width: int,
        *,
        temperature: float = 64.0,
        contrast_temperature: float = 16.0,
        balance: float = 1.0,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.embed, self.set_to_set = embed, SetToSet(width, dropout)
        self.temperature, self.contrast_temperature = temperature, contrast_temperature
        self.balance = balance

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """The sum of the embeddings of each class, on top of what `state` has; prototypes are
        adapted when they are all known, so in `predict`."""
        new = _sums(support._replace(x=self.embed(support.x)))
        return new if state is None else Prototypes(*map(torch.add, state, new))

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Minus the squared distances to the adapted prototypes, over the temperature: logits
        (Q, C); -inf for a class of which no example was seen."""
        return self._compare(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """The criterion on the query set, and `balance` times the contrast (eq. 8)."""
        support, query = (part._replace(x=self.embed(part.x)) for part in task)
        both = Examples.cat(support, query)
        plain = self.criterion(self._compare(_sums(support), query.x), query)
        return plain + self.balance * self.criterion(self._contrast(both), both)

    def _compare(self, state: Prototypes, embedded: Tensor) -> Tensor:
        adapted = self.set_to_set(_means(state), state.sizes > 0)  # (C, D)
        return _nearness(embedded, adapted, state.sizes) / self.temperature

    def _contrast(self, embedded: Examples) -> Tensor:
        """Logits (N, C) of embedded examples, from means of their classes, each adapted as a
        set by itself."""
        same = (embedded.y @ embedded.y.T > 0) & (embedded.weight > 0)  # (N, N)
        adapted = _sums(embedded._replace(x=self.set_to_set(embedded.x, same)))
        near = _nearness(embedded.x, _means(adapted), adapted.sizes)
        return near / self.contrast_temperature


class SetToSet(nn.Module):
    """A Transformer's self-attention of one head, without positions: T.

    (N, D) -> (N, D). `sees` is (N, N), or (N,) for all alike: what an element attends to,
    besides itself.
    """

    def __init__(self, width: int, dropout: float = 0.5):
        super().__init__()
        self.query, self.key, self.value = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for each in (self.query, self.key, self.value, self.out):
            nn.init.xavier_normal_(each.weight)

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        """The adapted set."""
        sees = sees | torch.eye(len(x), dtype=torch.bool, device=x.device)
        scores = self.query(x) @ self.key(x).T / x.shape[-1] ** 0.5  # (N, N)
        attention = scores.masked_fill(~sees, -torch.inf).softmax(-1)
        return self.norm(x + self.dropout(self.out(attention @ self.value(x))))


def _sums(embedded: Examples) -> Prototypes:
    member = embedded.y * embedded.weight[:, None]  # (N, C)
    return Prototypes(member.T @ embedded.x, member.sum(0))


def _means(state: Prototypes) -> Tensor:
    return state.sums / state.sizes.clamp_min(1e-12)[:, None]  # (C, D)


def _nearness(embedded: Tensor, means: Tensor, sizes: Tensor) -> Tensor:
    return -squared_distance(embedded, means).masked_fill(sizes == 0, torch.inf)  # (N, C)
