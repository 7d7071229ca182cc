r"""Low-rank adaptation (LoRA: Hu et al., 2022, arXiv:2106.09685) of any module.

To a pretrained matrix $W_0$ a product of two thin ones is added (section 4.1):

$$W = W_0 + s \, B A, \qquad
  A \in \mathbb{R}^{r \times k}, \quad B \in \mathbb{R}^{d \times r}$$

$A$ starts random and $B$ at zero, so that the net starts as it was. With `MAML(lora(net), ...)`
the pretrained net stays as it is, the start of $A$ and $B$ is meta-learned, and a task is
learned by descent on them: an adapted model is as small as they are.

Differs from the paper: the start is meta-learned; in torch's attention, queries, keys and
values, being one matrix there, share one pair of factors; convolutions have factors too.
"""
# pyright: reportIncompatibleVariableOverride=false

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from quickstudy.core.torch_private import ConvBase
from quickstudy.hints import suggest
from quickstudy.nets.backbones import Net


def lora(
    net: Net,
    rank: int = 4,
    *,
    scale: float = 1.0,
    layers: Sequence[str] | None = None,
    freeze: bool = True,
) -> Net:
    """Give matrices of `net` low-rank factors, `lora_A` and `lora_B`; return `net`.

    The net computes what it did before, and the names of its parameters stay, so that files of
    pretrained weights still fit it (`strict=False`: they have no factors).

    Args:
        rank: of what is added to a matrix, at most; r in the paper.
        scale: of what is added; α/r in the paper.
        layers: names of modules within which matrices get factors; None: all. These are the
            matrices of linear layers, of convolutions, and of `nn.MultiheadAttention`.
        freeze: makes the factors all that is learned. To learn a new head as well, say
            `net.head.requires_grad_(True)`; without freezing everything is meta-learned, and
            `adapt_parameters=is_low_rank` has the factors alone adapted.

    Raises:
        ValueError: `rank` is below 1, or one of the `layers` has no such matrix.

    Examples:
        >>> net = lora(nn.Sequential(nn.Linear(3, 2)), rank=1)
        >>> [name for name, p in net.named_parameters() if p.requires_grad]
        ['0.lora_A', '0.lora_B']
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: a product of two thin matrices has rank 1 or more.")
    chosen: list[nn.Module] = []
    for place in [""] if layers is None else [layers] if isinstance(layers, str) else layers:
        matrices = [module for module in _within(net, place) if _matrix(module)]
        if not matrices:
            raise ValueError(
                f"{f'The module {place!r}' if place else 'The net'} has no linear layer, "
                "convolution or attention of torch without factors: name others as `layers`, "
                "or build it of linear layers."
            )
        chosen += matrices
    if freeze:
        net.requires_grad_(False)
    for module in dict.fromkeys(chosen):
        _give_factors(module, rank, scale)
    return net


def is_low_rank(name: str) -> bool:
    """Return whether a parameter of that name is a factor of `lora`; for `adapt_parameters`.

    Examples:
        >>> is_low_rank("head.lora_A"), is_low_rank("head.weight")
        (True, False)
    """
    return name.rpartition(".")[2] in ("lora_A", "lora_B")


class _Factored(nn.Module):
    """The base of modules with factors. Their matrix stays in its place, under its name. The
    attribute, as torch's encoder layers read it, is the sum."""

    lora_A: Tensor  # (r, k)
    lora_B: Tensor  # (d, r)
    scale: float

    def _stored_matrix(self, name: str = "weight") -> Tensor:
        matrix = self._parameters[name]
        assert matrix is not None
        return matrix

    def _sum(self, name: str = "weight") -> Tensor:
        matrix = self._stored_matrix(name)
        return matrix + self.scale * (self.lora_B @ self.lora_A).view_as(matrix)


# Where a layer is called itself, the two parts are applied and then added: so the pretrained
# matrix remains one for all tasks, whatever these make of the factors.


class _Linear(_Factored, nn.Linear):
    @property
    def weight(self) -> Tensor:
        return self._sum()

    def forward(self, input: Tensor) -> Tensor:
        added = F.linear(F.linear(input, self.lora_A), self.lora_B)
        return F.linear(input, self._stored_matrix(), self.bias) + self.scale * added


class _Conv(_Factored, ConvBase):
    @property
    def weight(self) -> Tensor:
        return self._sum()

    def forward(self, input: Tensor) -> Tensor:
        convolve: Callable[..., Tensor] = self._conv_forward
        if self.groups > 1:  # each group has rows of its own, so no filters are common to all
            return convolve(input, self.weight, self.bias)
        channels = -len(self.kernel_size) - 1
        filters = self.lora_A.view(-1, *self._stored_matrix().shape[1:])
        thin = convolve(input, filters, None).movedim(channels, -1)
        added = F.linear(thin, self.lora_B).movedim(-1, channels)
        return convolve(input, self._stored_matrix(), self.bias) + self.scale * added


class _Conv1d(_Conv, nn.Conv1d):
    """`Conv1d` with low-rank factors."""


class _Conv2d(_Conv, nn.Conv2d):
    """`Conv2d` with low-rank factors."""


class _Conv3d(_Conv, nn.Conv3d):
    """`Conv3d` with low-rank factors."""


class _MultiheadAttention(_Factored, nn.MultiheadAttention):
    @property
    def in_proj_weight(self) -> Tensor:
        return self._sum("in_proj_weight")


_FACTORED: dict[type[nn.Module], type[_Factored]] = {
    nn.Linear: _Linear,
    NonDynamicallyQuantizableLinear: _Linear,  # the last layer of attention
    nn.Conv1d: _Conv1d,
    nn.Conv2d: _Conv2d,
    nn.Conv3d: _Conv3d,
    nn.MultiheadAttention: _MultiheadAttention,
}


def _matrix(module: nn.Module) -> str:
    """The name of the matrix that a module can get factors for, or nothing."""
    if type(module) not in _FACTORED:
        return ""
    if isinstance(module, nn.MultiheadAttention):
        return "in_proj_weight" if module.in_proj_weight is not None else ""
    return "weight"


def _give_factors(module: nn.Module, rank: int, scale: float) -> None:
    matrix = module.get_parameter(_matrix(module))
    rows, columns = len(matrix), matrix[0].numel()
    rank = min(rank, rows, columns)
    A = nn.init.kaiming_uniform_(matrix.new_empty(rank, columns), math.sqrt(5))
    module.lora_A = nn.Parameter(A)
    module.lora_B = nn.Parameter(matrix.new_zeros(rows, rank))
    module.__class__ = _FACTORED[type(module)]
    assert isinstance(module, _Factored)
    module.scale = scale


def _within(net: nn.Module, place: str) -> list[nn.Module]:
    places = dict(net.named_modules())
    if place not in places:
        hint = suggest(place, places, f"It has: {', '.join(places)[2:]}.")
        raise ValueError(f"The net has no module {place!r}. {hint}")
    return list(places[place].modules())
