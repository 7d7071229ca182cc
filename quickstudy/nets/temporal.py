"""Causal layers over a sequence: temporal convolutions and attention (Mishra et al., 2018,
arXiv:1707.03141, section 3). Each returns its input with new features beside it.

`forward` reads a whole sequence of examples and queries; `with_past` continues a sequence from
a cache of past steps, as acting step by step needs.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Block: TypeAlias = int | tuple[int, int]  # filters of convolutions, or keys and values


class TemporalConvolution(nn.Module):
    """A gated convolution of kernel 2 over the past and the present: `DenseBlock` of the paper.

    Examples:
        >>> layer = TemporalConvolution(3, 4, dilation=2)
        >>> mask = torch.ones(5, 6 + 5) > 0
        >>> x, past = layer.with_past(torch.ones(5, 3), layer.empty_past(6), mask)
        >>> x.shape, past.shape
        (torch.Size([5, 7]), torch.Size([7, 3]))
    """

    def __init__(self, inputs: int, filters: int, *, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.now = nn.Linear(inputs, 2 * filters)
        self.then = nn.Linear(inputs, 2 * filters, bias=False)

    def forward(self, x: Tensor, ago: Tensor) -> Tensor:
        """(S + Q, inputs), (S + Q, S) -> (S + Q, inputs + filters)."""
        return self._gated(x, (ago == self.dilation).to(x) @ x[: ago.shape[-1]])

    def with_past(self, x: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Continue a sequence by rows x (N, inputs).

        Args:
            past: (dilation, inputs), the last inputs, zeros before the first.
            mask: (N, L + N), not used; `CausalAttention` needs it.

        Returns:
            The rows (N, inputs + filters), and the past with the new rows (dilation + N,
            inputs).
        """
        longer = torch.cat([past, x])
        return self._gated(x, longer[: len(x)]), longer

    def empty_past(self, length: int) -> Tensor:
        """Return the past (dilation, inputs) of no steps."""
        return self.then.weight.new_zeros(self.dilation, self.then.in_features)

    def _gated(self, x: Tensor, before: Tensor) -> Tensor:
        signal, gate = (self.now(x) + self.then(before)).chunk(2, -1)
        return torch.cat([x, signal.tanh() * gate.sigmoid()], -1)


class CausalAttention(nn.Module):
    """Attention to the past and to the step itself: `AttentionBlock` of the paper.

    Examples:
        >>> layer = CausalAttention(3, 4, 2)
        >>> mask = torch.ones(5, 6 + 5).tril(6) > 0
        >>> x, (keys, values) = layer.with_past(torch.ones(5, 3), layer.empty_past(6), mask)
        >>> x.shape, keys.shape, values.shape
        (torch.Size([5, 5]), torch.Size([11, 4]), torch.Size([11, 2]))
    """

    def __init__(self, inputs: int, keys: int, values: int):
        super().__init__()
        self.query, self.key = nn.Linear(inputs, keys), nn.Linear(inputs, keys)
        self.value = nn.Linear(inputs, values)

    def forward(self, x: Tensor, ago: Tensor) -> Tensor:
        """(S + Q, inputs), (S + Q, S) -> (S + Q, inputs + values)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        past = ago.shape[-1]
        score = (query @ key[:past].mT).masked_fill(ago < 1, -torch.inf)
        self_score = (query * key).sum(-1, keepdim=True)
        share = (torch.cat([score, self_score], -1) / math.sqrt(key.shape[-1])).softmax(-1)
        read = share[:, :past] @ value[:past] + share[:, past:] * value
        return torch.cat([x, read], -1)

    def with_past(self, x: Tensor, past: Any, mask: Tensor) -> tuple[Tensor, Any]:
        """Continue a sequence by rows x (N, inputs).

        Args:
            past: keys (L, K) and values (L, V) of the last steps.
            mask: (N, L + N), True where a row attends to a step.

        Returns:
            The rows (N, inputs + V), and keys and values with the new rows (L + N, ·).
        """
        key, value = torch.cat([past[0], self.key(x)]), torch.cat([past[1], self.value(x)])
        score = self.query(x) @ key.mT / math.sqrt(key.shape[-1])
        share = score.masked_fill(~mask, -torch.inf).softmax(-1)
        return torch.cat([x, share @ value], -1), (key, value)

    def empty_past(self, length: int) -> Any:
        """Return the keys and values (length, ·) of no steps: zeros, to be masked."""
        zeros = self.key.weight.new_zeros
        return zeros(length, self.key.out_features), zeros(length, self.value.out_features)


def snail_layers(
    inputs: int, blocks: Sequence[Block], length: int
) -> tuple[nn.ModuleList, int]:
    """Return the layers of SNAIL, and the width of their output.

    Args:
        inputs: width of the input.
        blocks: filters of dense blocks of convolutions, which reach `length` steps back, or
            widths of the keys and values of attention.
        length: number of steps.

    Examples:
        >>> layers, width = snail_layers(3, [8, (4, 5)], length=4)
        >>> len(layers), width
        (3, 24)
    """
    layers = nn.ModuleList()
    for block in blocks:
        if isinstance(block, int):
            for i in range(math.ceil(math.log2(max(length, 2)))):
                layers.append(TemporalConvolution(inputs, block, dilation=2**i))
                inputs += block
        else:
            layers.append(CausalAttention(inputs, *block))
            inputs += block[1]
    return layers, inputs
