r"""Reptile (Nichol, Achiam & Schulman, 2018, arXiv:1803.02999).

Train on a task for a while, then move the start towards where that led (algorithms 1 and 2):

$$\theta \leftarrow \theta + \epsilon \; \frac{1}{T} \sum_\tau (\phi_\tau - \theta), \qquad
  \phi_\tau = \text{some steps of SGD or Adam on mini-batches of the task's support set}$$

$\theta - \phi_\tau$ takes the place of a gradient, so that this line is a step of
`torch.optim.SGD(learner.parameters(), lr=epsilon)`: batched, or serial with one task a step.

Differs from the paper: the inner Adam starts afresh at every task, where the authors keep its
mean squares from task to task.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from quickstudy.capabilities import DescendsInSteps
from quickstudy.core.functional import (
    Criterion,
    Params,
    cross_entropy,
    select_parameters,
    with_gradient,
)
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import InnerOptimizer, adam, descend
from quickstudy.learner import Learner


class Adapted(NamedTuple):
    """What Reptile knows of a task."""

    params: Params  # of the network, by name
    support: Tensor  # (S, *features) inputs to normalise a query with; none if transductive


class Reptile(Learner[Adapted], DescendsInSteps):
    """Every trainable parameter of the network is adapted.

    Args:
        net: any module of one input.
        lr: of the inner optimiser.
        steps: of the inner optimiser; may be more at test than in training.
        batch: support examples in an inner step, drawn at random, none twice before all have
            been seen. None, or no fewer than there are: the whole support set.
        optimizer: of the inner steps; the paper's is Adam without momentum.
        transductive: how a query meets layers that normalise by the batch at hand: among the
            other queries, or, False, alone among the support inputs.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 1e-3,
        steps: int = 5,
        batch: int | None = 10,
        optimizer: InnerOptimizer | None = None,
        transductive: bool = True,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net = net
        self.lr, self.steps, self.batch = lr, steps, batch
        self.optimizer = adam((0.0, 0.999)) if optimizer is None else optimizer
        self.transductive = transductive
        self.initial_params()  # refuses a net that has nothing to adapt

    def adapt(self, support: Examples, state: Adapted | None = None) -> Adapted:
        """`steps` on the support set, from the learned start or `state`, both constants."""
        batches = iter(self._batches(support))

        def misfit(params: Params) -> Tensor:  # called once a step
            batch = next(batches)
            return self.criterion(functional_call(self.net, params, (batch.x,)), batch)

        known = Adapted(self.initial_params(), support.x[:0]) if state is None else state
        params = descend(
            misfit,
            {name: p.detach() for name, p in known.params.items()},
            lr=self.lr,
            steps=self.steps,
            first_order=True,
            optimizer=self.optimizer,
        )
        company = support.x[:0] if self.transductive else support.x
        return Adapted(params, torch.cat([known.support, company]))

    def predict(self, state: Adapted, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        if self.transductive:
            return functional_call(self.net, state.params, (x,))

        def alone(one: Tensor) -> Tensor:
            company = torch.cat([state.support, one[None]])
            return functional_call(self.net, state.params, (company,))[-1]

        return vmap(alone, randomness="different")(x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """The adapted network's loss on the query set; its gradient is the start less what
        was adapted."""
        start = self.initial_params()
        with torch.no_grad():
            state = self.adapt(task.support)
            value = self.criterion(self.predict(state, task.query.x), task.query)
            slopes = {name: p - state.params[name] for name, p in start.items()}
        return with_gradient(value, start, slopes)

    def initial_params(self) -> Params:
        """The trainable parameters."""
        return select_parameters(self.net)

    def _batches(self, support: Examples) -> list[Examples]:
        if self.batch is None or self.batch >= len(support.x):
            return [support] * self.steps
        rows = passes(support.weight, self.steps * self.batch).view(self.steps, self.batch)
        return [support.take(row) for row in rows.unbind()]


def passes(weight: Tensor, draws: int) -> Tensor:
    """The first `draws` rows of pass after pass through all examples of `weight` (N,) above
    zero, every pass in an order of its own (draws,)."""
    real = (weight > 0).sum().clamp_min(1)
    scores = torch.rand(draws, len(weight), device=weight.device)  # as many as may be needed
    order = torch.where(weight > 0, scores, 2).argsort(-1)  # padding comes last
    drawn = torch.arange(draws, device=weight.device)
    return order[drawn // real, drawn % real]
