r"""Conditional neural processes (Garnelo et al., 2018, arXiv:1807.01613).

The context is encoded example by example and averaged; a decoder reads the average beside a
target's input and says a normal distribution of its value (eq. 1 to 3):

$$r_i = h(x_i, y_i), \qquad r = \tfrac{1}{n} \sum_i r_i, \qquad
  (\mu, \sigma) = g(x, r)$$

The loss is minus the log-likelihood of observed and unobserved points alike (eq. 4).

Differs from the paper: in nothing that it says. As in the authors' code, a standard deviation
is at least 0.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from quickstudy.core.criteria import Criterion, gaussian_nll
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.nets.backbones import MLP


class Gaussian(NamedTuple):
    """A normal distribution of each value."""

    mean: Tensor  # (Q, C)
    scale: Tensor  # (Q, C)  the standard deviation


class Representation(NamedTuple):
    """A sum and a number, not a mean: so that more examples can be added later."""

    total: Tensor  # (D,)  of the encoded examples
    number: Tensor  # ()  how many there were


class ConditionalNeuralProcess(Learner[Representation]):
    """A state is the encoded context; predictions are a `Gaussian`.

    The defaults are the nets of the paper's section 4.1: an encoder of three layers, a
    decoder of five. Give your own for inputs that are not plain rows of numbers.

    Args:
        inputs: features of x.
        outputs: values in y, C.
        width: of the representation, D, and of every hidden layer.
        floor: no standard deviation is smaller than this, in units of y. So no target's
            log-likelihood exceeds -log(floor) - 0.92: 1.38 nats at 0.1.
        encoder: (N, inputs + outputs) -> (N, width).
        decoder: (Q, width + inputs) -> (Q, 2 * outputs).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        *,
        width: int = 128,
        floor: float = 0.1,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        criterion: Criterion = gaussian_nll,
    ):
        super().__init__(criterion)
        self.floor = floor
        if encoder is None:
            encoder = MLP(inputs + outputs, width, hidden=[width] * 2)
        if decoder is None:
            decoder = MLP(width + inputs, 2 * outputs, hidden=[width] * 4)
        self.encoder, self.decoder = encoder, decoder

    def adapt(self, support: Examples, state: Representation | None = None) -> Representation:
        """The sum of the encoded examples, on top of what `state` has."""
        encoded = self.encoder(torch.cat([support.x, support.y], -1))  # (S, D)
        new = Representation(support.weight @ encoded, support.weight.sum())
        return new if state is None else Representation(*map(torch.add, state, new))

    def predict(self, state: Representation, x: Tensor) -> Gaussian:
        """The distribution of the values at `x`; of nothing known, r is 0."""
        r = state.total / state.number.clamp_min(1e-12)  # (D,)
        mean, spread = self.decoder(torch.cat([r.expand(len(x), -1), x], -1)).chunk(2, -1)
        return Gaussian(mean, self.floor + 0.9 * softplus(spread))

    def loss(self, task: Task[Examples]) -> Tensor:
        """The criterion on support and query together (eq. 4)."""
        pairs = zip(task.support, task.query, strict=True)
        both = Examples(*(torch.cat(pair) for pair in pairs))
        return self.criterion(self.predict(self.adapt(task.support), both.x), both)
