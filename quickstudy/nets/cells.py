r"""Neural Turing machines (Graves, Wayne & Danihelka, 2014, arXiv:1410.5401).

A controller reads from and writes to a memory of M slots of width W. Each head has attention
weights, a distribution over slots, computed in four steps (section 3.3): by content (eq. 5, 6),
interpolated with the previous weights (eq. 7), shifted (eq. 8) and sharpened (eq. 9):

$$w^c \propto \exp(\beta \cos(k, M)), \quad w^g = g\,w^c + (1 - g)\,w_{t-1}, \quad
  \tilde w(i) = \sum_j w^g(j)\, s(i - j), \quad w_t \propto \tilde w^\gamma$$

Everything is tensors and linear layers, so that it can be batched over tasks, differentiated
twice and compiled. Shapes are those of one sequence, after any axes in front: H heads, M slots
of width W.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.tree import tree_map

State = TypeVar("State")
LSTMState: TypeAlias = tuple[Tensor, Tensor]  # the output and the cell


def cosine(keys: Tensor, memory: Tensor) -> Tensor:
    """Return the cosine of the angle (eq. 6) of every key (H, W) to every slot (M, W): (H, M).

    For vectors shorter than a thousandth it tends to 0, and its gradient stays finite.

    Examples:
        >>> cosine(torch.tensor([[1.0, 0.0]]), torch.eye(2)).round()
        tensor([[1., 0.]])
    """
    key, slot = ((v.square().sum(-1) + 1e-6).sqrt() for v in (keys, memory))
    return keys @ memory.mT / (key[..., :, None] * slot[..., None, :])


def content_addressing(keys: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
    """Return attention weights (H, M) by similarity to the keys (H, W), sharper for a higher
    strength (H,) (eq. 5).

    Examples:
        >>> content_addressing(torch.ones(1, 2), torch.ones(1), torch.ones(4, 2))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return (strength[..., None] * cosine(keys, memory)).softmax(-1)


