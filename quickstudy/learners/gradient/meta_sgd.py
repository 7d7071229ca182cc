r"""Meta-SGD (Li, Zhou, Chen & Li, 2017, arXiv:1707.09835): learned rates of descent.

A start $\theta$ and a rate for each of its entries, $\alpha$, are meta-learned together. The
step is a product by entries, so that $\alpha$ also says in which direction to go (eq. 2 to 4):

$$\min_{\theta, \alpha} \; \mathbb{E}_\tau \; L^q_\tau(\phi_\tau), \qquad
  \phi_\tau = \theta - \alpha \circ \nabla L^s_\tau(\theta)$$

Differs from the paper: nothing. Rates that are all the same and are not learned make it MAML.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
)
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class MetaSGD(Learner[Params], Checkpointed, DescendsInSteps, HasInitialParams):
    """A state is the network's adapted parameters, by name.

    `rates` has a learned rate for every entry of every adapted parameter, by the same names and
    of the same shapes. Nothing keeps a rate positive.

    Args:
        net: any module of one input; its parameters are where adaptation starts.
        lr: where the rates start: all at one value, drawn from this range.
        steps: of the inner gradient descent.
        first_order: treats the inner gradient as a constant.
        adapts: what adaptation changes, as in `MAML`.
        checkpoint: what of the inner steps is kept for the meta-gradient, as in `MAML`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: tuple[float, float] = (0.005, 0.1),
        steps: int = 1,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = None,
        checkpoint: Checkpoint | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net = net
        self.steps, self.first_order = steps, first_order
        self.checkpoint: Checkpoint | None = checkpoint
        start = select_parameters(net, adapt_parameters)
        first = torch.empty(()).uniform_(*lr).item()
        self.rates = holder({name: torch.full_like(p, first) for name, p in start.items()})

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """`steps` of gradient descent on the support set, from the learned start or `state`."""

        def misfit(fast: Params) -> Tensor:
            return self.criterion(self.predict(fast, support.x), support)

        rates = dict(self.rates.named_parameters())
        start = self.initial_params() if state is None else state
        return descend(
            misfit,
            start,
            lr=rates,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        return functional_call(self.net, state, (x,))

    def initial_params(self) -> Params:
        """The parameters that adaptation changes: those that have rates."""
        rates = dict(self.rates.named_parameters())
        return {name: p for name, p in self.net.named_parameters() if name in rates}


def holder(values: Params) -> nn.Module:
    """A module with parameters of these names and values, and nothing else."""
    root = nn.Module()
    for name, value in values.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(value.detach().clone()))
    return root
