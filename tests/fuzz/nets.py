"""Random nets of odd layers, each a function of a random state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

SHAPES = (1,), (3,), (8,), (1, 4), (2, 3), (4, 2, 2), (1, 6, 6), (2, 5, 5)


class Odd(NamedTuple):
    """A net (N, *shape) -> (N, outputs), and what is true of it."""

    net: nn.Module
    about: str
    smooth: bool  # no kinks, so that finite differences are right
    apart: bool  # an example's output does not depend on the others


def draw_net(rng: np.random.Generator, shape: tuple[int, ...], outputs: int) -> Odd:
    """Draw one to three blocks of random layers and a last linear layer, in float64."""
    torch.manual_seed(int(rng.integers(2**31)))
    kind = ["flat", "image", "sequence"][{1: 0, 2: 2, 3: 1}[len(shape)]]
    if rng.random() < 0.3:
        kind = "flat"
    draw = {"flat": _flat, "image": _image, "sequence": _sequence}[kind]
    layers, names = list[nn.Module](), list[str]()
    width = draw(rng, shape, layers, names)
    layers.append(_wrapped(rng, nn.Linear(width, outputs), names))
    smooth = not any(name in KINKED for name in names)
    apart = not any(name.startswith("batch") for name in names)
    return Odd(nn.Sequential(*layers).double(), " ".join(names), smooth, apart)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "celu": nn.CELU,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "hardswish": nn.Hardswish,
    "relu6": nn.ReLU6,
    "leaky": nn.LeakyReLU,
    "no dropout": lambda: nn.Dropout(0.0),
}
KINKED = {"relu", "prelu", "hardswish", "relu6", "leaky", "max pool"}


class _Function(nn.Module):
    """A layer that calls functions of torch with parameters of its own."""

    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind, self.width = kind, width
        self.scale, self.shift = (
            nn.Parameter(torch.ones(width)),
            nn.Parameter(torch.zeros(width)),
        )
        self.parts = nn.ParameterList([torch.randn(width, 2) for _ in range(2)])
        self.register_buffer("constant", torch.linspace(0.5, 1.5, width))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "batch norm by function":
                return F.batch_norm(x, None, None, self.scale, self.shift, training=True)
            case "layer norm by function":
                return F.layer_norm(x, (self.width,), self.scale, self.shift)
            case "layer norm by hand":
                centred = x - x.mean(-1, keepdim=True)
                deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
                return centred / deviation * self.scale + self.shift
            case "unit length":
                return F.normalize(x, dim=-1) * self.scale
            case "low rank":
                return x + x @ self.parts[0] @ self.parts[1].T * 0.1
            case "einsum":
                return x + torch.einsum("nd,dr,er->ne", x, self.parts[0], self.parts[1]) * 0.1
            case "sorted":
                return x * self.scale + x.sort(-1).values * 0.1
            case "cumulated":
                return x * self.scale + x.cumsum(-1) * 0.1
            case "buffer":
                return x * self.get_buffer("constant") + self.shift
            case "sliced":
                return torch.cat([x[:, :1] * self.scale[:1], x[:, 1:]], 1)
            case "logsumexp":
                return x - x.logsumexp(-1, keepdim=True) + self.shift
            case "double":
                return x + x.square().clamp_max(100) * self.scale * 0.1
            case _:
                raise AssertionError(self.kind)


FUNCTIONS = (
    "batch norm by function",
    "layer norm by function",
    "layer norm by hand",
    "unit length",
    "low rank",
    "einsum",
    "sorted",
    "cumulated",
    "buffer",
    "sliced",
    "logsumexp",
    "double",
)


class _MyLayerNorm(nn.LayerNorm):
    """A subclass that changes nothing."""


class _MyBatchNorm(nn.BatchNorm1d):
    """A subclass that changes nothing."""


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "layer norm without weights": lambda w: nn.LayerNorm(w, elementwise_affine=False),
    "own layer norm": _MyLayerNorm,
    "rms norm": nn.RMSNorm,
    "group norm": lambda w: nn.GroupNorm(1, w),
    "batch norm": lambda w: nn.BatchNorm1d(w, track_running_stats=False),
    "batch norm without weights": lambda w: nn.BatchNorm1d(
        w, affine=False, track_running_stats=False
    ),
    "batch norm, own": lambda w: _MyBatchNorm(w, track_running_stats=False),
}


class _Residual(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Recomputed(_Residual):
    """The body is computed again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        result = checkpoint(self.body, x, use_reentrant=False)
        assert isinstance(result, Tensor)
        return result


