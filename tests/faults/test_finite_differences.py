"""The meta-gradient of MAML against central differences of its own loss, in double precision,
for every module whose second derivative could be wrong; comparing ways of executing with each
other would miss a wrong kernel that they share."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from quickstudy import MAML, Learner
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets import use_cells
from quickstudy.testing.learners import Blobs

STEP = 2e-5
WEIGHT_NORM: Any = vars(torch)["_weight_norm"]


def batch(size: int = 2) -> TaskBatch:
    tasks = Blobs().sample(size, torch.Generator().manual_seed(0))  # x of width 8, 3 classes
    return tree_map(lambda leaf: leaf.double(), tasks)


class Call(nn.Module):
    """A function of x and of parameters of these shapes, called by hand."""

    def __init__(self, fn: Callable[..., Any], *shapes: tuple[int, ...]):
        super().__init__()
        self.fn = fn
        self.own = nn.ParameterList(nn.Parameter(torch.rand(shape) + 0.5) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, *self.own)


class First(nn.Module):
    """The first output of a module of several."""

    def __init__(self, module: nn.Module, inputs: int = 1):
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.module(*[x] * self.inputs)[0]


class SubclassOfLayerNorm(nn.LayerNorm):  # over the channels of images, as in ConvNeXt
    def forward(self, input: Tensor) -> Tensor:
        x = F.layer_norm(input.movedim(1, -1), self.normalized_shape, self.weight, self.bias)
        return x.movedim(-1, 1)


class SubclassOfBatchNorm(nn.BatchNorm2d):
    pass


class SubclassOfInstanceNorm(nn.InstanceNorm2d):
    pass


class SubclassOfGroupNorm(nn.GroupNorm):
    pass


class SubclassOfRMSNorm(nn.RMSNorm):
    pass


class Twice(nn.Module):
    """A module of two inputs, given the same one twice."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, 0.5 * x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


class Tokens(nn.Module):
    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding, self.scale = embedding, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.arange(6).expand(len(x), 6) % 4
        return self.scale(x) * self.embedding(ids).flatten(1)[:, :6]


def parametrized() -> nn.Module:
    net = nn.Linear(6, 6)
    parametrize.register_parametrization(net, "weight", Symmetric())
    return net


def fused_batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.aten.native_batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5)[0]


VECTOR, ROWS, IMAGE, VOLUME = (6,), (4, 6), (4, 4, 4), (2, 4, 4, 4)
CHANNELS = (4,)

