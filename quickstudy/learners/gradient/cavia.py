r"""Fast context adaptation via meta-learning, CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann &
Whiteson, 2019, arXiv:1810.03642).

One net is shared by all tasks and takes a context vector as a second input. Adaptation changes
only the context, by gradient descent from zero. The net is meta-learned through this descent
(section 3):

$$\phi_\tau = -\alpha \nabla_\phi L^s_\tau(\theta, \phi) \big|_{\phi = 0} \; \text{(repeated)},
  \qquad \min_\theta \; \mathbb{E}_\tau \; L^q_\tau(\theta, \phi_\tau)$$

Differs from the paper: nothing in the learner. In `film_conv4` the context acts before the
max-pooling of its block; in the released code it acts after it. The order matters where a
scale is negative.
"""

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.capabilities import (
    Checkpointed,
    DescendsInSteps,
    HasInitialParams,
    TakesDenseTargets,
)
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner
from quickstudy.nets.backbones import Conv4


class CAVIA(
    Learner[Tensor], Checkpointed, DescendsInSteps, HasInitialParams, TakesDenseTargets
):
    """The state of a task is its context vector (context,).

    Args:
        net: a module of two inputs, `net(x, context)`, such as `ContextInput` or `film_conv4`.
            It is meta-learned and not adapted.
        context: size of the context vector.
        lr: learning rate of the inner loop.
        steps: number of inner steps; the paper takes 1 for regression and 2 for images.
        first_order: treat the inner gradient as a constant.
        checkpoint: how much of the inner steps is stored for the meta-gradient; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> net = qs.learners.gradient.ContextInput(qs.nets.MLP(1 + 4, 2))
        >>> learner = qs.CAVIA(net, context=4, steps=20)
        >>> state = learner.adapt(support)
        >>> state.shape, learner.predict(state, x).shape
        (torch.Size([4]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        context: int,
        lr: float = 1.0,
        steps: int = 1,
        first_order: bool = False,
        checkpoint: Checkpoint | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.context, self.lr, self.steps = net, context, lr, steps
        self.first_order, self.checkpoint = first_order, checkpoint

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        """Take `steps` of gradient descent on the support set, from zero or from `state`."""
        start = self.initial_params() if state is None else state
        fast = descend(
            lambda fast: self.criterion(self.predict(fast["context"], support.x), support),
            {"context": start},
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )
        return fast["context"]

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """Return the outputs of the net for `x`, given the context."""
        return self.net(x, state)

    def initial_params(self) -> Tensor:
        """Return the context before any example: zeros (context,)."""
        return next(self.parameters()).new_zeros(self.context)


class ContextInput(nn.Module):
    """Append the context to every input, as the paper does for regression.

    Args:
        net: any module of one input, as wide as an input and the context together.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.gradient import ContextInput
        >>> net = ContextInput(torch.nn.Linear(3 + 2, 4))
        >>> net(torch.randn(7, 3), torch.zeros(2)).shape
        torch.Size([7, 4])
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, ..., D) and (context,) -> the outputs of `net` for (N, ..., D + context)."""
        return self.net(torch.cat([x, context.expand(*x.shape[:-1], -1)], -1))


class FiLM(nn.Module):
    """Feature-wise linear modulation (Perez et al., 2018, arXiv:1709.07871).

    Scale and shift the channels between two halves of a net. Both are linear in the context.

    Args:
        before: the first half, with outputs (N, channels, ...).
        after: the second half.
        channels: number of channels between the halves.
        context: size of the context vector.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from quickstudy.learners.gradient import FiLM
        >>> net = FiLM(nn.Linear(3, 8), nn.Linear(8, 2), channels=8, context=5)
        >>> net(torch.randn(7, 3), torch.zeros(5)).shape
        torch.Size([7, 2])
    """

    def __init__(self, before: nn.Module, after: nn.Module, *, channels: int, context: int):
        super().__init__()
        self.before, self.after = before, after
        self.film = nn.Linear(context, 2 * channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, *features) and (context,) -> the outputs of `after`."""
        h = self.before(x)
        scale, shift = self.film(context).view(2, -1, *[1] * (h.ndim - 2))
        return self.after(scale * h + shift)


def film_conv4(outputs: int, *, context: int = 100, layer: int = 3, **settings: Any) -> FiLM:
    """Return a `Conv4` with `FiLM` between the normalisation and the ReLU of one layer.

    Args:
        outputs: number of outputs.
        context: size of the context vector.
        layer: number of the modulated layer, 1 to 4; the paper takes the third.
        settings: of `Conv4`.

    Raises:
        ValueError: there is no such layer.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.gradient import film_conv4
        >>> net = film_conv4(5, context=10, channels=4, size=16)
        >>> net(torch.randn(2, 1, 16, 16), torch.zeros(10)).shape
        torch.Size([2, 5])
    """
    if layer not in range(1, 5):
        raise ValueError(f"layer={layer}: choose one of the four layers of a Conv4, 1 to 4.")
    net = Conv4(outputs, **settings)
    modules = list(net.body)
    norm = [module for module in modules if isinstance(module, nn.BatchNorm2d)][layer - 1]
    end = modules.index(norm) + 1
    before, after = nn.Sequential(*modules[:end]), nn.Sequential(*modules[end:], net.head)
    return FiLM(before, after, channels=norm.num_features, context=context)
