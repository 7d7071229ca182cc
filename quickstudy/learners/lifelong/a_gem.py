r"""Averaged gradient episodic memory (Chaudhry et al., 2019, arXiv:1812.00420).

A step on a mini-batch B of a stream must not raise the loss on R, a sample of a memory of the
past. If the gradient g on B points against the gradient on R, its component in that direction
is removed (equation 11):

$$\tilde g = g - \min(0, g^\top g_R) \, \frac{g_R}{g_R^\top g_R}, \qquad
  \theta \leftarrow \theta - \alpha \tilde g$$

Of all vectors with $\tilde g^\top g_R \ge 0$ this is the nearest to g.

Differs from the paper: the memory is a reservoir, a uniform random sample of all examples seen,
instead of equally many of the latest examples of every class. As there, it holds previous
experiences only.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.gradients import gradient
from quickstudy.core.linear import dot
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import ReplayLearner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    minibatches,
    reservoir,
    sample,
)


class AGEMState(NamedTuple):
    """Parameters, and the memory that constrains their gradients.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.AGEM(torch.nn.Linear(2, 2)).adapt(support)
        >>> list(state.params), state.buffer.seen
        (['weight', 'bias'], tensor(2))
    """

    params: Params
    buffer: Buffer[Examples]


class AGEM(ReplayLearner[AGEMState]):
    """A net that learns a stream by steps that do not raise the loss on a sample of its past.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch_size: examples in B.
        replay_batch_size: examples in R.
        memory_size: places of the memory.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.AGEM(torch.nn.Linear(4, 4), lr=1.0, epochs=20, replay_batch_size=8)
        >>> state = None
        >>> for experience in (slice(2), slice(2, 4)):
        ...     state = learner.adapt(examples.take(experience), state)
        >>> learner.predict(state, examples.x).argmax(-1)
        tensor([0, 1, 2, 3])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch_size: int = 10,
        replay_batch_size: int = 256,
        memory_size: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=batch_size,
            replay_batch_size=replay_batch_size,
            memory_size=memory_size,
            epochs=epochs,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )

    def adapt(self, support: Examples, state: AGEMState | None = None) -> AGEMState:
        """Return the parameters after an experience, and the memory with its examples."""
        params, buffer = state or AGEMState(
            self.initial_params(), empty_buffer(support, self.memory_size)
        )
        batches = list(minibatches(support, self.batch_size))
        for salt, new in enumerate(batches * self.epochs, 1):
            old = sample(buffer, self.replay_batch_size, salt=salt)
            grads, reference = (
                gradient(partial(self.batch_loss, batch))(params) for batch in (new, old)
            )
            grads = project(grads, reference)
            params = {name: p - self.lr * grads[name] for name, p in params.items()}
        for new in batches:
            buffer = reservoir(buffer, new)
        return AGEMState(params, buffer)


def project(grads: Params, reference: Params) -> Params:
    """Return the nearest vector to `grads` that does not point against `reference`.

    Examples:
        >>> import torch
        >>> project({"a": torch.tensor([1.0, -1.0])}, {"a": torch.tensor([0.0, 2.0])})
        {'a': tensor([1., 0.])}
    """
    product, square = dot(grads, reference), dot(reference, reference)
    # clamped: an empty memory has a zero gradient, and the derivative must be finite
    tiny = torch.finfo(square.dtype).tiny
    factor = torch.where(product < 0, product / square.clamp_min(tiny), 0)
    return {name: g - factor * reference[name] for name, g in grads.items()}
