r"""Synaptic intelligence (Zenke, Poole & Ganguli, 2017, arXiv:1703.04200).

While it learns, each weight adds up by how much its own moves lowered the loss, an integral
along the path of descent; what did much is held in later experiences:

$$\omega_i = -\sum_t \frac{\partial L}{\partial \theta_i} \, \Delta_t \theta_i, \qquad
  \Omega_i \leftarrow \max\Big(0, \; \Omega_i
  + \frac{\omega_i}{(\tilde\theta_i - \theta_i)^2 + \xi}\Big), \qquad
  \mathcal{L}(\theta) = L(\theta; B) + c \sum_i \Omega_i (\tilde\theta_i - \theta_i)^2$$

with $\tilde\theta$ the weights before the experience. It needs no second pass over the data, as
EWC does, and no Fisher information.

Differs from the paper: plain descent instead of Adam. The maximum is of the authors' code:
noise may make ω negative, and a spring that pushes has no bound.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.gradients import gradient
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches


class Weighed(NamedTuple):
    """Weights, and how much each has mattered."""

    params: Params  # also what the next experience is held at
    importance: Params  # Ω


class SynapticIntelligence(Learner[Weighed]):
    """Descent whose path says which weights to spare.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α of the descent. Above 1 / (c Ω) the springs swing ever wider.
        strength: c.
        damping: ξ, in units of a weight squared: it bounds Ω of weights that hardly moved.
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
        damping: float = 0.1,
        batch: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.strength, self.damping = net, lr, strength, damping
        self.batch, self.epochs, self.adapt_parameters = batch, epochs, adapt_parameters

    def adapt(self, support: Examples, state: Weighed | None = None) -> Weighed:
        """The weights after an experience, and what each of them did in it and before."""
        if state is None:
            start = select_parameters(self.net, self.adapt_parameters)
            state = Weighed(start, {name: torch.zeros_like(p) for name, p in start.items()})
        before, importance = state
        params = before
        gain = {name: torch.zeros_like(p) for name, p in before.items()}  # ω
        for _ in range(self.epochs):
            for new in minibatches(support, self.batch):
                slopes = gradient(partial(self.cost, new))(params)
                # padding moves nothing
                stiff = 2 * self.strength * (new.weight > 0).any().to(new.weight)
                steps = {
                    name: -self.lr * (slope + stiff * importance[name] * (p - before[name]))
                    for (name, p), slope in zip(params.items(), slopes.values(), strict=True)
                }
                gain = {name: g - slopes[name] * steps[name] for name, g in gain.items()}
                params = {name: p + steps[name] for name, p in params.items()}
        importance = {
            name: (old + gain[name] / ((params[name] - before[name]).square() + self.damping))
            .clamp_min(0)
            for name, old in importance.items()
        }  # fmt: skip
        return Weighed(params, importance)

    def predict(self, state: Weighed, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)
