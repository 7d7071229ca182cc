r"""Joint training: all of a stream at once, what its learners are measured against.

Nothing is forgotten because nothing is thrown away: with each experience, descent begins anew
at the start, on everything that has come so far in random order. Cost and memory grow with the
stream, so this is a bound and no way to learn one.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd, shuffled, together


class Everything(NamedTuple):
    """All that was seen, and the weights it led to."""

    params: Params
    examples: Examples


class Joint(Learner[Everything]):
    """Descent from the start on all examples so far.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the rate.
        batch: examples of a step.
        epochs: passes over all examples, each in an order of its own.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.batch, self.epochs = net, lr, batch, epochs
        self.adapt_parameters = adapt_parameters

    def adapt(self, support: Examples, state: Everything | None = None) -> Everything:
        """Everything so far, and the weights that all of it leads to."""
        known = support if state is None else together(state.examples, support)
        params = select_parameters(self.net, self.adapt_parameters)
        for epoch in range(self.epochs):
            mixed = shuffled(known, torch.tensor(epoch, device=known.x.device))
            for new in minibatches(mixed, self.batch):
                params = sgd(partial(self.cost, new), params, self.lr)
        return Everything(params, known)

    def predict(self, state: Everything, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)