class _Twice(_Residual):
    """The same weights two times."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.tanh(self.body(x)))


def _wrapped(rng: np.random.Generator, layer: nn.Module, names: list[str]) -> nn.Module:
    kind = str(rng.choice(["plain", "weight norm", "spectral norm", "orthogonal"], p=WRAPPED))
    match kind:
        case "weight norm":
            layer = parametrizations.weight_norm(layer)
        case "spectral norm":
            layer = parametrizations.spectral_norm(layer).eval()
        case "orthogonal":
            layer = parametrizations.orthogonal(layer, orthogonal_map="cayley")
    names.append(type(layer).__name__.removeprefix("Parametrized").lower() + f" ({kind})")
    return layer


WRAPPED = [0.85, 0.07, 0.04, 0.04]


def _flat(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    layers: list[nn.Module],
    names: list[str],
) -> int:
    width = int(np.prod(shape))
    layers.append(nn.Flatten())
    for _ in range(rng.integers(0, 3)):
        wide = int(rng.integers(2, 9))
        layers.append(_wrapped(rng, nn.Linear(width, wide, bias=rng.random() < 0.8), names))
        width = wide
        for name, module in _extras(rng, width):
            names.append(name)
            layers.append(module)
    return width


def _extras(rng: np.random.Generator, width: int) -> list[tuple[str, nn.Module]]:
    """Draw an activation, and a norm, a function or a composition."""
    name = str(rng.choice(list(ACTIVATIONS)))
    extras = [(name, ACTIVATIONS[name]())]
    match int(rng.integers(5)):
        case 0:
            name = str(rng.choice(list(NORMS)))
            extras.append((name, NORMS[name](width)))
        case 1:
            name = str(rng.choice(FUNCTIONS))
            extras.append((name, _Function(name, width)))
        case 2:
            name, around = [
                ("residual", _Residual),
                ("recomputed", _Recomputed),
                ("shared twice", _Twice),
            ][rng.integers(3)]
            extras.append((name, around(nn.Sequential(nn.Linear(width, width), nn.Tanh()))))
    if rng.random() < 0.3:
        extras.reverse()
    return extras


def _image(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    layers: list[nn.Module],
    names: list[str],
) -> int:
    channels, wide = shape[0], 2 * int(rng.integers(1, 4))
    convolution = nn.Conv2d(
        channels,
        wide,
        3,
        padding=1,
        stride=int(rng.integers(1, 3)) if shape[1] > 4 else 1,
        padding_mode="circular" if rng.random() < 0.3 else "zeros",
    )
    layers.append(_wrapped(rng, convolution, names))
    name = str(rng.choice(list(ACTIVATIONS)))
    layers.append(ACTIVATIONS[name]())
    names.append(name)
    options: dict[str, nn.Module] = {
        "batch norm 2d": nn.BatchNorm2d(wide, track_running_stats=False),
        "instance norm": nn.InstanceNorm2d(wide, affine=True),
        "group norm": nn.GroupNorm(2, wide),
        "local response": nn.LocalResponseNorm(2),
        "grouped convolution": nn.Conv2d(wide, wide, 3, padding=1, groups=2),
        "transposed convolution": nn.ConvTranspose2d(wide, wide, 2),
        "upsampled": nn.Upsample(scale_factor=2, mode="bilinear"),
        "channel dropout": nn.Dropout2d(0.0),
    }
    name = str(rng.choice([*options, "nothing"]))
    if name in options:
        layers.append(options[name])
        names.append(name)
    pools: dict[str, nn.Module] = {
        "average pool": nn.AdaptiveAvgPool2d(1),
        "max pool": nn.AdaptiveMaxPool2d(1),
        "power pool": nn.Sequential(nn.Softplus(), nn.AdaptiveAvgPool2d(1)),
    }
    name = str(rng.choice(list(pools)))
    layers.extend([pools[name], nn.Flatten()])
    names.append(name)
    return wide


class _Attention(nn.Module):
    """(N, L, D) -> (N, D)"""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


class _Steps(nn.Module):
    """(N, L, D) -> (N, D), by a cell from step to step"""

    def __init__(self, cell: Any):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), self.cell.hidden_size)
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
        return hidden


class _Mean(nn.Module):
    """(N, L, D) -> (N, D)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _sequence(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    layers: list[nn.Module],
    names: list[str],
) -> int:
    width = 4
    layers.append(_wrapped(rng, nn.Linear(shape[-1], width), names))
    name = str(rng.choice(["attention", "transformer", "gru cell", "convolution 1d", "mean"]))
    names.append(name)
    match name:
        case "attention":
            layers.append(_Attention(width))
        case "transformer":
            layer = nn.TransformerEncoderLayer(
                width, 2, 8, dropout=0.0, activation="gelu", batch_first=True
            )
            layers.extend([layer, _Mean()])
        case "gru cell":
            layers.append(_Steps(nn.GRUCell(width, width)))
        case "convolution 1d":
            layers.append(nn.Conv1d(shape[0], shape[0], 3, padding=1))
            layers.append(_Mean())
        case _:
            layers.append(_Mean())
    return width