def interpolation(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """Return the content's weights (H, M) where the gate (H,) is 1, the previous ones where it
    is 0 (eq. 7).

    Examples:
        >>> content, previous = torch.eye(2).split(1)
        >>> interpolation(content, previous, torch.ones(1) / 4)
        tensor([[0.2500, 0.7500]])
    """
    return previous + gate[..., None] * (content - previous)


def circular_shift(weighting: Tensor, shift: Tensor) -> Tensor:
    """Shift weights (H, M) around by -k to k slots, in the shares (H, 2k + 1) (eq. 8).

    Examples:
        >>> circular_shift(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[0., 1., 0.]])
    """
    k = shift.shape[-1] // 2
    moved = torch.stack([weighting.roll(j, -1) for j in range(-k, k + 1)], -1)  # (H, M, 2k + 1)
    return (moved @ shift[..., None]).squeeze(-1)


def sharpening(weighting: Tensor, power: Tensor) -> Tensor:
    """Return weights (H, M) to a power (H,) of at least 1, normalised again (eq. 9).

    Examples:
        >>> sharpening(torch.tensor([[0.75, 0.25]]), torch.tensor([2.0]))
        tensor([[0.9000, 0.1000]])
    """
    # relative to the largest, as a power of 1 / M may be 0 in floating point
    relative = weighting / weighting.amax(-1, keepdim=True).detach()
    sharp = relative.pow(power[..., None])
    return sharp / sharp.sum(-1, keepdim=True)


def write(memory: Tensor, weighting: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Return the memory (M, W) after every head erased a share (H, W) of the content and then
    added (H, W), each weighted by (H, M) (eq. 3, 4).

    Examples:
        >>> one = torch.ones(1, 1)
        >>> write(torch.tensor([[5.0]]), one, erase=one, add=2 * one)
        tensor([[2.]])
    """
    kept = 1 - weighting[..., None] * erase[..., None, :]  # (H, M, W)
    return memory * reduce(mul, kept.unbind(-3)) + weighting.mT @ add


class RecurrentCell(nn.Module, ABC, Generic[State]):
    """A net that processes a sequence step by step; called as `nn.LSTM` is.

    Examples:
        >>> class Sum(RecurrentCell[torch.Tensor]):
        ...     inputs = 1
        ...
        ...     def initial_state(self):
        ...         return torch.zeros(1)
        ...
        ...     def step(self, x, state):
        ...         return x + state, x + state
        >>> Sum()(torch.ones(3, 1))[0].squeeze(-1)
        tensor([1., 2., 3.])
    """

    inputs: int  # width of a step's input

    @abstractmethod
    def initial_state(self) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(inputs,) and a state -> (outputs,) and the next state."""

    @final
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(L, inputs) or (L, N, inputs), and a state (None: the first) -> outputs (L, outputs)
        or (L, N, outputs), and the last state."""
        outputs, states = self.trace(x, state)
        return outputs, states[-1]

    @final
    def trace(self, x: Tensor, state: State | None = None) -> tuple[Tensor, list[State]]:
        """As `forward`, with the state after every step."""
        batch = x.shape[1:-1]
        if state is None:
            state = tree_map(
                lambda part: part.expand(*batch, *part.shape), self.initial_state()
            )
        state = cast(State, state)
        outputs: list[Tensor] = []
        states: list[State] = []
        for x_t in x.unbind():
            output, state = self.step(x_t, state)
            outputs.append(output)
            states.append(state)
        return torch.stack(outputs), states


class LSTMCell(RecurrentCell[LSTMState]):
    """A cell of a long short-term memory, whose first state is learned.

    Examples:
        >>> LSTMCell(2, 5)(torch.zeros(3, 2))[0].shape
        torch.Size([3, 5])
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.inputs = inputs
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)
        self.first = nn.Parameter(torch.zeros(2, hidden))

    def initial_state(self) -> LSTMState:
        """The output and the cell, (hidden,) each."""
        return self.first[0], self.first[1]

    def step(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """(inputs,) -> (hidden,)."""
        i, f, g, o = self.gates(torch.cat([x, state[0]], -1)).chunk(4, -1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        output = o.sigmoid() * cell.tanh()
        return output, (output, cell)


class FeedForward(RecurrentCell[tuple[()]]):
    """A hidden layer without a state.

    Examples:
        >>> FeedForward(2, 5)(torch.zeros(3, 2))[0].shape
        torch.Size([3, 5])
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.inputs = inputs
        self.layer = nn.Linear(inputs, hidden)

    def initial_state(self) -> tuple[()]:
        """Nothing."""
        return ()

    def step(self, x: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """(inputs,) -> (hidden,)."""
        return self.layer(x).tanh(), state


class StackedLSTM(RecurrentCell[tuple[LSTMState, ...]]):
    """Layers of `LSTMCell` below a linear one: the paper's baseline.

    Args:
        inputs: width of a step's input.
        outputs: width of a step's output.

    Examples:
        >>> StackedLSTM(2, 4, hidden=3, layers=2)(torch.zeros(5, 2))[0].shape
        torch.Size([5, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 256, layers: int = 3):
        super().__init__()
        self.inputs = inputs
        widths = [inputs] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(LSTMCell(width, hidden) for width in widths)
        self.output = nn.Linear(hidden, outputs)

    def initial_state(self) -> tuple[LSTMState, ...]:
        """The first state of every layer."""
        return tuple(cast(LSTMCell, layer).initial_state() for layer in self.layers)

    def step(
        self, x: Tensor, state: tuple[LSTMState, ...]
    ) -> tuple[Tensor, tuple[LSTMState, ...]]:
        """(inputs,) -> (outputs,)."""
        states = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x, layer_state = cast(LSTMCell, layer).step(x, layer_state)
            states.append(layer_state)
        return self.output(x), tuple(states)


class NTMState(NamedTuple):
    """The state of a neural Turing machine after a step.

    Examples:
        >>> NTM(2, 2, slots=8).initial_state().memory.shape
        torch.Size([8, 20])
    """

    memory: Tensor  # (M, W)
    attention_weights: Tensor  # (H, M)  of the read heads, then of the write heads
    read: Tensor  # (R, W)  what each read head sees
    controller: Any  # its own state


class NTM(RecurrentCell[NTMState]):
    """A neural Turing machine.

    Args:
        inputs: width of a step's input.
        outputs: width of a step's output.
        hidden: width of the controller.
        slots: M.
        width: W.
        reads: read heads.
        writes: write heads.
        shifts: k, how far a head can move in a step.
        controller: a cell, called with the widths of its input and output; `LSTMCell` or
            `FeedForward`.

    Examples:
        >>> ntm = NTM(2, 3, hidden=5, slots=8, width=4)
        >>> ntm(torch.zeros(6, 2))[0].shape, ntm.names()
        (torch.Size([6, 3]), ['read head 1', 'write head 1'])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 100,
        slots: int = 128,
        width: int = 20,
        reads: int = 1,
        writes: int = 1,
        shifts: int = 1,
        controller: Callable[[int, int], RecurrentCell[Any]] = LSTMCell,
    ):
        super().__init__()
        self.inputs = inputs
        self.heads, self.slots, self.width = (reads, writes), slots, width
        self.parts = (width, 2 * shifts + 1, 1, 1, 1)
        self.controller = controller(inputs + reads * width, hidden)
        self.address = nn.Linear(hidden, (reads + writes) * sum(self.parts))
        self.change = nn.Linear(hidden, writes * 2 * width)
        self.output = nn.Linear(hidden + reads * width, outputs)
        # at the first slot: from uniform weights, gradients could not tell heads where to go
        first = torch.zeros(reads + writes, slots)
        first[:, 0] = 2 * math.log(slots)
        self.first = nn.Parameter(first)

    def names(self) -> list[str]:
        """Return the names of the heads, in their order."""
        reads, writes = (range(1, 1 + number) for number in self.heads)
        return [*(f"read head {i}" for i in reads), *(f"write head {i}" for i in writes)]

    def initial_state(self) -> NTMState:
        """The state before the first step: an empty memory, and what is learned."""
        attention_weights = self.first.softmax(-1)
        memory = self.first.new_zeros(self.slots, self.width)
        read = attention_weights[: self.heads[0]] @ memory
        return NTMState(memory, attention_weights, read, self.controller.initial_state())

    def step(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """(inputs,) and a state -> (outputs,) and the next state."""
        reads, writes = self.heads
        inputs = torch.cat([x, state.read.flatten(-2)], -1)
        hidden, controller = self.controller.step(inputs, state.controller)
        heads = self.address(hidden).unflatten(-1, (reads + writes, -1))
        key, shift, strength, gate, power = heads.split(self.parts, -1)
        weights = content_addressing(key, F.softplus(strength[..., 0]), state.memory)
        weights = interpolation(weights, state.attention_weights, gate[..., 0].sigmoid())
        weights = circular_shift(weights, shift.softmax(-1))
        weights = sharpening(weights, 1 + F.softplus(power[..., 0]))
        erase, add = self.change(hidden).unflatten(-1, (writes, -1)).chunk(2, -1)
        memory = write(state.memory, weights[..., reads:, :], erase.sigmoid(), add)
        read = weights[..., :reads, :] @ memory
        output = self.output(torch.cat([hidden, read.flatten(-2)], -1))
        return output, NTMState(memory, weights, read, controller)
