r"""Averaged gradient episodic memory (Chaudhry et al., 2019, arXiv:1812.00420).

A step on a mini-batch B of a stream must not raise the loss on R, a draw from a memory of the
past. Where the slopes g on B would, since they point away from those on R, what they have of
that direction is taken out of them (equation 11):

$$\tilde g = g - \min(0, g^\top g_R) \, \frac{g_R}{g_R^\top g_R}, \qquad
  \theta \leftarrow \theta - \alpha \tilde g$$

Of all slopes with $\tilde g^\top g_R \ge 0$ these are the nearest to g.

Differs from the paper: the memory is a reservoir, a random sample of all that was seen, and not
as many of the latest examples of every class. As there, it is of the experiences before.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import HasMemorySize
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    gradient,
    select_parameters,
)
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    draw,
    empty,
    minibatches,
    reservoir,
)


class Guarded(NamedTuple):
    """Weights, and the memory of what they must not unlearn."""

    params: Params
    buffer: Buffer[Examples]


class AGEM(Learner[Guarded], HasMemorySize):
    """A net that learns a stream by steps which a draw of its past allows.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch: examples in B.
        replay: examples in R.
        slots: of the memory.
        epochs: how often each experience is gone through.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch: int = 10,
        replay: int = 256,
        slots: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.batch, self.epochs = net, lr, batch, epochs
        self.replay, self.memory_size = replay, slots
        self.adapt_parameters = adapt_parameters

    def adapt(self, support: Examples, state: Guarded | None = None) -> Guarded:
        """The weights after an experience, and the memory of it and of all before."""
        if state is None:
            state = Guarded(
                select_parameters(self.net, self.adapt_parameters),
                empty(support, self.memory_size),
            )
        params, buffer = state
        steps = [new for _ in range(self.epochs) for new in minibatches(support, self.batch)]
        for salt, new in enumerate(steps, 1):
            old = draw(buffer, self.replay, salt=salt)
            slopes = gradient(partial(self.cost, new))(params)
            slopes = projected(slopes, gradient(partial(self.cost, old))(params))
            params = {name: p - self.lr * slopes[name] for name, p in params.items()}
        for new in minibatches(support, self.batch):
            buffer = reservoir(buffer, new)
        return Guarded(params, buffer)

    def predict(self, state: Guarded, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)


def projected(slopes: Params, reference: Params) -> Params:
    """The nearest to `slopes` that do not point away from `reference`, over all names."""
    along = torch.stack([(g * reference[name]).sum() for name, g in slopes.items()]).sum()
    length = torch.stack([r.square().sum() for r in reference.values()]).sum()
    # kept from 0: nothing remembered has no slopes, and a derivative nevertheless
    tiny = torch.finfo(length.dtype).tiny
    share = torch.where(along < 0, along / length.clamp_min(tiny), 0)
    return {name: g - share * reference[name] for name, g in slopes.items()}
