r"""Fast context adaptation via meta-learning, CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann &
Whiteson, 2019, arXiv:1810.03642).

A net that all tasks share takes a context vector beside its input. Only that vector is adapted,
by gradient descent from zero; the net is meta-learned through that (section 3):

$$\phi_\tau = -\alpha \nabla_\phi L^s_\tau(\theta, \phi) \big|_{\phi = 0} \; \text{(repeated)},
  \qquad \min_\theta \; \mathbb{E}_\tau \; L^q_\tau(\theta, \phi_\tau)$$

Differs from the paper: nothing in the learner. In `film_conv4` the context acts before the
max-pooling of its block, in the released code after it; the order matters where a scale is
negative.
"""

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.functional import Criterion, Params, cross_entropy
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner
from quickstudy.nets.backbones import Conv4


class CAVIA(Learner[Tensor], Checkpointed, DescendsInSteps, HasInitialParams):
    """A state is the context vector (context,): all that is known of a task.

    Args:
        net: a module of two inputs, `net(x, context)`, such as `ContextInput`, `film_conv4` or
            your own; meta-learned, and not adapted.
        context: size of the context vector.
        lr: of the inner gradient descent.
        steps: of the inner gradient descent; the paper does 1 for regression, 2 for images.
        first_order: treats the inner gradient as a constant.
        checkpoint: what of the inner steps is kept for the meta-gradient, as in `MAML`.
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
        self.net, self.context = net, context
        self.lr, self.steps, self.first_order = lr, steps, first_order
        self.checkpoint: Checkpoint | None = checkpoint

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        """`steps` of gradient descent on the support set, from zero or from `state`."""

        def misfit(fast: Params) -> Tensor:
            return self.criterion(self.predict(fast["context"], support.x), support)

        start = self.initial_params() if state is None else state
        fast = descend(
            misfit,
            {"context": start},
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )
        return fast["context"]

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """What the net says of `x`, given the context."""
        return self.net(x, state)

    def initial_params(self) -> Tensor:
        """The context before any example: zero (D,)."""
        return next(self.parameters()).new_zeros(self.context)


class ContextInput(nn.Module):
    """Appends the context to every input, as the paper does for regression.

    Args:
        net: any module of one input, as wide as an input and the context together.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, ..., D) and (context,) -> `net` of (N, ..., D + context)."""
        return self.net(torch.cat([x, context.expand(*x.shape[:-1], -1)], -1))


class FiLM(nn.Module):
    """Scales and shifts the channels between two halves of a net, by amounts that are linear
    in the context (feature-wise linear modulation: Perez et al., 2018, arXiv:1709.07871).

    Args:
        before: the first half, whose outputs are (N, channels, ...).
        after: the second half.
        channels: of what is scaled and shifted.
        context: size of the context vector.
    """

    def __init__(self, before: nn.Module, after: nn.Module, *, channels: int, context: int):
        super().__init__()
        self.before, self.after = before, after
        self.film = nn.Linear(context, 2 * channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, *features) and (context,) -> what `after` gives."""
        h = self.before(x)
        scale, shift = self.film(context).view(2, -1, *[1] * (h.ndim - 2))
        return self.after(scale * h + shift)


def film_conv4(outputs: int, *, context: int = 100, layer: int = 3, **settings: Any) -> FiLM:
    """A `Conv4` that the context acts on between a layer's normalisation and its ReLU.

    Args:
        layer: which of the four (the paper: the third).
        settings: of `Conv4`.

    Raises:
        ValueError: there is no such layer.
    """
    if layer not in range(1, 5):
        raise ValueError(f"layer={layer}: choose one of the four layers of a Conv4, 1 to 4.")
    net = Conv4(outputs, **settings)
    parts = list(net.body)
    norm = [part for part in parts if isinstance(part, nn.BatchNorm2d)][layer - 1]
    end = parts.index(norm) + 1
    before, after = nn.Sequential(*parts[:end]), nn.Sequential(*parts[end:], net.head)
    return FiLM(before, after, channels=norm.num_features, context=context)
