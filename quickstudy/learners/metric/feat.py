r"""FEAT: few-shot embedding adaptation with a Transformer (Ye, Hu, Zhan & Sha, 2020,
arXiv:1812.03664).

A prototypical network whose prototypes attend to each other before they are compared with
queries. So the features that separate the classes of this task can count more (section 3.3):

$$\mu' = T(\mu) = \mathrm{norm}(\mu + W_o\, \mathrm{attention}(\mu W_q, \mu W_k, \mu W_v)),
  \qquad p(y = c \mid x) \propto \exp(-\lVert f(x) - \mu'_c \rVert^2 / \tau)$$

In training T is also applied to all examples of each class. A contrastive term, weighted by
`balance`, makes every example nearest to the mean of its own class.

Differs from the paper: no dropout of attention weights (0.1 in the authors' code). As in that
code, the contrastive term compares embeddings before T with means after T, over support and
query.
"""

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.similarity import compare, negative_squared_distance
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner


class FEAT(Learner[Prototypes], Embeds):
    """Learns an embedding and how to adapt a set of prototypes. Pretrain the embedding.

    The defaults are those of the authors' code for one shot and a Conv4 of width 64.

    Args:
        embed: (N, *features) -> (N, width).
        width: D, of the embedding.
        temperature: divisor of the squared distances to prototypes.
        contrast_temperature: divisor of the squared distances in the contrastive term.
        balance: weight of the contrastive term; 0: none.
        dropout: of the update that attention adds to an embedding.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.FEAT(torch.nn.Linear(1, 8), 8).eval()
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
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
        """Add the embeddings of each class to the sums of `state`.

        `predict` adapts the prototypes, once all of them are complete.
        """
        return class_sums(self.embed(support.x), support, state)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Return minus the squared distances to the adapted prototypes, over the temperature.

        Logits (Q, C); -inf for a class without examples.
        """
        return self._query_logits(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the criterion on the query set plus `balance` times the contrast (eq. 8)."""
        support, query = (part._replace(x=self.embed(part.x)) for part in task)
        both = Examples.cat(support, query)
        logits = self._query_logits(class_sums(support.x, support), query.x)
        contrast = self.criterion(self._contrast_logits(both), both)
        return self.criterion(logits, query) + self.balance * contrast

    def _query_logits(self, state: Prototypes, embedded: Tensor) -> Tensor:
        adapted = self.set_to_set(state.means, state.sizes > 0)  # (C, D)
        logits = compare(negative_squared_distance, embedded, adapted) / self.temperature
        return logits.masked_fill(state.sizes == 0, -torch.inf)

    def _contrast_logits(self, embedded: Examples) -> Tensor:
        """Return logits (N, C) from class means; each class is adapted as its own set."""
        same = (embedded.y @ embedded.y.T > 0) & (embedded.weight > 0)  # (N, N)
        adapted = class_sums(self.set_to_set(embedded.x, same, embedded.weight), embedded)
        return class_logits(embedded.x, adapted) / self.contrast_temperature


class SetToSet(nn.Module):
    """T: the self-attention layer of a Transformer with one head and no positions.

    (N, D) -> (N, D). `mask`, (N, N) or (N,) for all rows, is True for the elements that a row
    attends to. Every element attends to itself. An element of weight 2 counts as two.

    Examples:
        >>> import torch
        >>> layer = SetToSet(width=4)
        >>> layer(torch.randn(5, 4), torch.ones(5, dtype=torch.bool)).shape
        torch.Size([5, 4])
    """

    def __init__(self, width: int, dropout: float = 0.5):
        super().__init__()
        self.query, self.key, self.value = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_normal_(layer.weight)

    def forward(self, x: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the adapted set."""
        mask = mask | torch.eye(len(x), dtype=torch.bool, device=x.device)
        keys = self.key(x - x.detach().mean(0))  # a shift of all keys changes no softmax
        scores = self.query(x) @ keys.T / x.shape[-1] ** 0.5  # (N, N)
        if weight is not None:
            scores = scores + torch.where(weight > 0, weight, 1).log()
        attention = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return self.norm(x + self.dropout(self.out(attention @ self.value(x))))
