r"""ProtoMAML (Triantafillou et al., 2020, "Meta-Dataset", arXiv:1903.03096, section 3).

MAML whose linear head starts, in every task, as the prototypical network that it then leaves:

$$W_c = 2 \mu_c, \quad b_c = -\lVert \mu_c \rVert^2, \qquad
  \mu_c = \tfrac{1}{|S_c|} \sum_{i \in S_c} f_\theta(x_i)$$

Embedding and head descend together on the support set. The meta-gradient goes through the steps
and through that start, into the embedding. As every task makes a head of its own, the number of
classes may be different in each.

Differs from the paper: its experiments are of the first order (`first_order=True`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import Checkpointed, DescendsInSteps, Embeds
from quickstudy.core.functional import Params
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class Classifier(NamedTuple):
    """An embedding with a linear head, adapted to a task."""

    params: Params  # of the embedding, and the head: W (C, D), b (C,)
    sizes: Tensor  # (C,)  how many examples there were of each class


class ProtoMAML(Learner[Classifier], Checkpointed, DescendsInSteps, Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        lr: of the inner gradient descent (the best in the paper's search: 0.0054).
        steps: of the inner gradient descent (6 in that search).
        first_order: treats the inner gradient as a constant (fo-Proto-MAML); the meta-gradient
            goes through the start of the head all the same.
        checkpoint: what of the inner steps is kept for the meta-gradient, as in `MAML`.
    """

    class_axes = {"params.W": 0, "params.b": 0, "sizes": 0}

    def __init__(
        self,
        embed: nn.Module,
        *,
        lr: float = 0.005,
        steps: int = 6,
        first_order: bool = False,
        checkpoint: Checkpoint | None = None,
    ):
        super().__init__()
        self.embed = embed
        self.lr, self.steps, self.first_order = lr, steps, first_order
        self.checkpoint: Checkpoint | None = checkpoint

    def adapt(self, support: Examples, state: Classifier | None = None) -> Classifier:
        """`steps` of gradient descent on the support set, from the prototypes or from `state`;
        classes that `state` has not seen start from their prototypes."""
        start = self.start(support, state)

        def misfit(fast: Params) -> Tensor:
            prediction = self.predict(start._replace(params=fast), support.x)
            return self.criterion(prediction, support)

        fast = descend(
            misfit,
            start.params,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )
        return start._replace(params=fast)

    def predict(self, state: Classifier, x: Tensor) -> Tensor:
        """Logits (Q, C) of the adapted net; -inf for a class of which no example was seen."""
        embedded = self._embed(state.params, x)  # (Q, D)
        logits = embedded @ state.params["W"].T + state.params["b"]
        return logits.masked_fill(state.sizes == 0, -torch.inf)

    def start(self, support: Examples, state: Classifier | None = None) -> Classifier:
        """Where descent starts."""
        body: Params = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if state is not None:
            body = {name: state.params[name] for name in body}
        member = support.y * support.weight[:, None]  # (S, C)
        sizes = member.sum(0)
        mean = member.T @ self._embed(body, support.x) / sizes.clamp_min(1e-12)[:, None]
        W, b = 2 * mean, -mean.square().sum(-1)
        if state is not None:
            known = state.sizes > 0
            W = torch.where(known[:, None], state.params["W"], W)
            b = torch.where(known, state.params["b"], b)
            sizes = sizes + state.sizes
        return Classifier({**body, "W": W, "b": b}, sizes)

    def _embed(self, params: Params, x: Tensor) -> Tensor:
        body = {
            name.removeprefix("embed."): p
            for name, p in params.items()
            if name.startswith("embed.")
        }
        return functional_call(self.embed, body, (x,))
