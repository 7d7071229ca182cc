r"""Learning a sequence by heart, in one reading: neural Turing machines as learners (Graves,
Wayne & Danihelka, 2014, arXiv:1410.5401).

The examples are steps of a sequence. A machine with a memory reads one after the other, and
what it then remembers is what was learned; asked, it recites:

$$(\cdot, m_t) = \mathrm{step}(x_t, m_{t-1}), \; t = 1, \dots, S; \qquad
  (\hat y_t, m_{S+t}) = \mathrm{step}(0, m_{S+t-1}), \; t = 1, \dots, Q$$

Differs from the paper: in words. There, inputs are followed by targets; here, a sequence is a
task, the memory it leaves is what was learned, and to predict is to recite. What the paper
leaves open of the machine is said in `NTM`.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.capabilities import HasAttentionWeights
from quickstudy.core.functional import Criterion, tree_map, weighted_mean
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.nets.cells import NTM, RecurrentCell


def bit_cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """Mean over examples of the negative log-probability, in bits, of a row of bits (C,)."""
    each = F.binary_cross_entropy_with_logits(logits, examples.y, reduction="none")
    return weighted_mean(each.sum(-1), examples.weight) / math.log(2)


def bit_errors(logits: Tensor, examples: Examples) -> Tensor:
    """How many bits of all examples together are taken for their opposite."""
    wrong = (logits > 0) != (examples.y > 0.5)
    return (wrong.sum(-1) * examples.weight).sum()


class SequenceLearner(Learner[Any], HasAttentionWeights):
    """Learns to learn sequences by heart, such as those of `Copy`.

    Args:
        machine: such as `NTM` or `StackedLSTM`, of as many inputs as examples have columns.
            Its state is what was learned.
    """

    def __init__(
        self, machine: RecurrentCell[Any], *, criterion: Criterion = bit_cross_entropy
    ):
        super().__init__(criterion)
        self.machine = machine

    def adapt(self, support: Examples, state: Any = None) -> Any:
        """The machine's state after the examples, one after the other."""
        state = self.machine.start() if state is None else state
        for x, weight in zip(support.x.unbind(), support.weight.unbind(), strict=True):
            _, after = self.machine.step(x, state)
            state = tree_map(partial(torch.where, weight > 0), after, state)
        return state

    def predict(self, state: Any, x: Tensor) -> Tensor:
        """Logits (Q, C) of the steps that the rows of x (Q, steps), one-hot, ask for; the
        machine recites all of them, given zeros."""
        recited, _ = self.machine(x.new_zeros(x.shape[-1], self.machine.inputs), state)
        return x @ recited

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Where each head was, by its name, at every step of reading and then reciting
        (S + Q, M); nothing of a machine without heads."""
        if not isinstance(self.machine, NTM):
            return {}
        steps = task.query.x.shape[-1]
        x = torch.cat([task.support.x, task.support.x.new_zeros(steps, self.machine.inputs)])
        _, states = self.machine.trace(x)
        every = torch.stack(
            [state.attention_weights for state in states], 1
        )  # (H, S + steps, M)
        read, recited = every.split([len(task.support.x), steps], 1)
        asked = torch.cat([read, task.query.x @ recited], 1)
        return dict(zip(self.machine.names(), asked, strict=True))
