r"""Memory-augmented neural networks (Santoro, Bartunov, Botvinick, Wierstra & Lillicrap, 2016,
arXiv:1605.06065).

A recurrent machine goes through the examples of a task. At step t it sees x_t and the label of
the step before, and says y_t: to name what it has seen before it must have kept that together
with what was told a step later. `LRUA` keeps it in a memory M, reads by content, and writes to
where it has just read or to the slots that were least recently used (eq. 2 to 8):

$$w^r_t = \mathrm{softmax}(\beta_t \cos(k_t, M_t)), \quad
  w^w_t = \sigma(\alpha_t) \, w^r_{t-1} + (1 - \sigma(\alpha_t)) \, w^{lu}_{t-1}, \quad
  M_t = M_{t-1} + w^w_t \, a_t, \quad w^u_t = \gamma w^u_{t-1} + w^r_t + w^w_t$$

Differs from the paper: cosines have a learned strength β, about 10 at first, without which the
softmax over 128 slots is almost flat; what is written, a, is not the key k but a vector of its
own. Of several heads each has its own least used slot, and all of these are emptied before they
are written to. `MANN` can be told each example `again` with its label (not in the paper).
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds, HasAttentionWeights
from quickstudy.core.functional import tree_map
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.nets.cells import LSTMCell, RecurrentCell, content_addressing, interpolation


def least_used(usage: Tensor, number: int) -> Tensor:
    """One-hot (number, M): which of the slots, of that usage (M,), were used least (eq. 6), the
    least used one first; of equals the one before."""
    slots = usage.argsort(stable=True)[..., :number]
    return (slots[..., None] == torch.arange(usage.shape[-1], device=usage.device)).to(usage)


def _sequence(task: Task[Examples]) -> Examples:
    """The support set and then the query set."""
    return Examples.cat(task.support, task.query)


class LRUAState(NamedTuple):
    """What a memory of least recently used access is in after a step."""

    memory: Tensor  # (M, W)
    usage: Tensor  # (M,)  the more, the later and the oftener a slot was read or written
    reading: Tensor  # (H, M)  where each head read
    writing: Tensor  # (H, M)  where each head wrote
    read: Tensor  # (H, W)  what each head saw
    controller: Any  # its own state


class LRUA(RecurrentCell[LRUAState]):
    """A controller with a memory of least recently used access; its state is an `LRUAState`.

    Args:
        inputs: width of a step's input.
        outputs: width of a step's output.
        hidden: width of the controller, an LSTM.
        slots: M.
        width: W.
        heads: H, each of which reads and writes.
        decay: γ, of usage.

    Raises:
        ValueError: there are fewer slots than heads.
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
                "more slots, or StackedLSTM for no memory."
            )
        self.inputs, self.slots, self.heads, self.decay = inputs, slots, heads, decay
        self.parts = (width, width, 1, 1)
        self.controller = LSTMCell(inputs + heads * width, hidden)
        self.address = nn.Linear(hidden, heads * sum(self.parts))
        self.output = nn.Linear(hidden + heads * width, outputs)
        # by PyTorch's weights what is written is almost nothing, whatever is seen: where a head
        # reads then makes no difference, and has hardly a gradient
        nn.init.normal_(self.address.weight, std=3 / hidden**0.5)
        with torch.no_grad():  # β of about 10: at 1 to 2 a read is the mean of all slots
            self.address.bias.unflatten(0, (heads, -1))[:, -2] += 9.0

    def start(self) -> LRUAState:
        """The state before the first step: an empty memory, never used."""
        empty = partial(self.output.weight.new_zeros)
        slots, heads, width = self.slots, self.heads, self.parts[0]
        nowhere = empty(heads, slots)
        memory, read = empty(slots, width), empty(heads, width)
        first = self.controller.start()
        return LRUAState(memory, empty(slots), nowhere, nowhere, read, first)

    def step(self, x: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
        """(inputs,) and a state -> (outputs,) and the next state."""
        given = torch.cat([x, state.read.flatten(-2)], -1)
        hidden, controller = self.controller.step(given, state.controller)
        said = self.address(hidden).unflatten(-1, (self.heads, -1))
        key, add, strength, gate = said.split(self.parts, -1)
        least = least_used(state.usage, self.heads)
        writing = interpolation(state.reading, least, gate[..., 0].sigmoid())
        kept = state.memory * (1 - least.sum(-2))[..., None]
        memory = kept + writing.mT @ add.tanh()
        reading = content_addressing(key, 1 + F.softplus(strength[..., 0]), memory)
        read = reading @ memory
        usage = self.decay * state.usage + (reading + writing).sum(-2)
        output = self.output(torch.cat([hidden, read.flatten(-2)], -1))
        return output, LRUAState(memory, usage, reading, writing, read, controller)


class Heard(NamedTuple):
    """What is known after some examples."""

    machine: Any  # its own state
    told: Tensor  # (C,)  label of the last example, heard next; (D + C,) where it is told again


class MANN(Learner[Heard], Embeds, HasAttentionWeights):
    """Learns the embedding `embed`: (N, *features) -> (N, D), and a machine that remembers.

    The examples of a task are a sequence, and their order matters. The loss is that of guessing
    every one of them, the support set's first, before its label is told.

    Args:
        machine: of D + C inputs and C outputs: `LRUA`, or `StackedLSTM` with which the paper
            compares it, or another `RecurrentCell`.
        again: whether the machine, with a label, hears the embedding that it is of once more,
            and need not find out first that it has to keep it for a step: 2 D + C inputs.
    """

    def __init__(self, embed: nn.Module, machine: RecurrentCell[Any], *, again: bool = False):
        super().__init__()
        self.embed, self.machine, self.again = embed, machine, again

    def adapt(self, support: Examples, state: Heard | None = None) -> Heard:
        """What is known after the examples, one after the other."""
        return self.listen(support, state)[1][-1]

    def predict(self, state: Heard, x: Tensor) -> Tensor:
        """Logits (Q, C): what would be said of each query, were it the next example."""
        machine, told = tree_map(lambda part: part.expand(len(x), *part.shape), state)
        return self.machine.step(torch.cat([self.embed(x), told], -1), machine)[0]

    def loss(self, task: Task[Examples]) -> Tensor:
        """Of guessing every example before it is told, those of the support set first."""
        sequence = _sequence(task)
        return self.criterion(torch.stack(self.listen(sequence)[0]), sequence)

    def listen(
        self, examples: Examples, state: Heard | None = None
    ) -> tuple[list[Tensor], list[Heard]]:
        """Guesses (C,) of all N examples, each made before its label was told, and the N + 1
        states before, between and after them."""
        embedded = self.embed(examples.x)
        telling = torch.cat([embedded, examples.y], -1) if self.again else examples.y
        nothing = telling.new_zeros(telling.shape[-1])
        known = Heard(self.machine.start(), nothing) if state is None else state
        guesses, states = [], [known]
        for x, told, weight in zip(embedded, telling, examples.weight, strict=True):
            guess, machine = self.machine.step(torch.cat([x, known.told]), known.machine)
            known = tree_map(partial(torch.where, weight > 0), Heard(machine, told), known)
            guesses.append(guess)
            states.append(known)
        return guesses, states

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Where each head read and wrote, by its name, when all examples were told (S + Q, M);
        nothing of a machine that is no `LRUA`."""
        if not isinstance(self.machine, LRUA):
            return {}
        sequence = _sequence(task)
        states = [state.machine for state in self.listen(sequence)[1][1:]]
        found = {}
        for head in range(self.machine.heads):
            found[f"read head {head + 1}"] = torch.stack([s.reading[head] for s in states])
            found[f"write head {head + 1}"] = torch.stack([s.writing[head] for s in states])
        return found
