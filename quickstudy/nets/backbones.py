"""The networks of the papers, small and plain. Any other `nn.Module` does as well."""

import itertools
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from quickstudy.core.torch_private import BatchNormBase

Net = TypeVar("Net", bound=nn.Module)


class ReLU(nn.ReLU):
    """`nn.ReLU`, compiled to code whose second derivatives are twice as fast on a CPU.

    Its derivative is stored as numbers, 0 and 1. Autograd stores truth values for `nn.ReLU`,
    which generated code processes one element at a time.

    Examples:
        >>> ReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """The positive part of `input`, of any shape."""
        if torch.compiler.is_compiling():
            return input * input.detach().sign().clamp_min(0)
        return super().forward(input)


class MLP(nn.Module):
    """A multilayer perceptron: `body` with `hidden` layers, then a linear `head`.

    Examples:
        >>> MLP(8, 5, hidden=(16,))(torch.zeros(3, 8)).shape
        torch.Size([3, 5])
    """

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

    Examples:
        >>> Conv4(5)(torch.zeros(3, 1, 28, 28)).shape, Conv4().width
        (torch.Size([3, 5]), 64)
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
        if pool not in ("max", "stride"):
            raise ValueError(f"pool={pool!r}: give 'max' or 'stride'.")
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
    """The mean over space: (N, channels, height, width) -> (N, channels).

    Examples:
        >>> SpatialMean()(torch.ones(1, 2, 3, 3))
        tensor([[1., 1.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean((-2, -1))


def use_batch_statistics(net: Net) -> Net:
    """Make every BatchNorm of `net` always normalise by the batch at hand; return `net`.

    MAML's published results do this, in training and at test. It makes predictions
    transductive: a query is normalised together with the other queries, and an evaluation's
    card records it.

    Examples:
        >>> use_batch_statistics(nn.BatchNorm1d(3)).running_mean is None
        True
    """
    for module in net.modules():
        if isinstance(module, BatchNormBase):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return net
