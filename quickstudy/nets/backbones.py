"""The networks of the papers, small and plain. Any other `nn.Module` does as well."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from quickstudy.core.torch_private import BatchNormBase

if TYPE_CHECKING:
    from quickstudy.environments.environment import Environment

Net = TypeVar("Net", bound=nn.Module)


class ReLU(nn.ReLU):
    """`nn.ReLU`, compiled to code whose second derivatives are twice as fast on a CPU.

    Its derivative is kept as numbers, 0 and 1: generated code works through arrays of truth
    values, which autograd keeps of `nn.ReLU`, one element at a time.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The positive part of `input`, of any shape."""
        if torch.compiler.is_compiling():
            return input * input.detach().sign().clamp_min(0)
        return super().forward(input)


class MLP(nn.Module):
    """A multilayer perceptron: `body` with `hidden` layers, then a linear `head`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (40, 40),
        activation: type[nn.Module] = ReLU,
    ):
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), activation()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.head(self.body(x))


class GaussianPolicy(nn.Module):
    """Means of actions by a net, and standard deviations that are learned, the same whatever is
    seen: what `environments.DiagonalGaussian` takes.

    Args:
        mean: (N, O) -> (N, A).
        actions: A.
        deviation: to begin with.
        floor: no deviation counts as less.
    """

    def __init__(
        self, mean: nn.Module, actions: int, *, deviation: float = 1.0, floor: float = 1e-6
    ):
        super().__init__()
        self.mean, self.lowest = mean, math.log(floor)
        self.log_deviation = nn.Parameter(torch.full((actions,), math.log(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        """Means and logarithms of deviations (N, 2A)."""
        mean = self.mean(x)
        log_deviation = self.log_deviation.clamp_min(self.lowest)
        return torch.cat([mean, log_deviation.expand_as(mean)], -1)


def policy_net(
    environment: "Environment",
    *,
    hidden: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    deviation: float = 1.0,
) -> nn.Module:
    """The usual net of policy gradients: an `MLP` that begins with Glorot's weights and biases
    of 0, for the logits of one of several actions, or for the means of a `GaussianPolicy`."""
    size = environment.actions
    net = MLP(environment.observations, size, hidden=hidden, activation=activation)
    for name, p in net.named_parameters():
        nn.init.zeros_(p) if name.endswith("bias") else nn.init.xavier_uniform_(p)
    return net if environment.discrete else GaussianPolicy(net, size, deviation=deviation)


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving: the net of few-shot
    papers.

    Args:
        outputs: width of the linear `head`; None: no head, the net embeds.
        channels: in each block.
        inputs: channels of an image.
        size: height and width of an image, in pixels.
        pool: "max" halves by 2x2 max-pooling and flattens what is left (Vinyals et al.,
            2016; Snell et al., 2017); "stride" halves by a stride of 2 and averages what is
            left over space (MAML's Omniglot net: Finn et al., 2017).
    """

    def __init__(
        self,
        outputs: int | None = None,
        *,
        channels: int = 64,
        inputs: int = 1,
        size: int = 28,
        pool: Literal["max", "stride"] = "max",
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(4):
            entering = inputs if block == 0 else channels
            stride = 2 if pool == "stride" else 1
            layers += [nn.Conv2d(entering, channels, 3, stride=stride, padding=1)]
            layers.append(nn.BatchNorm2d(channels))
            if pool == "max":  # before the ReLU: the same function, of a quarter of the numbers
                layers.append(nn.MaxPool2d(2))
            layers.append(nn.ReLU())
        layers.append(nn.Flatten() if pool == "max" else SpatialMean())
        side = size // 16 if pool == "max" else 1
        self.width = channels * side * side  # of the embedding
        self.body = nn.Sequential(*layers)
        self.head = nn.Identity() if outputs is None else nn.Linear(self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, size, size) -> (N, outputs), or (N, width) without a head."""
        return self.head(self.body(x))


class SpatialMean(nn.Module):
    """(N, channels, height, width) -> (N, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean((-2, -1))


def use_batch_statistics(net: Net) -> Net:
    """Makes every BatchNorm of `net` normalise by the batch at hand, always; returns `net`.

    This is what MAML's published results do, in training and at test. It makes predictions
    transductive: a query is normalised together with the other queries, and an evaluation's
    card will say so.
    """
    for module in net.modules():
        if isinstance(module, BatchNormBase):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return net
