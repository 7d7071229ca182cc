r"""Synaptic intelligence (Zenke, Poole & Ganguli, 2017, arXiv:1703.04200).

During an experience, each weight accumulates by how much its own changes lowered the loss, an
integral along the path of descent. A quadratic penalty holds important weights in later
experiences:

$$\omega_i = -\sum_t \frac{\partial L}{\partial \theta_i} \, \Delta_t \theta_i, \qquad
  \Omega_i \leftarrow \max\Big(0, \; \Omega_i
  + \frac{\omega_i}{(\tilde\theta_i - \theta_i)^2 + \xi}\Big), \qquad
  \mathcal{L}(\theta) = L(\theta; B) + c \sum_i \Omega_i (\tilde\theta_i - \theta_i)^2$$

with $\tilde\theta$ the weights before the experience. Unlike EWC, it needs no second pass over
the data and no Fisher information.

Differs from the paper: plain descent instead of Adam. The maximum is that of the authors' code:
noise can make ω negative, and a negative penalty has no lower bound.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.gradients import gradient
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import any_weight, minibatches


class SIState(NamedTuple):
    """Parameters, and their importance.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.SynapticIntelligence(torch.nn.Linear(2, 2)).adapt(support)
        >>> state.importance["weight"].shape
        torch.Size([2, 2])
    """

    params: Params  # also the centre of the next experience's penalty
    importance: Params  # Ω


class SynapticIntelligence(NetLearner[SIState], TakesDenseTargets):
    """Descent whose path measures the importance of each weight.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α of the descent. It diverges above 1 / (c Ω).
        si_lambda: c.
        damping: ξ, in units of a weight squared: it bounds Ω of weights that hardly moved.
        batch_size: examples in B.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.SynapticIntelligence(torch.nn.Linear(4, 4))
        >>> state = learner.adapt(examples.take(slice(2)))
        >>> (state.importance["weight"] > 0).any(0)  # inputs that mattered
        tensor([ True,  True, False, False])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        si_lambda: float = 1.0,
        damping: float = 0.1,
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
        self.si_lambda, self.damping = si_lambda, damping

    def adapt(self, support: Examples, state: SIState | None = None) -> SIState:
        """Return the parameters after an experience, and their importance so far."""
        params = before = self.initial_params() if state is None else state.params
        gain = tree_map(torch.zeros_like, before)  # ω
        importance = gain if state is None else state.importance
        for batch in list(minibatches(support, self.batch_size)) * self.epochs:
            grads = gradient(partial(self.batch_loss, batch))(params)
            stiffness = 2 * self.si_lambda * any_weight(batch)  # padding moves nothing
            steps = {
                name: -self.lr * (g + stiffness * importance[name] * (p - before[name]))
                for (name, p), g in zip(params.items(), grads.values(), strict=True)
            }
            gain = {name: g - grads[name] * steps[name] for name, g in gain.items()}
            params = tree_map(torch.add, params, steps)
        importance = {
            name: (old + gain[name] / ((params[name] - before[name]).square() + self.damping))
            .clamp_min(0)
            for name, old in importance.items()
        }  # fmt: skip
        return SIState(params, importance)
