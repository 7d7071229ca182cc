r"""Dark experience replay, DER and DER++ (Buzzega et al., 2020, arXiv:2004.07211).

The memory keeps, beside examples and labels, the logits z that the net gave to an example when
it came. The net is to go on saying the same of them, a distillation from its own past:

$$\theta \leftarrow \theta - \eta \nabla_\theta \Big[ L(\theta; B)
  + \alpha \operatorname*{mean}_{(x, z) \in R} \lVert z - f_\theta(x) \rVert^2
  + \beta \, L(\theta; R') \Big]$$

R and R' are two draws of the memory, a reservoir. With β = 0 this is DER, else DER++.

Differs from the paper: the squared distance is divided by the number of classes, as it is in
the authors' code, to which the published α belong. Only the first of several epochs fills the
memory.
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
    weighted_mean,
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
)


class Said(NamedTuple):
    """Examples, and what was said of them when they came."""

    examples: Examples  # (N, ...)
    logits: Tensor  # (N, C)  z

    @property
    def weight(self) -> Tensor:
        """Of the examples (N,)."""
        return self.examples.weight


class Distilled(NamedTuple):
    """Weights, and what is remembered of the past."""

    params: Params
    buffer: Buffer[Said]


class DarkExperienceReplay(Learner[Distilled], HasMemorySize):
    """A net that learns a stream, and keeps to what it said of its past.

    With `alpha=0`, `beta=|R| / |B|` and a rate of |B| / (|B| + |R|) times that of
    `ExperienceReplay`, it does the steps of the latter once the memory holds something.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: η.
        alpha: how much logits of the past count, per class.
        beta: how much labels of the past count; 0 for DER.
        batch: examples in B.
        replay: examples in R, and in R'; None: as many as in B.
        slots: of the memory.
        epochs: how often each experience is gone through.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        alpha: float = 1.0,
        beta: float = 0.5,
        batch: int = 10,
        replay: int | None = None,
        slots: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.alpha, self.beta = net, lr, alpha, beta
        self.batch, self.epochs, self.adapt_parameters = batch, epochs, adapt_parameters
        self.replay, self.memory_size = batch if replay is None else replay, slots

    def adapt(self, support: Examples, state: Distilled | None = None) -> Distilled:
        """The weights after an experience, and the memory of it and of all before."""
        if state is None:
            nothing = empty(Said(support, support.y), self.memory_size)
            state = Distilled(select_parameters(self.net, self.adapt_parameters), nothing)
        params, buffer = state
        again = 0  # steps after the first pass, in which nothing is added to the memory
        for epoch in range(self.epochs):
            for new in minibatches(support, self.batch):
                again += epoch > 0
                said = draw(buffer, self.replay, salt=-1 - again)
                old = draw(buffer, self.replay, salt=1 + again).examples
                now = functional_call(self.net, params, (new.x,))
                params = sgd(partial(self.cost, new, said, old), params, self.lr)
                if epoch == 0:
                    buffer = reservoir(buffer, Said(new, now))
        return Distilled(params, buffer)

    def predict(self, state: Distilled, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, new: Examples, said: Said, old: Examples, params: Params) -> Tensor:
        """What a step lowers: of B, R and R'."""
        inputs = [new.x, said.examples.x, old.x]
        logits = functional_call(self.net, params, (torch.cat(inputs),))
        of_new, of_said, of_old = logits.split([len(x) for x in inputs])
        loss = self.criterion(of_new, new)  # first: it checks the number of classes
        apart = (of_said - said.logits).square().mean(-1)
        return (
            loss
            + self.alpha * weighted_mean(apart, counting(said.examples, new).weight)
            + self.beta * self.criterion(of_old, counting(old, new))
        )
