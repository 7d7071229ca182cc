r"""Memorising a sequence in one pass: neural Turing machines as learners (Graves, Wayne &
Danihelka, 2014, arXiv:1410.5401).

The examples are steps of a sequence. A recurrent cell with a memory reads them one after the
other, and its state is the state of the task. To predict, the cell recalls the sequence:

$$(\cdot, m_t) = \mathrm{step}(x_t, m_{t-1}), \; t = 1, \dots, S; \qquad
  (\hat y_t, m_{S+t}) = \mathrm{step}(0, m_{S+t-1}), \; t = 1, \dots, Q$$

Differs from the paper: only in terms. There, targets follow inputs; here, a sequence is a task,
reading it is adaptation, and recalling it is prediction. `NTM` lists what the paper leaves open
about the cell.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.capabilities import HasAttentionWeights
from quickstudy.core.criteria import Criterion, check_outputs, weighted_mean
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import fold
from quickstudy.learner import Learner
from quickstudy.nets.cells import NTM, RecurrentCell


def bit_cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """Return the mean over examples of the negative log-probability of a row of bits, in bits.

    Logits and bits are (N, ..., C), of which C is summed over.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> examples = qs.Examples(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2))
        >>> bit_cross_entropy(torch.zeros(2, 3), examples).round()
        tensor(3.)
    """
    check_outputs(logits, examples.y)
    nats = F.binary_cross_entropy_with_logits(logits, examples.y, reduction="none")
    return weighted_mean(nats.sum(-1), examples.weight) / math.log(2)


def bit_errors(logits: Tensor, examples: Examples) -> Tensor:
    """Return the number of wrong bits in all examples together; NaN if a logit is.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> examples = qs.Examples(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2))
        >>> bit_errors(torch.tensor([[5.0, -5, 5], [5, 5, 5]]), examples)
        tensor(1.)
    """
    check_outputs(logits, examples.y)
    wrong = ((logits > 0) != (examples.y > 0.5)).to(logits.dtype)
    errors = torch.where(logits.isnan(), torch.nan, wrong).flatten(1).sum(-1)
    return torch.where(examples.weight > 0, errors * examples.weight, 0).sum()


class SequenceLearner(Learner[Any], HasAttentionWeights):
    """Learns to memorise sequences, such as those of `Copy`.

    Args:
        cell: such as `NTM` or `StackedLSTM`, with as many inputs as examples have columns. Its
            state is the state of the task.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> cell = qs.nets.NTM(inputs=5, outputs=4, hidden=8, slots=6, width=3)
        >>> learner, batch = qs.SequenceLearner(cell), qs.tasks.Copy(4, length=(2, 3))
        >>> task = batch.sample(1, torch.Generator().manual_seed(0))
        >>> learner(task).shape
        torch.Size([1])
    """

    def __init__(self, cell: RecurrentCell[Any], *, criterion: Criterion = bit_cross_entropy):
        super().__init__(criterion)
        self.cell = cell

    def adapt(self, support: Examples, state: Any = None) -> Any:
        """Read the examples, one after the other; return the state of the cell."""
        state = self.cell.initial_state() if state is None else state
        return fold(
            lambda before, x: self.cell.step(x, before)[1],
            state,
            support.x,
            weight=support.weight,
        )

    def predict(self, state: Any, x: Tensor) -> Tensor:
        """Return logits (Q, C) of the steps that the one-hot rows of x (Q, steps) select.

        The cell recalls all steps; its inputs are zeros.
        """
        recalled, _ = self.cell(x.new_zeros(x.shape[-1], self.cell.inputs), state)
        return x @ recalled

    def attention_weights(self, task: Task[Examples]) -> dict[str, Tensor]:
        """Return the weights of each head over slots, while reading and recalling (S + Q, M).

        Empty if the cell has no heads.
        """
        if not isinstance(self.cell, NTM):
            return {}
        steps = task.query.x.shape[-1]
        x = torch.cat([task.support.x, task.support.x.new_zeros(steps, self.cell.inputs)])
        _, states = self.cell.trace(x)
        weights = torch.stack([s.attention_weights for s in states], 1)  # (H, S + steps, M)
        reading, recalling = weights.split([len(task.support.x), steps], 1)
        selected = torch.cat([reading, task.query.x @ recalling], 1)
        return dict(zip(self.cell.names(), selected, strict=True))
