r"""Transductive information maximisation (TIM-GD; Boudiaf, Masud, Rony, Dolz, Piantanida &
Ben Ayed, 2020, arXiv:2008.11297). Transductive: queries are judged together.

No episodes: an embedding f is trained with a head, as one classifier of all training classes. A
task's classifier has a weight for each class (eq. 1), which starts at the class mean. Descent
then makes it right on the support set, sure of every query, and even over them all (eq. 3):

$$p_c(x) \propto \exp(-\tfrac{\tau}{2} \lVert w_c - z(x) \rVert^2), \quad
  z = \tfrac{f}{\lVert f \rVert}, \qquad
  \min_w \; \lambda L^s - H(Y^q) + \alpha H(Y^q \mid X^q)$$

Differs from the paper: nothing. The paper's second algorithm, TIM-ADM, is not here.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import Params, squared_distance
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import adam, descend
from quickstudy.learner import Learner
from quickstudy.learners.transfer.baseline import class_means


class Seen(NamedTuple):
    """The support set, embedded."""

    z: Tensor  # (S, D)  of length 1
    y: Tensor  # (S, C)
    weight: Tensor  # (S,)


class TIM(Learner[Seen], Embeds):
    """Train it on tasks of all training classes (`Classification`); then it takes tasks of any
    classes. `predict` maximises the information that its queries have of their labels: queries
    must come together, and from all classes alike, as H(Y) asks of them.

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, (N, D) -> (N, classes); of use in training only.
        temperature: τ.
        weights: λ of the support set's cross-entropy, that of H(Y), and α of H(Y | X).
        lr: of the descent by Adam in `predict`.
        steps: of that descent.
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

    def adapt(self, support: Examples, state: Seen | None = None) -> Seen:
        """The embedded examples, beside those that `state` has."""
        new = Seen(self._features(support.x), support.y, support.weight)
        return new if state is None else Seen(*map(torch.cat, zip(state, new, strict=True)))

    def predict(self, state: Seen, x: Tensor) -> Tensor:
        """Logits (Q, C), after descent on support set and queries; -inf for a class of which no
        example was seen."""
        z, support = self._features(x), Examples(*state)
        known = (state.y * state.weight[:, None]).sum(0) > 0  # (C,)

        def misfit(params: Params) -> Tensor:
            cross = self.criterion(self._logits(params["w"], state.z, known), support)
            p = self._logits(params["w"], z, known).softmax(-1)
            sharp, even, sure = self.weights
            return sharp * cross - even * marginal_entropy(p) + sure * conditional_entropy(p)

        start = {"w": class_means(state.z, support)}
        best = descend(
            misfit, start, lr=self.lr, steps=self.steps, optimizer=adam(), first_order=True
        )
        return self._logits(best["w"], z, known)

    def loss(self, task: Task[Examples]) -> Tensor:
        """The head's loss on the query set, whose labels have a column for each training class;
        nothing is adapted."""
        return self.criterion(self.head(self.embed(task.query.x)), task.query)

    def _features(self, x: Tensor) -> Tensor:
        return F.normalize(self.embed(x), dim=-1)

    def _logits(self, w: Tensor, z: Tensor, known: Tensor) -> Tensor:
        logits = -self.temperature / 2 * squared_distance(z, w)
        return logits.masked_fill(~known, -torch.inf)


def conditional_entropy(p: Tensor) -> Tensor:
    """H(Y | X) in nats: the mean entropy of probabilities (N, C)."""
    return -(p * _log(p)).sum(-1).mean()


def marginal_entropy(p: Tensor) -> Tensor:
    """H(Y) in nats: the entropy of the mean of probabilities (N, C)."""
    mean = p.mean(0)
    return -(mean * _log(mean)).sum()


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(1e-12).log()  # 0 log 0 is 0, and so is its slope here
