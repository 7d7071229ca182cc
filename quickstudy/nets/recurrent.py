"""Recurrent nets that can be batched over tasks and differentiated twice.

PyTorch's `nn.GRU`, `nn.LSTM` and `nn.RNN` are single operations without a batching rule, so
that tasks can only be done one after the other. Here they are computed step by step, by the
linear layers and the formulas of their documentation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from quickstudy.nets.backbones import Net


def use_cells(net: Net) -> Net:
    """Make every `nn.GRU`, `nn.LSTM` and `nn.RNN` of `net` batchable over tasks; return `net`.

    Inputs, outputs and parameters stay as they are, pretrained ones too.

    Raises:
        ValueError: an LSTM with projections, or, when the net is called, a packed sequence.

    Examples:
        >>> x, net = torch.ones(3, 1, 2), nn.GRU(2, 4)
        >>> before = net(x)[0]
        >>> torch.allclose(use_cells(net)(x)[0], before, atol=1e-6)
        True
    """
    for path, module in net.named_modules():
        if isinstance(module, nn.LSTM) and module.proj_size:
            raise ValueError(
                f"{path or 'The net'} projects its states (proj_size={module.proj_size}), "
                "which cells do not: put a linear layer behind an LSTM without projections."
            )
    for module in net.modules():
        cells = _CELLS.get(type(module))
        if cells is not None:
            module.__class__ = cells
    return net


@torch.no_grad()
def chrono_init(gru: nn.GRU, timescale: int) -> None:
    """Chrono initialisation (Tallec & Ollivier, 2018, arXiv:1804.11188): draw the biases of the
    update gates so that the time constants of the units lie between two steps and `timescale`.

    A unit with update gate z keeps the share z of its state at a step, so it forgets over about
    1 / (1 - z) steps.

    Examples:
        >>> gru = nn.GRU(3, 1000)
        >>> chrono_init(gru, 100)
        >>> steps = 1 + gru.bias_hh_l0[1000:2000].exp()  # 1 / (1 - z)
        >>> bool(steps.min() >= 2), bool(95 < steps.max() <= 100)
        (True, True)
    """
    # gates are in the order reset, update, new
    input_bias, hidden_bias = (
        gru.get_parameter(f"bias_{x}_l0").chunk(3)[1] for x in ("ih", "hh")
    )
    input_bias.zero_()
    hidden_bias.uniform_(1, max(timescale - 1, 1)).log_()


class Cells(nn.RNNBase):
    """A recurrent net that is computed step by step; `use_cells` makes one.

    No `nn.GRU`, `nn.LSTM` or `nn.RNN`: torch.compile takes none of these.

    Examples:
        >>> cells = use_cells(nn.LSTM(2, 4))
        >>> output, (hidden, cell) = cells(torch.zeros(3, 1, 2))
        >>> isinstance(cells, Cells), output.shape, cell.shape
        (True, torch.Size([3, 1, 4]), torch.Size([1, 1, 4]))
    """

    batchable = True  # over tasks; `diagnose` reads it

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """Compute what the original net computes."""
        if isinstance(input, PackedSequence):
            raise ValueError("Cells take no packed sequence: give them the padded one.")
        x = input[:, None] if input.ndim == 2 else input
        x = x.transpose(0, 1) if self.batch_first and input.ndim == 3 else x  # (L, N, D)
        first = self.started(x, hx, alone=input.ndim == 2)
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            ways: list[Tensor] = []
            for way in ("", "_reverse")[: 1 + self.bidirectional]:
                state = tuple(part[len(last)] for part in first)  # (N, H) each
                outputs, state = self.run(x.flip(0) if way else x, state, f"_l{layer}{way}")
                ways.append(outputs.flip(0) if way else outputs)
                last.append(state)
            x = torch.cat(ways, -1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        end = tuple(torch.stack(part) for part in zip(*last, strict=True))
        if input.ndim == 2:
            x, end = x[:, 0], tuple(part[:, 0] for part in end)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, end if isinstance(self, _LSTM) else end[0]

    def run(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, Any]:
        """Run one layer in one direction; return outputs (L, N, H) and the last state."""

        def linear(x: Tensor, kind: str) -> Tensor:
            bias = getattr(self, f"bias_{kind}{suffix}", None)
            return F.linear(x, getattr(self, f"weight_{kind}{suffix}"), bias)

        outputs = []
        for input_gates in linear(x, "ih").unbind():
            state = self.step(input_gates, linear(state[0], "hh"), state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def started(self, x: Tensor, hx: Any, *, alone: bool) -> tuple[Tensor, ...]:
        """Return the first state of every layer and direction, (layers, N, H) each."""
        if hx is None:
            layers = self.num_layers * (1 + self.bidirectional)
            zeros = x.new_zeros(layers, x.shape[1], self.hidden_size)
            return (zeros, zeros) if isinstance(self, _LSTM) else (zeros,)
        parts = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        return tuple(part[:, None] for part in parts) if alone else parts

    def step(self, input_gates: Tensor, state_gates: Tensor, state: tuple[Tensor, ...]) -> Any:
        """Return the next state, from linear functions (N, ...) of input and state."""
        raise NotImplementedError


class _RNN(Cells):
    nonlinearity: str

    def step(self, input_gates: Tensor, state_gates: Tensor, state: tuple[Tensor, ...]) -> Any:
        h = input_gates + state_gates
        return (h.tanh() if self.nonlinearity == "tanh" else h.relu(),)


class _GRU(Cells):
    def step(self, input_gates: Tensor, state_gates: Tensor, state: tuple[Tensor, ...]) -> Any:
        (r, z, n), (r_h, z_h, n_h) = input_gates.chunk(3, -1), state_gates.chunk(3, -1)
        r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
        n = (n + r * n_h).tanh()
        return (n + z * (state[0] - n),)


class _LSTM(Cells):
    def step(self, input_gates: Tensor, state_gates: Tensor, state: tuple[Tensor, ...]) -> Any:
        i, f, g, o = (input_gates + state_gates).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


_CELLS: dict[type[nn.Module], type[Cells]] = {nn.RNN: _RNN, nn.GRU: _GRU, nn.LSTM: _LSTM}
