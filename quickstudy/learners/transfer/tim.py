r"""Transductive information maximisation (TIM-GD; Boudiaf, Masud, Rony, Dolz, Piantanida &
Ben Ayed, 2020, arXiv:2008.11297). Transductive: queries are predicted together.

An embedding f and a head are trained as one classifier of all training classes, without
episodes. A task's classifier has a weight vector for each class (eq. 1), which starts at the
class mean. Descent then minimises the support loss and the entropy of each query's prediction,
and maximises the entropy of their mean (eq. 3):

$$p_c(x) \propto \exp(-\tfrac{\tau}{2} \lVert w_c - z(x) \rVert^2), \quad
  z = \tfrac{f}{\lVert f \rVert}, \qquad
  \min_w \; \lambda L^s - H(Y^q) + \alpha H(Y^q \mid X^q)$$

Differs from the paper: nothing. The paper's second algorithm, TIM-ADM, is not included.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.parameters import Params
from quickstudy.core.prototypes import class_means
from quickstudy.core.similarity import squared_distance, unit
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append
from quickstudy.inner_loop.descent import adam, descend
from quickstudy.learner import Learner


class TIMState(NamedTuple):
    """The embedded support set.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.TIM(torch.nn.Identity(), torch.nn.Linear(2, 20)).adapt(support)
        >>> state.z.norm(dim=-1), state.weight
        (tensor([1., 1.]), tensor([1., 1.]))
    """

    z: Tensor  # (S, D)  of unit length
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class TIM(Learner[TIMState], Embeds):
    """Train it on tasks of all training classes (`Classification`); `adapt` takes any classes.

    `predict` maximises the mutual information between queries and labels. Give it all queries
    of a task at once. The classes should be balanced among them, because of the term H(Y).

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, (N, D) -> (N, classes); used in training only.
        temperature: τ.
        weights: λ of the support set's cross-entropy, the weight of H(Y), and α of H(Y | X).
        lr: learning rate of Adam in `predict`.
        steps: of Adam in `predict`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.eye(2)
        >>> learner = qs.TIM(torch.nn.Identity(), torch.nn.Linear(2, 20), steps=10)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> learner.predict(state, torch.tensor([[9.0, 0.1], [0.2, 9.0]])).argmax(-1)
        tensor([0, 1])
    """

    transductive = True
    class_axes = {"y": 1}

    def __init__(
        self,
        embed: nn.Module,
        head: nn.Module,
        *,
        temperature: float = 15.0,
        weights: tuple[float, float, float] = (0.1, 1.0, 0.1),
        lr: float = 1e-4,
        steps: int = 1000,
    ):
        super().__init__()
        self.embed, self.head = embed, head
        self.temperature, self.weights = temperature, weights
        self.lr, self.steps = lr, steps

    def adapt(self, support: Examples, state: TIMState | None = None) -> TIMState:
        """Embed the examples and append them to those of `state`."""
        return append(state, TIMState(self._features(support.x), support.y, support.weight))

    def predict(self, state: TIMState, x: Tensor) -> Tensor:
        """Return logits (Q, C) after descent on support set and queries.

        -inf for a class without examples.
        """
        z, support = self._features(x), Examples(*state)
        has_examples = (state.y * state.weight[:, None]).sum(0) > 0  # (C,)

        def objective(params: Params) -> Tensor:
            cross = self.criterion(self._logits(params["w"], state.z, has_examples), support)
            p = self._logits(params["w"], z, has_examples).softmax(-1)
            lam, beta, alpha = self.weights
            return lam * cross - beta * marginal_entropy(p) + alpha * conditional_entropy(p)

        params = descend(
            objective,
            {"w": class_means(state.z, support)},
            lr=self.lr,
            steps=self.steps,
            optimizer=adam(),
            first_order=True,
        )
        return self._logits(params["w"], z, has_examples)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the loss of the head on the query set, without adaptation.

        Labels have a column for each training class.
        """
        return self.criterion(self.head(self.embed(task.query.x)), task.query)

    def _features(self, x: Tensor) -> Tensor:
        return unit(self.embed(x))

    def _logits(self, w: Tensor, z: Tensor, has_examples: Tensor) -> Tensor:
        logits = -self.temperature / 2 * squared_distance(z, w)
        return logits.masked_fill(~has_examples, -torch.inf)


def conditional_entropy(p: Tensor) -> Tensor:
    """H(Y | X) in nats: the mean entropy of probabilities (N, C).

    Examples:
        >>> import torch
        >>> conditional_entropy(torch.tensor([[0.5, 0.5]]))
        tensor(0.6931)
    """
    log = p.clamp_min(torch.finfo(p.dtype).tiny).log()  # 0 log 0 is 0
    return -(p * log).sum(-1).mean()


def marginal_entropy(p: Tensor) -> Tensor:
    """Return H(Y) in nats: the entropy of the mean of probabilities (N, C).

    Examples:
        >>> import torch
        >>> marginal_entropy(torch.eye(2))
        tensor(0.6931)
    """
    return conditional_entropy(p.mean(0, keepdim=True))
