r"""Look-ahead MAML, Sync-La-MAML and C-MAML (Gupta, Yadav & Paull, 2020, arXiv:2007.13904).

A mini-batch B of a stream is learned by SGD, one example after another, with a learning rate α
for every parameter. The result is evaluated on B and a sample R of the past:

$$\theta_{k+1} = \theta_k - \max(0, \alpha) \nabla L(\theta_k; x_{k+1}), \qquad
  M = \operatorname*{mean}_{k \ge 1} L(\theta_k; B \cup R)$$

These steps are then undone, and M is lowered instead. First come the rates, whose gradients
measure whether an example's step agrees with all of B ∪ R, then the weights, at the new rates:

$$\alpha \leftarrow \alpha - \eta \nabla_\alpha M, \qquad
  \theta \leftarrow \theta - \max(0, \alpha) \nabla_\theta M$$

Differs from the paper: B is learned in the order in which it came, the same at each glance. As
in the authors' code, both gradients are clipped to a norm of 2, and the memory takes up B after
the first glance. (Their runs ask for a memory of old tasks alone, `use_old_task_memory`, which
has no effect: the two lists it tells apart are one object. So it is left out here.)
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy, weighted_mean
from quickstudy.core.gradients import gradient
from quickstudy.core.linear import dot
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.inner_loop.descent import descend
from quickstudy.learners.lifelong.net_learner import ReplayLearner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    minibatches,
    reservoir,
    sample,
)


class LaMAMLState(NamedTuple):
    """Parameters, their learning rates, and a memory of the past.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.LaMAML(torch.nn.Linear(2, 2), glances=1).adapt(support)
        >>> state.rates["bias"].shape, state.buffer.seen
        (torch.Size([2]), tensor(2))
    """

    params: Params
    rates: Params  # α: names and shapes of `params`
    buffer: Buffer[Examples]


class LaMAML(ReplayLearner[LaMAMLState]):
    """A net that learns a stream, and a learning rate for every parameter as well.

    Args:
        net: any module, (N, *features) -> (N, C).
        alpha: α at the start.
        eta: η, the learning rate of α; 0: α stays constant.
        lr: the rate at which M moves the weights; None: max(0, α), the new rates.
        batch_size: examples in B.
        replay_batch_size: examples in R.
        memory_size: places of the memory.
        glances: passes over each B, each with another R.
        clip: the largest norm of ∇M, of all weights and of all rates.
        first_order: treat the gradients of the steps as constants; default as of the authors.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.LaMAML(torch.nn.Linear(4, 4), alpha=0.1, batch_size=1)
        >>> state = learner.adapt(examples)
        >>> bool((state.rates["weight"] > 0.1).any()), state.buffer.seen
        (True, tensor(4))
    """

    lr: float | None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        net: nn.Module,
        *,
        alpha: float = 0.15,
        eta: float = 0.3,
        lr: float | None = None,
        batch_size: int = 10,
        replay_batch_size: int = 10,
        memory_size: int = 200,
        glances: int = 5,
        clip: float = 2.0,
        first_order: bool = True,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            batch_size=batch_size,
            replay_batch_size=replay_batch_size,
            memory_size=memory_size,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.alpha, self.eta, self.lr, self.glances = alpha, eta, lr, glances
        self.clip, self.first_order = clip, first_order

    def adapt(self, support: Examples, state: LaMAMLState | None = None) -> LaMAMLState:
        """Return parameters and rates after an experience, and the memory with its examples."""
        initial = self.initial_params()
        params, rates, buffer = state or LaMAMLState(
            initial,
            tree_map(lambda p: torch.full_like(p, self.alpha), initial),
            empty_buffer(support, self.memory_size),
        )
        for new in minibatches(support, self.batch_size):
            for glance in range(self.glances):
                old = sample(buffer, self.replay_batch_size, salt=1 + glance)
                pairs = {name: torch.stack([p, rates[name]]) for name, p in params.items()}
                grads = gradient(partial(self.meta_loss, new, old))(pairs)  # (2, *shape) each
                param_grads, rate_grads = (
                    clip_by_norm({name: g[part] for name, g in grads.items()}, self.clip)
                    for part in (0, 1)
                )
                rates = {name: r - self.eta * rate_grads[name] for name, r in rates.items()}
                params = {
                    name: p - (rates[name].relu() if self.lr is None else self.lr) * g
                    for (name, p), g in zip(params.items(), param_grads.values(), strict=True)
                }
                if glance == 0:
                    buffer = reservoir(buffer, new)
        return LaMAMLState(params, rates, buffer)

    def meta_loss(self, new: Examples, old: Examples, pairs: Params) -> Tensor:
        """Return M of parameters and their rates, stacked in pairs (2, *shape)."""
        params = {name: pair[0] for name, pair in pairs.items()}
        rates = {name: pair[1].relu() for name, pair in pairs.items()}
        both, losses = Examples.cat(new, old), list[Tensor]()
        for example in minibatches(new, 1):
            loss = partial(self.batch_loss, example)
            params = descend(loss, params, lr=rates, steps=1, first_order=self.first_order)
            losses.append(self.batch_loss(both, params))
        return weighted_mean(torch.stack(losses), new.weight)


def sync_la_maml(
    net: nn.Module, *, lr: float = 0.3, eta: float = 0.1, **settings: Any
) -> LaMAML:
    """La-MAML with a constant learning rate for the weights, updated together with the rates
    and not after them (Sync-La-MAML). Settings are those of `LaMAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.sync_la_maml(torch.nn.Linear(4, 4))
        >>> learner.lr, learner.eta
        (0.3, 0.1)
    """
    return LaMAML(net, lr=lr, eta=eta, **settings)


def c_maml(net: nn.Module, *, lr: float = 0.1, alpha: float = 0.1, **settings: Any) -> LaMAML:
    """La-MAML with constant rates (C-MAML). Settings are those of `LaMAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.c_maml(torch.nn.Linear(4, 4))
        >>> learner.lr, learner.alpha, learner.eta
        (0.1, 0.1, 0.0)
    """
    return LaMAML(net, lr=lr, alpha=alpha, eta=0.0, **settings)


def clip_by_norm(grads: Params, max_norm: float) -> Params:
    """Shorten `grads` to `max_norm` if their norm over all names is above.

    Examples:
        >>> import torch
        >>> clip_by_norm({"a": torch.tensor([3.0, 4.0])}, 10.0)
        {'a': tensor([3., 4.])}
        >>> clip_by_norm({"a": torch.tensor([3.0, 4.0])}, 2.5)
        {'a': tensor([1.5000, 2.0000])}
    """
    square = dot(grads, grads)
    # the clamp has a derivative where the gradients are zero
    factor = max_norm / square.clamp_min(max_norm**2).sqrt()
    return {name: factor * g for name, g in grads.items()}
