r"""Conditional neural processes (Garnelo et al., 2018, arXiv:1807.01613).

An encoder maps each support example to a vector, and the vectors are averaged. A decoder maps
the average and a query's input to a normal distribution of its value (eq. 1 to 3):

$$r_i = h(x_i, y_i), \qquad r = \tfrac{1}{n} \sum_i r_i, \qquad
  (\mu, \sigma) = g(x, r)$$

The loss is minus the log-likelihood of support and query points together (eq. 4).

Differs from the paper: as in the authors' code, a standard deviation is at least 0.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from quickstudy.core.criteria import Criterion, check_outputs, gaussian_nll
from quickstudy.core.linear import nonzero
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import merge
from quickstudy.learner import Learner
from quickstudy.nets.backbones import MLP


class Gaussian(NamedTuple):
    """A normal distribution of each value.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> prediction = qs.learners.amortised.Gaussian(torch.zeros(1, 1), torch.ones(1, 1))
        >>> target = qs.Examples(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1))
        >>> qs.core.gaussian_nll(prediction, target)
        tensor(0.9189)
    """

    mean: Tensor  # (Q, C)
    scale: Tensor  # (Q, C)  the standard deviation


class ConditionalNeuralProcessState(NamedTuple):
    """The sum and the number of the encoded examples; more can be added.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.ones(3, 1), torch.ones(3, 1), torch.ones(3))
        >>> state = qs.ConditionalNeuralProcess(width=16).adapt(support)
        >>> state.total.shape, state.number
        (torch.Size([16]), tensor(3.))
    """

    total: Tensor  # (D,)
    number: Tensor  # ()


class ConditionalNeuralProcess(Learner[ConditionalNeuralProcessState]):
    """Learns an encoder and a decoder; predictions are a `Gaussian`.

    The defaults are the nets of the paper's section 4.1: an encoder of three layers, a
    decoder of five. Give other nets for inputs that are not rows of numbers.

    Args:
        inputs: number of columns of x.
        outputs: C, number of columns of y.
        width: D, of the representation and of every hidden layer.
        floor: the smallest standard deviation, in units of y. It bounds the log-likelihood of a
            target by -log(floor) - 0.92: 1.38 nats at 0.1.
        encoder: (N, inputs + outputs) -> (N, width).
        decoder: (Q, width + inputs) -> (Q, 2 * outputs).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.ConditionalNeuralProcess(width=16)
        >>> support = qs.Examples(torch.zeros(3, 1), torch.ones(3, 1), torch.ones(3))
        >>> prediction = learner.predict(learner.adapt(support), torch.randn(5, 1))
        >>> prediction.mean.shape, bool((prediction.scale > 0.1).all())
        (torch.Size([5, 1]), True)
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
        self.floor, self.outputs = floor, outputs if encoder is None else None
        if encoder is None:
            encoder = MLP(inputs + outputs, width, hidden=[width] * 2)
        if decoder is None:
            decoder = MLP(width + inputs, 2 * outputs, hidden=[width] * 4)
        self.encoder, self.decoder = encoder, decoder

    def adapt(
        self, support: Examples, state: ConditionalNeuralProcessState | None = None
    ) -> ConditionalNeuralProcessState:
        """Add the encoded examples to the sum of `state`."""
        if self.outputs is not None:
            check_outputs(support.y.new_empty(len(support.y), self.outputs), support.y)
        encoded = self.encoder(torch.cat([support.x, support.y], -1))  # (S, D)
        new = ConditionalNeuralProcessState(support.weight @ encoded, support.weight.sum())
        return merge(torch.add, state, new)

    def predict(self, state: ConditionalNeuralProcessState, x: Tensor) -> Gaussian:
        """Return the distribution of the values at `x`; without examples, r is 0."""
        r = state.total / nonzero(state.number)  # (D,)
        mean, spread = self.decoder(torch.cat([r.expand(len(x), -1), x], -1)).chunk(2, -1)
        return Gaussian(mean, self.floor + 0.9 * softplus(spread))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the criterion on support and query together (eq. 4)."""
        both = Examples.cat(task.support, task.query)
        return self.criterion(self.predict(self.adapt(task.support), both.x), both)
