r"""Learning without forgetting (Li & Hoiem, 2016, arXiv:1606.09282).

It keeps the weights and no examples. Before an experience it records the probabilities of the
known classes for the new inputs x, and trains the net to keep them:

$$\mathcal{L}(\theta) = L(\theta; B) + \lambda \, \mathbb{E}_{x \in B} \Big[
  -\sum_{c \text{ known}} p'_c(x) \log \hat{p}'_c(x) \Big], \qquad
  p' = \operatorname{softmax}_{\text{known}}(z / T)$$

with z the logits of the weights before the experience, and $\hat{p}'$ the same for the weights
that are learned. A temperature T above 1 gives unlikely classes more weight.

Differs from the paper: all known classes share one softmax, whatever the experience in which
they came, and the new ones share a head with them. No warm-up of the new head, no weight decay.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy, weighted_mean
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd_step


class LwFState(NamedTuple):
    """Parameters, and the classes learned so far.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.LearningWithoutForgetting(torch.nn.Linear(2, 2)).adapt(support)
        >>> list(state.params), state.classes
        (['weight', 'bias'], tensor([1., 1.]))
    """

    params: Params
    classes: Tensor  # (C,)  1: there were examples of this class


class LearningWithoutForgetting(NetLearner[LwFState]):
    """Descent that keeps its predictions of known classes for the new inputs. For classes.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α of the descent.
        strength: λ, of the distillation.
        temperature: T.
        batch_size: examples in B.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.LearningWithoutForgetting(torch.nn.Linear(4, 4))
        >>> learner.adapt(examples.take(slice(2))).classes
        tensor([1., 1., 0., 0.])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        strength: float = 1.0,
        temperature: float = 2.0,
        batch_size: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.strength, self.temperature = strength, temperature

    def adapt(self, support: Examples, state: LwFState | None = None) -> LwFState:
        """Return the parameters after an experience, and the classes up to then."""
        state = state or LwFState(self.initial_params(), torch.zeros_like(support.y[:1]).sum(0))
        params, classes = state
        recorded = [
            (new, self.predict(state, new.x)) for new in minibatches(support, self.batch_size)
        ]
        for batch, logits in recorded * self.epochs:
            objective = partial(self.objective, batch, logits, classes)
            params = sgd_step(objective, params, self.lr)
        present = (support.y > 0) & (support.weight > 0)[:, None]  # (N, C)
        return LwFState(params, torch.maximum(classes, present.any(0).to(classes)))

    def objective(
        self, examples: Examples, old_logits: Tensor, classes: Tensor, params: Params
    ) -> Tensor:
        """Return the loss, and the distance from the old logits (N, C) of the known classes."""
        logits = self.logits(params, examples.x)
        loss = self.criterion(logits, examples)  # first: it checks the number of classes
        old = self._log_softmax(old_logits, classes).exp() * classes
        distance = -(old * self._log_softmax(logits, classes)).sum(-1)
        return loss + self.strength * weighted_mean(distance, examples.weight)

    def _log_softmax(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Log-probabilities (N, C) among the known classes; finite, if there is none."""
        lowest = torch.finfo(logits.dtype).min
        return (logits / self.temperature).masked_fill(classes == 0, lowest).log_softmax(-1)
