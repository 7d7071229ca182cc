r"""Experience replay (Ratcliff, 1990; Chaudhry et al., 2019, arXiv:1902.10486).

Every mini-batch B of a stream is learned together with as many examples R of the past, drawn
from a memory that holds a random sample of it (Vitter's reservoir):

$$\theta \leftarrow \theta - \alpha \nabla_\theta L(\theta; B \cup R)$$

Differs from the paper: nothing. Examples are learned in the order in which they come, so that a
stream may be cut anywhere; of several epochs each has the same order.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import HasMemorySize
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
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


class Replayed(NamedTuple):
    """Weights, and what is remembered of the past."""

    params: Params
    buffer: Buffer[Examples]


class ExperienceReplay(Learner[Replayed], HasMemorySize):
    """A net that learns a stream, and goes on learning its past.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch: examples in B.
        replay: examples in R; None: as many as in B.
        slots: M, of the memory.
        epochs: how often each experience is gone through; examples are stored in the first.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch: int = 10,
        replay: int | None = None,
        slots: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.batch, self.epochs = net, lr, batch, epochs
        self.replay, self.memory_size = batch if replay is None else replay, slots
        self.adapt_parameters = adapt_parameters

    def adapt(self, support: Examples, state: Replayed | None = None) -> Replayed:
        """The weights after an experience, and the memory of it and of all before."""
        if state is None:
            state = Replayed(
                select_parameters(self.net, self.adapt_parameters),
                empty(support, self.memory_size),
            )
        params, buffer = state
        again = 0  # steps after the first pass, in which nothing is added to the memory
        for epoch in range(self.epochs):
            for new in minibatches(support, self.batch):
                again += epoch > 0
                old = counting(draw(buffer, self.replay, salt=1 + again), new)
                params = sgd(partial(self.cost, together(new, old)), params, self.lr)
                if epoch == 0:
                    buffer = reservoir(buffer, new)
        return Replayed(params, buffer)

    def predict(self, state: Replayed, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)
