r"""Meta-experience replay (Riemer et al., 2019, arXiv:1810.11910, algorithm 1).

To learn an example without harm to others, the gradients of both should agree. Reptile favours
that: what a few steps on single examples have led to is approached in part only. For every
example of a stream, s times, a batch of it and of a draw of the memory is gone through by SGD,
one example at a time, from θ to W; then, and at last from the θ before all s batches, A,

$$\theta \leftarrow \theta + \beta \, (W - \theta), \qquad
  \theta \leftarrow A + \gamma \, (\theta - A)$$

Differs from the paper: as in the authors' code, the example itself comes first in each of its
batches, beside as many of the memory (a reservoir) as are asked for.
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
    select_parameters,
    tree_map,
)
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    counting,
    draw,
    empty,
    minibatches,
    reservoir,
    sgd,
    together,
)


class Aligned(NamedTuple):
    """Weights, and what is remembered of the past."""

    params: Params
    buffer: Buffer[Examples]


class MER(Learner[Aligned], HasMemorySize):
    """A net that learns a stream, an example at a time, by Reptile on it and on its past.

    An example costs `batches * (1 + replay)` steps. The settings are those published for
    rotated digits and a memory of 200.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: of SGD.
        beta: β, within a batch.
        gamma: γ, across the batches of an example.
        batches: s.
        replay: examples of the memory in a batch.
        slots: of the memory.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        beta: float = 0.01,
        gamma: float = 1.0,
        batches: int = 5,
        replay: int = 10,
        slots: int = 200,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.beta, self.gamma = net, lr, beta, gamma
        self.batches, self.replay, self.memory_size = batches, replay, slots
        self.adapt_parameters = adapt_parameters

    def adapt(self, support: Examples, state: Aligned | None = None) -> Aligned:
        """The weights after an experience, and the memory of it and of all before."""
        if state is None:
            state = Aligned(
                select_parameters(self.net, self.adapt_parameters),
                empty(support, self.memory_size),
            )
        params, buffer = state
        for new in minibatches(support, 1):
            across = params
            for number in range(1, self.batches + 1):
                within = params
                old = counting(draw(buffer, self.replay, salt=number), new)
                for one in minibatches(together(new, old), 1):
                    params = sgd(partial(self.cost, one), params, self.lr)
                params = towards(within, params, self.beta)
            params = towards(across, params, self.gamma)
            buffer = reservoir(buffer, new)
        return Aligned(params, buffer)

    def predict(self, state: Aligned, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)


def towards(start: Params, end: Params, share: float) -> Params:
    """Reptile's update: a share of the way."""
    return tree_map(lambda a, b: torch.lerp(a, b, share), start, end)
