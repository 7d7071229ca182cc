r"""Look-ahead MAML, Sync-La-MAML and C-MAML (Gupta, Yadav & Paull, 2020, arXiv:2007.13904).

A mini-batch B of a stream is learned by SGD, one example after another, at rates α of which
every parameter has its own; what comes of it is judged on B and a draw R of the past:

$$\theta_{k+1} = \theta_k - \max(0, \alpha) \nabla L(\theta_k; x_{k+1}), \qquad
  M = \operatorname*{mean}_{k \ge 1} L(\theta_k; B \cup R)$$

These steps are then undone, and M is lowered instead: first the rates, whose slopes say whether
an example's step would have agreed with all of B ∪ R, then the weights, at the new rates:

$$\alpha \leftarrow \alpha - \eta \nabla_\alpha M, \qquad
  \theta \leftarrow \theta - \max(0, \alpha) \nabla_\theta M$$

Differs from the paper: B is gone through in the order in which it came, at each glance the
same. As in the authors' code, both slopes are cut to a norm of 2, and the memory takes up B
after the first glance. (Their runs ask for a memory of old tasks alone, `use_old_task_memory`,
which has no effect: the two lists it tells apart are one object. So it is left out here.)
"""

from functools import partial
from typing import Any, NamedTuple

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
    weighted_mean,
)
from quickstudy.core.task import Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    draw,
    empty,
    minibatches,
    reservoir,
    together,
)

RATE = "rate of "


class Paced(NamedTuple):
    """Weights, their rates, and what is remembered of the past."""

    params: Params
    rates: Params  # α: names and shapes of `params`
    buffer: Buffer[Examples]


class LaMAML(Learner[Paced], HasMemorySize):
    """A net that learns a stream at rates that it learns as well, each parameter its own.

    Args:
        net: any module, (N, *features) -> (N, C).
        alpha: α at the start.
        eta: η, the rate of the rates; 0: they stay what they are.
        lr: the rate at which M moves the weights; None: max(0, α), the new rates.
        batch: examples in B.
        replay: examples in R.
        slots: of the memory.
        glances: how often each B is gone through, each time with another R.
        clip: the largest norm of ∇M, of all weights and of all rates.
        first_order: treats the slopes of the steps as constants; default as of the authors.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        alpha: float = 0.15,
        eta: float = 0.3,
        lr: float | None = None,
        batch: int = 10,
        replay: int = 10,
        slots: int = 200,
        glances: int = 5,
        clip: float = 2.0,
        first_order: bool = True,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.alpha, self.eta, self.lr = net, alpha, eta, lr
        self.batch, self.replay, self.memory_size, self.glances = batch, replay, slots, glances
        self.clip, self.first_order, self.adapt_parameters = clip, first_order, adapt_parameters

    def adapt(self, support: Examples, state: Paced | None = None) -> Paced:
        """Weights and rates after an experience, and the memory of it and of all before."""
        if state is None:
            params = select_parameters(self.net, self.adapt_parameters)
            rates = {name: torch.full_like(p, self.alpha) for name, p in params.items()}
            state = Paced(params, rates, empty(support, self.memory_size))
        params, rates, buffer = state
        for new in minibatches(support, self.batch):
            for glance in range(self.glances):
                old = draw(buffer, self.replay, salt=1 + glance)
                known = params | {RATE + name: rate for name, rate in rates.items()}
                slopes = gradient(partial(self.hindsight, new, old))(known)
                slope = clipped({name: slopes[name] for name in params}, self.clip)
                of_rate = clipped({name: slopes[RATE + name] for name in params}, self.clip)
                rates = {name: rate - self.eta * of_rate[name] for name, rate in rates.items()}
                params = {
                    name: p - (rates[name].relu() if self.lr is None else self.lr) * slope[name]
                    for name, p in params.items()
                }
                if glance == 0:
                    buffer = reservoir(buffer, new)
        return Paced(params, rates, buffer)

    def predict(self, state: Paced, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def hindsight(self, new: Examples, old: Examples, known: Params) -> Tensor:
        """M of weights and rates."""
        params = {name: p for name, p in known.items() if not name.startswith(RATE)}
        rates = {name: known[RATE + name].relu() for name in params}
        asked, losses = together(new, old), list[Tensor]()
        for one in minibatches(new, 1):
            step = partial(self.cost, one)
            params = descend(step, params, lr=rates, steps=1, first_order=self.first_order)
            losses.append(self.cost(asked, params))
        return weighted_mean(torch.stack(losses), new.weight)

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)


def sync_la_maml(
    net: nn.Module, *, lr: float = 0.3, eta: float = 0.1, **settings: Any
) -> LaMAML:
    """La-MAML whose weights have a rate of their own, and are updated with the rates, not after
    them (Sync-La-MAML). Settings are those of `LaMAML`."""
    return LaMAML(net, lr=lr, eta=eta, **settings)


def c_maml(net: nn.Module, *, lr: float = 0.1, alpha: float = 0.1, **settings: Any) -> LaMAML:
    """La-MAML with rates that stay as they are (C-MAML). Settings are those of `LaMAML`."""
    return LaMAML(net, lr=lr, alpha=alpha, eta=0.0, **settings)


def clipped(slopes: Params, most: float) -> Params:
    """`slopes`, shortened if their norm over all names is above `most`."""
    square = torch.stack([slope.square().sum() for slope in slopes.values()]).sum()
    share = most / square.clamp_min(most**2).sqrt()  # has a derivative where slopes are zero
    return {name: share * slope for name, slope in slopes.items()}
