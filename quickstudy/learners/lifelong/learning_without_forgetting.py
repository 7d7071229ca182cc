r"""Learning without forgetting (Li & Hoiem, 2016, arXiv:1606.09282).

Of the past nothing is kept but the weights. What they say of the new inputs x about the classes
known before is recorded, and is to remain what is said:

$$\mathcal{L}(\theta) = L(\theta; B) + \lambda \, \mathbb{E}_{x \in B} \Big[
  -\sum_{c \text{ known}} p'_c(x) \log \hat{p}'_c(x) \Big], \qquad
  p' = \operatorname{softmax}_{\text{known}}(z / T)$$

with z the logits of the weights before the experience, and the same of those that are learned
in $\hat{p}'$. A temperature T above 1 has unlikely classes count.

Differs from the paper: all known classes are one softmax, whatever the experience in which they
came, and the new ones share a head with them. No warm-up of the new head, no weight decay.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
    weighted_mean,
)
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd


class Known(NamedTuple):
    """Weights, and the classes that they have been taught."""

    params: Params
    classes: Tensor  # (C,)  1: of this class there were examples


class LearningWithoutForgetting(Learner[Known]):
    """Descent that goes on saying of new inputs what it said before. For classes.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α of the descent.
        strength: λ.
        temperature: T.
        batch: examples in B.
        epochs: how often each experience is gone through.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        strength: float = 1.0,
        temperature: float = 2.0,
        batch: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.strength, self.temperature = net, lr, strength, temperature
        self.batch, self.epochs, self.adapt_parameters = batch, epochs, adapt_parameters

    def adapt(self, support: Examples, state: Known | None = None) -> Known:
        """The weights after an experience, and the classes up to then."""
        if state is None:
            none = torch.zeros_like(support.y[:1]).sum(0)
            state = Known(select_parameters(self.net, self.adapt_parameters), none)
        params, classes = state
        recorded = [
            (new, self.predict(state, new.x)) for new in minibatches(support, self.batch)
        ]
        for _ in range(self.epochs):
            for new, said in recorded:
                params = sgd(partial(self.cost, new, said, classes), params, self.lr)
        there = (support.y > 0) & (support.weight > 0)[:, None]  # (N, C)
        return Known(params, torch.maximum(classes, there.any(0).to(classes)))

    def predict(self, state: Known, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, said: Tensor, classes: Tensor, params: Params) -> Tensor:
        """The loss, and how far it is from what was said (N, C) of the known classes."""
        logits = functional_call(self.net, params, (examples.x,))
        loss = self.criterion(logits, examples)  # first: it checks the number of classes
        old = self._log_share(said, classes).exp() * classes
        apart = -(old * self._log_share(logits, classes)).sum(-1)
        return loss + self.strength * weighted_mean(apart, examples.weight)

    def _log_share(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Log-probabilities (N, C) among the known classes; finite, if there is none."""
        lowest = torch.finfo(logits.dtype).min
        return (logits / self.temperature).masked_fill(classes == 0, lowest).log_softmax(-1)
