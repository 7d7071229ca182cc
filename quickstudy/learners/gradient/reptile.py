r"""Reptile (Nichol, Achiam & Schulman, 2018, arXiv:1803.02999).

Train on a task for some steps, then move the initialisation towards the result (algorithms 1
and 2):

$$\theta \leftarrow \theta + \epsilon \; \frac{1}{T} \sum_\tau (\phi_\tau - \theta), \qquad
  \phi_\tau = \text{some steps of SGD or Adam on mini-batches of the task's support set}$$

$\theta - \phi_\tau$ is used as a gradient, so this update is a step of
`torch.optim.SGD(learner.parameters(), lr=epsilon)`. One task per step is the serial version.

Differs from the paper: the inner Adam is reset for every task; the authors keep its mean
squares from task to task.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.capabilities import DescendsInSteps, TakesDenseTargets
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.gradients import with_gradient
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.inner_loop.descent import InnerOptimizer, adam, descend
from quickstudy.learner import ParameterLearner


class ReptileState(NamedTuple):
    """The adapted parameters, and the inputs that queries are normalised with.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.Reptile(torch.nn.Linear(2, 2), steps=1).adapt(support)
        >>> state.params["weight"].shape, state.support.shape
        (torch.Size([2, 2]), torch.Size([0, 2]))
    """

    params: Params  # of the network, by name
    support: Tensor  # (S, *features)  support inputs; S = 0 if transductive


class Reptile(ParameterLearner[ReptileState], DescendsInSteps, TakesDenseTargets):
    """Adapts every trainable parameter of the network.

    Args:
        net: any module of one input.
        lr: learning rate of the inner loop.
        steps: number of inner steps; may be larger at test time.
        batch_size: support examples per inner step, drawn at random without replacement until
            all are used. None, or S and more: the whole support set.
        optimizer: of the inner loop; the paper's is Adam without momentum.
        transductive: normalise each query by the statistics of all queries, in layers that use
            batch statistics. False: by those of the support inputs and the query itself.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.Reptile(qs.nets.MLP(1, 2), lr=0.05)
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 1e-3,
        steps: int = 5,
        batch_size: int | None = 10,
        optimizer: InnerOptimizer | None = None,
        transductive: bool = True,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(net, criterion=criterion)
        self.lr, self.steps, self.batch_size = lr, steps, batch_size
        self.optimizer = adam((0.0, 0.999)) if optimizer is None else optimizer
        self.transductive = transductive

    def adapt(self, support: Examples, state: ReptileState | None = None) -> ReptileState:
        """Take `steps` of descent on the support set, from the initialisation or `state`.

        Both are constants.
        """
        batches = iter(self._batches(support))
        if state is None:
            none = tree_map(lambda leaf: leaf[:0], support.x)
            state = ReptileState(self.initial_params(), none)
        params = descend(
            lambda params: self.batch_loss(next(batches), params),  # called once a step
            {name: p.detach() for name, p in state.params.items()},
            lr=self.lr,
            steps=self.steps,
            first_order=True,
            optimizer=self.optimizer,
        )
        if self.transductive:
            return state._replace(params=params)
        inputs = tree_map(lambda *parts: torch.cat(parts), state.support, support.x)
        return ReptileState(params, inputs)

    def predict(self, state: ReptileState, x: Tensor) -> Tensor:
        """Return the outputs of the adapted network for `x`."""
        if self.transductive:
            return super().predict(state, x)

        def predict_one(query: Tensor) -> Tensor:
            inputs = tree_map(lambda a, b: torch.cat([a, b[None]]), state.support, query)
            return self.logits(state.params, inputs)[-1]

        return vmap(predict_one, randomness="different")(x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the query loss, with the initial minus the adapted parameters as gradient."""
        initial = self.initial_params()
        with torch.no_grad():
            state = self.adapt(task.support)
            value = self.criterion(self.predict(state, task.query.x), task.query)
            differences = {name: p - state.params[name] for name, p in initial.items()}
        return with_gradient(value, initial, differences)

    def _batches(self, support: Examples) -> list[Examples]:
        if self.batch_size is None or self.batch_size >= len(support.x):
            return [support] * self.steps
        rows = epoch_order(support.weight, self.steps * self.batch_size).view(self.steps, -1)
        return [support.take(row) for row in rows.unbind()]


def epoch_order(weight: Tensor, draws: int) -> Tensor:
    """Return the first `draws` indices of successive epochs (draws,), each in a random order.

    An epoch goes through all examples with `weight` (N,) above zero.

    Examples:
        >>> import torch
        >>> first, second = epoch_order(torch.tensor([1.0, 1.0, 0.0, 1.0]), 6).split(3)
        >>> first.sort().values, second.sort().values
        (tensor([0, 1, 3]), tensor([0, 1, 3]))
    """
    size = (weight > 0).sum().clamp_min(1)
    scores = torch.rand(draws, len(weight), device=weight.device)  # an upper bound of epochs
    order = torch.where(weight > 0, scores, 2).argsort(-1)  # padding comes last
    draw = torch.arange(draws, device=weight.device)
    return order[draw // size, draw % size]
