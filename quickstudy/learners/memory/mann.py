r"""Memory-augmented neural networks (Santoro, Bartunov, Botvinick, Wierstra & Lillicrap, 2016,
arXiv:1605.06065).

A recurrent cell reads the examples of a task. At step t it receives x_t and the label of the
previous step, and predicts y_t. To recognise a repeated class it must have stored the example
together with the label that arrived one step later. `LRUA` stores it in a memory M. It reads by
content, and writes to the slots it has just read or to the least recently used ones (eq. 2 to
8):

$$w^r_t = \mathrm{softmax}(\beta_t \cos(k_t, M_t)), \quad
  w^w_t = \sigma(\alpha_t) \, w^r_{t-1} + (1 - \sigma(\alpha_t)) \, w^{lu}_{t-1}, \quad
  M_t = M_{t-1} + w^w_t \, a_t, \quad w^u_t = \gamma w^u_{t-1} + w^r_t + w^w_t$$

Differs from the paper: cosines have a learned strength β, initially about 10; without it the
softmax over 128 slots is almost flat. The written vector a is separate from the key k. With
several heads, each has its own least used slot, and all of these are erased before writing.
`MANN(show_label_with_input=True)` repeats each example with its label (not in the paper).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds, HasAttentionWeights
from quickstudy.core.criteria import check_outputs
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import scan, tree_map
from quickstudy.learner import Learner
from quickstudy.nets.cells import LSTMCell, RecurrentCell, content_addressing, interpolation


def least_used(usage: Tensor, number: int) -> Tensor:
    """Return the least used slots as one-hot rows (number, M), least used first (eq. 6).

    Ties go to the first slot.

    Examples:
        >>> import torch
        >>> least_used(torch.tensor([0.5, 0.1, 0.9]), 1)
        tensor([[0., 1., 0.]])
    """
    slots = usage.argsort(stable=True)[..., :number]
    return (slots[..., None] == torch.arange(usage.shape[-1], device=usage.device)).to(usage)


class LRUAState(NamedTuple):
    """The state of `LRUA` after a step.

    Examples:
        >>> import quickstudy as qs
        >>> cell = qs.learners.memory.LRUA(3, 2, hidden=8, slots=5, width=4, heads=1)
        >>> state = cell.initial_state()
        >>> state.memory.shape, state.reading.shape
        (torch.Size([5, 4]), torch.Size([1, 5]))
    """

    memory: Tensor  # (M, W)
    usage: Tensor  # (M,)  larger for slots that were accessed more often or more recently
    reading: Tensor  # (H, M)  read weights
    writing: Tensor  # (H, M)  write weights
    read: Tensor  # (H, W)  read vectors
    controller: Any  # state of the controller


class LRUA(RecurrentCell[LRUAState]):
    """An LSTM controller with a memory and least-recently-used access.

    Args:
        inputs: width of a step's input.
        outputs: width of a step's output.
        hidden: width of the controller.
        slots: M, number of memory slots.
        width: W, of a slot.
        heads: H; each reads and writes.
        decay: γ, of usage.

    Raises:
        ValueError: there are fewer slots than heads.

    Examples:
        >>> import torch
        >>> from quickstudy.learners.memory import LRUA
        >>> cell = LRUA(inputs=3, outputs=2, hidden=8, slots=5, width=4, heads=2)
        >>> outputs, state = cell(torch.randn(6, 3))
        >>> outputs.shape, state.memory.shape
        (torch.Size([6, 2]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
    ):
        super().__init__()
        if slots < heads:
            raise ValueError(
                f"{heads} heads cannot each write to a slot of their own, of {slots}: give "
                "more slots, or use StackedLSTM, which has no memory."
            )
        self.inputs, self.slots, self.heads, self.decay = inputs, slots, heads, decay
        self.parts = (width, width, 1, 1)
        self.controller = LSTMCell(inputs + heads * width, hidden)
        self.address = nn.Linear(hidden, heads * sum(self.parts))
        self.output = nn.Linear(hidden + heads * width, outputs)
        # PyTorch's default weights write almost nothing: read weights then do not change the
        # output, and have hardly any gradient
        nn.init.normal_(self.address.weight, std=3 / hidden**0.5)
        with torch.no_grad():  # β of about 10; at 1 to 2 a read is the mean of all slots
            self.address.bias.unflatten(0, (heads, -1))[:, -2] += 9.0

    def initial_state(self) -> LRUAState:
        """Return the state before the first step: an empty and unused memory."""
        zeros, slots, heads = self.output.weight.new_zeros, self.slots, self.heads
        weights, memory = zeros(heads, slots), zeros(slots, self.parts[0])
        read, controller = zeros(heads, self.parts[0]), self.controller.initial_state()
        return LRUAState(memory, zeros(slots), weights, weights, read, controller)

    def step(self, x: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
        """(inputs,) and a state -> (outputs,) and the next state."""
        inputs = torch.cat([x, state.read.flatten(-2)], -1)
        hidden, controller = self.controller.step(inputs, state.controller)
        addressing = self.address(hidden).unflatten(-1, (self.heads, -1))
        key, add, strength, gate = addressing.split(self.parts, -1)
        least = least_used(state.usage, self.heads)
        writing = interpolation(state.reading, least, gate[..., 0].sigmoid())
        erased = state.memory * (1 - least.sum(-2))[..., None]
        memory = erased + writing.mT @ add.tanh()
        reading = content_addressing(key, 1 + F.softplus(strength[..., 0]), memory)
        read = reading @ memory
        usage = self.decay * state.usage + (reading + writing).sum(-2)
        output = self.output(torch.cat([hidden, read.flatten(-2)], -1))
        return output, LRUAState(memory, usage, reading, writing, read, controller)


class MANNState(NamedTuple):
    """The state of the cell, and the label that it receives in the next step.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> cell = qs.learners.memory.LRUA(2 + 2, 2, hidden=8, slots=5, width=4, heads=1)
        >>> qs.MANN(torch.nn.Identity(), cell).adapt(support).last_label
        tensor([0., 1.])
    """

    cell: Any  # state of the cell
    last_label: Tensor  # (C,)  of the last example; (D + C,) with its embedding in front


class MANN(Learner[MANNState], Embeds, HasAttentionWeights):
    """Learns the embedding `embed`: (N, *features) -> (N, D), and a recurrent cell.

    The examples of a task are a sequence, and their order matters. The loss is that of
    predicting each label, of the support set and then of the query set, before the cell
    receives it.

    Args:
        embed: the embedding.
        cell: with D + C inputs and C outputs: `LRUA`, `StackedLSTM` (the paper's comparison),
            or another `RecurrentCell`.
        show_label_with_input: repeat the embedding of an example together with its label. So
            the cell need not learn to keep it for a step. The cell then has 2 D + C inputs.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> cell = qs.learners.memory.LRUA(1 + 2, 2, hidden=8, slots=5, width=4, heads=1)
        >>> learner = qs.MANN(torch.nn.Identity(), cell)
        >>> learner.predict(learner.adapt(support), x).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        embed: nn.Module,
        cell: RecurrentCell[Any],
        *,
        show_label_with_input: bool = False,
    ):
        super().__init__()
        self.embed, self.cell, self.show_label_with_input = embed, cell, show_label_with_input

    def adapt(self, support: Examples, state: MANNState | None = None) -> MANNState:
        """Read the examples, one after the other."""
        return self.unroll(support, state)[1][-1]

    def predict(self, state: MANNState, x: Tensor) -> Tensor:
        """Return logits (Q, C) of each query as the next example."""
        cell, label = tree_map(lambda part: part.expand(len(x), *part.shape), state)
        return self.cell.step(torch.cat([self.embed(x), label], -1), cell)[0]

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the criterion on support and query set; a label is predicted, then shown."""
        sequence = Examples.cat(task.support, task.query)
        return self.criterion(torch.stack(self.unroll(sequence)[0]), sequence)

    def unroll(
        self, examples: Examples, state: MANNState | None = None
    ) -> tuple[list[Tensor], list[MANNState]]:
        """Run the cell over N examples.

        Returns:
            Logits (C,) of every example, predicted before its label is shown, and the N + 1
            states before, between and after the examples.

        Raises:
            OutputMismatch: the cell has inputs for labels of another number of columns.
        """
        embedded, labels = self.embed(examples.x), examples.y
        copies = 1 + self.show_label_with_input  # of an embedding in the inputs
        outputs = self.cell.inputs - copies * embedded.shape[-1]
        check_outputs(labels.new_empty(len(labels), max(outputs, 0)), labels)
        if self.show_label_with_input:
            labels = torch.cat([embedded, labels], -1)
        if state is None:
            state = MANNState(self.cell.initial_state(), labels.new_zeros(labels.shape[-1]))
        logits = list[Tensor]()

        def step(before: MANNState, x: Tensor, label: Tensor) -> MANNState:
            output, cell = self.cell.step(torch.cat([x, before.last_label]), before.cell)
            logits.append(output)
            return MANNState(cell, label)

        return logits, scan(step, state, embedded, labels, weight=examples.weight)

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Return the read and write weights of each head over support and query set (S + Q, M).

        Empty if the cell is not an `LRUA`.
        """
        if not isinstance(self.cell, LRUA):
            return {}
        _, (_, *states) = self.unroll(Examples.cat(task.support, task.query))
        return {
            f"{access} head {head + 1}": torch.stack([weights[head] for weights in steps])
            for head in range(self.cell.heads)
            for access, steps in (
                ("read", [state.cell.reading for state in states]),
                ("write", [state.cell.writing for state in states]),
            )
        }