MODULES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    # normalisation
    "BatchNorm1d": (VECTOR, lambda: nn.BatchNorm1d(6, track_running_stats=False)),
    "BatchNorm1d of sequences": (ROWS, lambda: nn.BatchNorm1d(4, track_running_stats=False)),
    "BatchNorm2d": (IMAGE, lambda: nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d without weight": (
        IMAGE,
        lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ),
    "BatchNorm3d": (VOLUME, lambda: nn.BatchNorm3d(2, track_running_stats=False)),
    "BatchNorm2d in evaluation": (IMAGE, lambda: nn.BatchNorm2d(4).eval()),
    "subclass of BatchNorm2d": (
        IMAGE,
        lambda: SubclassOfBatchNorm(4, track_running_stats=False),
    ),
    "LayerNorm": (VECTOR, lambda: nn.LayerNorm(6)),
    "LayerNorm without bias": (ROWS, lambda: nn.LayerNorm(6, bias=False)),
    "LayerNorm without weight": (ROWS, lambda: nn.LayerNorm(6, elementwise_affine=False)),
    "subclass of LayerNorm": (IMAGE, lambda: SubclassOfLayerNorm(4)),
    "GroupNorm": (IMAGE, lambda: nn.GroupNorm(2, 4)),
    "subclass of GroupNorm": (IMAGE, lambda: SubclassOfGroupNorm(2, 4)),
    "InstanceNorm1d": (ROWS, lambda: nn.InstanceNorm1d(4, affine=True)),
    "InstanceNorm2d": (IMAGE, lambda: nn.InstanceNorm2d(4, affine=True)),
    "InstanceNorm3d": (VOLUME, lambda: nn.InstanceNorm3d(2, affine=True)),
    "subclass of InstanceNorm2d": (IMAGE, lambda: SubclassOfInstanceNorm(4, affine=True)),
    "RMSNorm": (ROWS, lambda: nn.RMSNorm(6)),
    "subclass of RMSNorm": (ROWS, lambda: SubclassOfRMSNorm(6)),
    "LocalResponseNorm": (IMAGE, lambda: nn.LocalResponseNorm(2)),
    "F.batch_norm": (
        IMAGE,
        lambda: Call(
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True), CHANNELS, CHANNELS
        ),
    ),
    "F.batch_norm by keywords": (
        IMAGE,
        lambda: Call(
            lambda x, w: F.batch_norm(
                x, running_mean=None, running_var=None, weight=w, training=True
            ),
            CHANNELS,
        ),
    ),
    "F.batch_norm of a bias only": (
        IMAGE,
        lambda: Call(lambda x, b: F.batch_norm(x, None, None, None, b, True), CHANNELS),
    ),
    "F.layer_norm": (
        ROWS,
        lambda: Call(lambda x, w, b: F.layer_norm(x, (6,), w, b), (6,), (6,)),
    ),
    "F.layer_norm over two axes": (
        ROWS,
        lambda: Call(lambda x, w, b: F.layer_norm(x, ROWS, weight=w, bias=b), ROWS, ROWS),
    ),
    "F.group_norm": (
        IMAGE,
        lambda: Call(lambda x, w, b: F.group_norm(x, 2, w, b), CHANNELS, CHANNELS),
    ),
    "F.instance_norm": (
        IMAGE,
        lambda: Call(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), CHANNELS, CHANNELS),
    ),
    "F.rms_norm": (ROWS, lambda: Call(lambda x, w: F.rms_norm(x, (6,), w), (6,))),
    "torch.batch_norm": (
        IMAGE,
        lambda: Call(
            lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
            CHANNELS,
            CHANNELS,
        ),
    ),
    "torch.layer_norm": (
        ROWS,
        lambda: Call(lambda x, w, b: torch.layer_norm(x, [6], w, b), (6,), (6,)),
    ),
    "torch.native_layer_norm": (
        ROWS,
        lambda: Call(
            lambda x, w, b: torch.native_layer_norm(x, [6], w, b, 1e-5)[0], (6,), (6,)
        ),
    ),
    "statistics of torch.native_layer_norm": (
        ROWS,
        lambda: Call(
            lambda x, w, b: sum(torch.native_layer_norm(x, [6], w, b, 1e-5)), (6,), (6,)
        ),
    ),
    "torch.native_batch_norm": (
        IMAGE,
        lambda: Call(
            lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[0],
            CHANNELS,
            CHANNELS,
        ),
    ),
    "aten.native_batch_norm": (IMAGE, lambda: Call(fused_batch_norm, CHANNELS, CHANNELS)),
    "torch.native_group_norm": (
        IMAGE,
        lambda: Call(
            lambda x, w, b: torch.native_group_norm(x, w, b, len(x), 4, 16, 2, 1e-5)[0],
            CHANNELS,
            CHANNELS,
        ),
    ),
    "F.normalize": (ROWS, lambda: Call(lambda x, w: F.normalize(x * w, dim=-1), (6,))),
    # weights that are computed
    "weight_norm": (VECTOR, lambda: parametrizations.weight_norm(nn.Linear(6, 6))),
    "weight_norm of a convolution": (
        IMAGE,
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
    ),
    "weight_norm along the last axis": (
        VECTOR,
        lambda: parametrizations.weight_norm(nn.Linear(6, 6), dim=1),
    ),
    "weight_norm of all": (
        VECTOR,
        lambda: parametrizations.weight_norm(nn.Linear(6, 6), dim=None),  # pyright: ignore
    ),
    "old weight_norm": (VECTOR, lambda: old_weight_norm(nn.Linear(6, 6))),
    "old weight_norm of a transposed convolution": (
        IMAGE,
        lambda: old_weight_norm(nn.ConvTranspose2d(4, 4, 3), dim=1),
    ),
    "torch._weight_norm": (
        VECTOR,
        lambda: Call(lambda x, v, g: x @ WEIGHT_NORM(v, g, 0), (6, 6), (6, 1)),
    ),
    "spectral_norm": (VECTOR, lambda: parametrizations.spectral_norm(nn.Linear(6, 6)).eval()),
    "old spectral_norm": (VECTOR, lambda: old_spectral_norm(nn.Linear(6, 6)).eval()),
    "orthogonal, matrix_exp": (
        VECTOR,
        lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="matrix_exp"),
    ),
    "orthogonal, cayley": (
        VECTOR,
        lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley"),
    ),
    "orthogonal, householder": (
        VECTOR,
        lambda: parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="householder"),
    ),
    "a parametrization of one's own": (VECTOR, parametrized),
    "tied weights": (VECTOR, Tied),
    # sequences
    "LSTM": (ROWS, lambda: First(nn.LSTM(6, 5, batch_first=True))),
    "GRU": (ROWS, lambda: First(nn.GRU(6, 5, batch_first=True, bidirectional=True))),
    "RNN": (ROWS, lambda: First(nn.RNN(6, 5, num_layers=2, batch_first=True))),
    "LSTM of cells": (ROWS, lambda: use_cells(First(nn.LSTM(6, 5, batch_first=True)))),
    "GRU of cells": (ROWS, lambda: use_cells(First(nn.GRU(6, 5, batch_first=True)))),
    "LSTMCell": (VECTOR, lambda: First(nn.LSTMCell(6, 5))),
    "GRUCell": (VECTOR, lambda: nn.GRUCell(6, 5)),
    "MultiheadAttention": (
        ROWS,
        lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), inputs=3),
    ),
    "TransformerEncoderLayer": (
        ROWS,
        lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, F.gelu, batch_first=True),
    ),
    "TransformerDecoderLayer": (
        ROWS,
        lambda: Twice(nn.TransformerDecoderLayer(6, 2, 8, 0.0, F.gelu, batch_first=True)),
    ),
    "scaled_dot_product_attention": (
        ROWS,
        lambda: Call(lambda x, w: F.scaled_dot_product_attention(x * w, x, x), (6,)),
    ),
    "causal attention": (
        ROWS,
        lambda: Call(
            lambda x, w: F.scaled_dot_product_attention(x * w, x, x, is_causal=True), (6,)
        ),
    ),
    "Embedding": (VECTOR, lambda: Tokens(nn.Embedding(4, 6))),
    "EmbeddingBag of sums": (VECTOR, lambda: Tokens(nn.EmbeddingBag(4, 6, mode="sum"))),
    "EmbeddingBag of means": (VECTOR, lambda: Tokens(nn.EmbeddingBag(4, 6, mode="mean"))),
    "EmbeddingBag of maxima": (VECTOR, lambda: Tokens(nn.EmbeddingBag(4, 6, mode="max"))),
    # convolution, pooling, resampling
    "Conv1d": (ROWS, lambda: nn.Conv1d(4, 3, 3, stride=2, padding=1)),
    "Conv2d of groups": (IMAGE, lambda: nn.Conv2d(4, 4, 3, groups=2, dilation=1)),
    "circular Conv2d": (IMAGE, lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
    "Conv3d": (VOLUME, lambda: nn.Conv3d(2, 2, 3)),
    "ConvTranspose1d": (ROWS, lambda: nn.ConvTranspose1d(4, 2, 3)),
    "ConvTranspose2d": (IMAGE, lambda: nn.ConvTranspose2d(4, 2, 3, stride=2)),
    "ConvTranspose3d": (VOLUME, lambda: nn.ConvTranspose3d(2, 1, 2)),
    "AvgPool1d": (ROWS, lambda: nn.AvgPool1d(2)),
    "AvgPool2d": (IMAGE, lambda: nn.AvgPool2d(3, 1, 1)),
    "AvgPool3d": (VOLUME, lambda: nn.AvgPool3d(2)),
    "MaxPool1d": (ROWS, lambda: nn.MaxPool1d(2)),
    "MaxPool2d": (IMAGE, lambda: nn.MaxPool2d(2)),
    "MaxPool3d": ((1, 4, 2, 2), lambda: nn.MaxPool3d(2)),
    "LPPool2d": (IMAGE, lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(3, 2))),
    "AdaptiveAvgPool1d": (ROWS, lambda: nn.AdaptiveAvgPool1d(4)),
    "AdaptiveAvgPool2d": (IMAGE, lambda: nn.AdaptiveAvgPool2d(3)),
    "AdaptiveAvgPool3d": (VOLUME, lambda: nn.AdaptiveAvgPool3d(3)),
    "AdaptiveMaxPool1d": (ROWS, lambda: nn.AdaptiveMaxPool1d(4)),
    "AdaptiveMaxPool2d": (IMAGE, lambda: nn.AdaptiveMaxPool2d(3)),
    "AdaptiveMaxPool3d": ((1, 4, 2, 2), lambda: nn.AdaptiveMaxPool3d(2)),
    "Upsample, nearest": (IMAGE, lambda: nn.Upsample(scale_factor=2)),
    "Upsample, bilinear": (IMAGE, lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "Upsample, bicubic": (IMAGE, lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "Upsample, linear": (ROWS, lambda: nn.Upsample(scale_factor=2, mode="linear")),
    "Upsample, trilinear": (VOLUME, lambda: nn.Upsample(scale_factor=2, mode="trilinear")),
    "PixelShuffle": (IMAGE, lambda: nn.PixelShuffle(2)),
    "PixelUnshuffle": (IMAGE, lambda: nn.PixelUnshuffle(2)),
    "Fold of Unfold": (IMAGE, lambda: nn.Sequential(nn.Unfold(2), nn.Fold((4, 4), 2))),
    "ReflectionPad2d": (IMAGE, lambda: nn.ReflectionPad2d(1)),
    "ReplicationPad2d": (IMAGE, lambda: nn.ReplicationPad2d(1)),
    "grid_sample": (
        IMAGE,
        lambda: Call(
            lambda x, w: F.grid_sample(
                x,
                F.affine_grid((0.3 * w).expand(len(x), 2, 3), list(x.shape), False),
                align_corners=False,
            ),
            (2, 3),
        ),
    ),
    # the rest
    "Bilinear": (VECTOR, lambda: Twice(nn.Bilinear(6, 6, 4))),
    "CosineSimilarity": (ROWS, lambda: Call(lambda x, w: F.cosine_similarity(x, w, -1), (6,))),
    "PReLU": (IMAGE, lambda: nn.PReLU(4)),
    "GELU": (VECTOR, nn.GELU),
    "GELU, tanh": (VECTOR, lambda: nn.GELU("tanh")),
    "SiLU": (VECTOR, nn.SiLU),
    "Mish": (VECTOR, nn.Mish),
    "ELU": (VECTOR, nn.ELU),
    "CELU": (VECTOR, nn.CELU),
    "SELU": (VECTOR, nn.SELU),
    "Softplus": (VECTOR, nn.Softplus),
    "LogSigmoid": (VECTOR, nn.LogSigmoid),
    "Softsign": (VECTOR, nn.Softsign),
    "Tanhshrink": (VECTOR, nn.Tanhshrink),
    "Hardswish": (VECTOR, nn.Hardswish),
    "Softmin": (VECTOR, lambda: nn.Softmin(-1)),
    "GLU": (VECTOR, nn.GLU),
}


def net_around(shape: tuple[int, ...], make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the old weight_norm
        module = make()
    size = int(torch.tensor(shape).prod())
    before = nn.Sequential(nn.Linear(8, size), nn.Unflatten(1, shape))
    width = module(before(torch.randn(3, 8))).flatten(1).shape[1]
    net = nn.Sequential(before, module, nn.Flatten(), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        for p in net.parameters():  # weights of normalisation that are no ones
            p += 0.2 * torch.randn_like(p)
    return net.double()


def assert_gradient_is_that_of_differences(learner: Learner[Any]) -> None:
    """Along a random direction."""
    params = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    tasks = batch()
    gradient = torch.autograd.grad(
        learner(tasks).mean(), list(params.values()), allow_unused=True, materialize_grads=True
    )
    assert any(g.abs().max() > 1e-6 for g in gradient)
    generator = torch.Generator().manual_seed(1)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in params.values()
    ]
    loss = {}
    for step in (-2, -1, 1, 2):
        with torch.no_grad():
            for p, d in zip(params.values(), direction, strict=True):
                p += step * STEP * d
            loss[step] = learner(tasks).mean()
            for p, d in zip(params.values(), direction, strict=True):
                p -= step * STEP * d
    along = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    difference = (8 * (loss[1] - loss[-1]) - (loss[2] - loss[-2])) / (12 * STEP)
    torch.testing.assert_close(along, difference, rtol=1e-6, atol=1e-8)


LOOP_ONLY = {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell"}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("name", MODULES)
def test_meta_gradient(name: str, execution: Execution) -> None:
    learner = MAML(net_around(*MODULES[name]), lr=0.3, steps=2)
    learner.execution = execution
    if execution == "vmap" and name in LOOP_ONLY:
        with pytest.raises(ValueError, match=r"learner\.execution = 'loop'"):
            learner(batch())
    else:
        assert_gradient_is_that_of_differences(learner)


NO_JACOBIANS = LOOP_ONLY | {"BatchNorm1d"}  # a statistic of one example


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [name for name in MODULES if name not in NO_JACOBIANS])
def test_jacobian_of_every_example(name: str) -> None:
    """Two levels of batches, as in EWC, against one call of autograd for every output."""
    net = net_around(*MODULES[name]).eval()
    params = {k: p.detach() for k, p in net.named_parameters()}
    inputs = torch.randn(3, 8, dtype=torch.float64)

    def outputs(params: Any, x: Tensor) -> Tensor:
        return functional_call(net, params, (x[None],))[0]

    jacobian = vmap(jacrev(outputs), (None, 0), randomness="same")(params, inputs)
    for i, x in enumerate(inputs):
        leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
        z = outputs(leaves, x)
        for c in range(len(z)):
            rows = torch.autograd.grad(
                z[c], list(leaves.values()), retain_graph=True, materialize_grads=True
            )
            for key, row in zip(leaves, rows, strict=True):
                torch.testing.assert_close(jacobian[key][i, c], row, rtol=1e-9, atol=1e-12)


def test_attention_outside_of_a_batch_of_tasks() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 3)).double()
    learner = MAML(net, lr=0.3, steps=2)
    task = tree_map(lambda leaf: leaf[0], batch())
    whole = learner(tree_map(lambda leaf: leaf[None], task)).mean()
    params = list(learner.parameters())
    expected = torch.autograd.grad(whole, params)
    for found, grad in zip(
        torch.autograd.grad(learner.loss(task), params), expected, strict=True
    ):
        torch.testing.assert_close(found, grad)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_rows_that_are_rescaled_in_place_are_refused(execution: Execution) -> None:
    learner = MAML(net_around(VECTOR, lambda: Tokens(nn.Embedding(4, 6, max_norm=0.5))))
    learner.execution = execution
    with pytest.raises(ValueError, match="max_norm rescales its rows in place"):
        learner(batch())
