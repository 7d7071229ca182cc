"""Sequences to copy: the tasks of neural Turing machines (Graves, Wayne & Danihelka,
2014, arXiv:1410.5401, sections 4.1 and 4.2).

A task is one sequence. The support set holds the input steps in order, with zeros in y. The
query set holds the answer: row t of x, a row of the identity, asks for step t of the answer. So
the length of the answer is a shape.
"""

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

Bounds = tuple[int, int]  # fewest, most


class Copy(TaskDistribution):
    """Copy a sequence of random bits after its end.

    Support x has `bits` columns and one that marks the end of the sequence, in a last step of
    its own; y has `bits` columns.

    Args:
        length: fewest and most steps of a sequence, all equally likely.
        ragged: if False, the tasks of a batch share one length, so that training wastes no
            computation. If True, every task has its own length and is padded to the longest
            possible by `weight` 0; tasks are then independent, and all batches of one shape.

    Raises:
        ValueError: `length` is not (fewest, most).

    Examples:
        >>> import quickstudy as qs
        >>> task = qs.tasks.Copy(2, length=(3, 3)).sample(1, torch.Generator().manual_seed(0))
        >>> task.support.x[0, :3, :2].equal(task.query.y[0])  # the answer is the sequence
        True
    """

    def __init__(self, bits: int = 8, *, length: Bounds = (1, 20), ragged: bool = False):
        _check("length", length)
        self.bits, self.length, self.ragged = bits, length, ragged

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` sequences: support x (T, S, bits + 1), query y (T, Q, bits)."""
        length = _draw(self.length, n_tasks, self.ragged, generator)
        return _copies(self.bits, length, _longest(self.length, length, self.ragged), generator)

    def card(self) -> dict[str, Json]:
        """Return the parameters."""
        return super().card() | {
            "bits": self.bits,
            "length": list(self.length),
            "ragged": self.ragged,
        }


class RepeatCopy(TaskDistribution):
    """Copy a sequence of random bits as many times as its last step states.

    Support x has `bits` columns, one that marks the end of the sequence and one with the number
    of repeats, both in a last step of their own. y has `bits` columns and one that marks the
    end of the answer, in a last step of its own.

    Args:
        length: fewest and most steps of a sequence, all equally likely.
        repeats: fewest and most repeats, all equally likely.
        standard: range of repeats in training; the number of repeats is measured in standard
            deviations above the mean of this range.
        ragged: as in `Copy`; if False, the number of repeats is shared too.

    Raises:
        ValueError: `length`, `repeats` or `standard` is not (fewest, most).

    Examples:
        >>> import quickstudy as qs
        >>> tasks = qs.tasks.RepeatCopy(2, length=(3, 3), repeats=(2, 2))
        >>> task = tasks.sample(1, torch.Generator().manual_seed(0))
        >>> task.support.x.shape, task.query.y.shape  # 3 steps and the end; 2 * 3 and the end
        (torch.Size([1, 4, 4]), torch.Size([1, 7, 3]))
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        length: Bounds = (1, 10),
        repeats: Bounds = (1, 10),
        standard: Bounds = (1, 10),
        ragged: bool = False,
    ):
        _check("length", length)
        _check("repeats", repeats)
        _check("standard", standard)
        self.bits, self.ragged = bits, ragged
        self.length, self.repeats, self.standard = length, repeats, standard

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw `n_tasks` sequences: support x (T, S, bits + 2), query y (T, Q, bits + 1)."""
        length = _draw(self.length, n_tasks, self.ragged, generator)
        repeats = _draw(self.repeats, n_tasks, self.ragged, generator)
        longest = _longest(self.length, length, self.ragged)
        most = _longest(self.repeats, repeats, self.ragged)
        sequence, _ = _copies(self.bits, length, longest, generator)
        numbers = torch.arange(self.standard[0], self.standard[1] + 1.0)
        number = (repeats - numbers.mean()) / numbers.std(correction=0).clamp_min(1)
        x = torch.cat([sequence.x, sequence.x[..., -1:] * number[..., None]], -1)
        step = torch.arange(longest * most + 1)
        ends = length * repeats  # (T, 1)
        repeated = sequence.x[..., : self.bits].gather(
            1, (step % length)[..., None].expand(-1, -1, self.bits)
        )
        y = torch.cat(
            [repeated * (step < ends)[..., None], step[:, None] == ends[..., None]], -1
        )
        support = Examples(x, y.new_zeros(*x.shape[:2], self.bits + 1), sequence.weight)
        return Task(support, _queries(y, (step <= ends).to(y)))

    def card(self) -> dict[str, Json]:
        """Return the parameters."""
        return {
            **super().card(),
            "bits": self.bits,
            "length": list(self.length),
            "repeats": list(self.repeats),
            "standard": list(self.standard),
            "ragged": self.ragged,
        }


def _copies(bits: int, length: Tensor, longest: int, generator: Generator) -> TaskBatch:
    """Draw random sequences of lengths (T, 1), to be copied once."""
    size, step = len(length), torch.arange(longest + 1)
    bit = torch.randint(0, 2, (size, longest + 1, bits), generator=generator)
    y = (bit * (step < length)[..., None]).to(torch.get_default_dtype())
    x = torch.cat([y, (step == length)[..., None]], -1)
    support = Examples(x, torch.zeros_like(y), (step <= length).to(y))
    return Task(support, _queries(y[:, :-1], (step[:-1] < length).to(y)))


def _queries(y: Tensor, weight: Tensor) -> Examples:
    """Return a query for every step of the answers y (T, Q, C): its row of the identity."""
    size, steps = weight.shape
    return Examples(torch.eye(steps).to(y).expand(size, -1, -1), y, weight)


def _draw(bounds: Bounds, size: int, ragged: bool, generator: Generator) -> Tensor:
    """Draw a number for every task (T, 1), or one for all."""
    shape = (size if ragged else 1, 1)
    return torch.randint(bounds[0], bounds[1] + 1, shape, generator=generator).expand(size, 1)


def _longest(bounds: Bounds, number: Tensor, ragged: bool) -> int:
    """Return the number that all tasks of a batch are padded to."""
    return bounds[1] if ragged else int(number[0])


def _check(name: str, bounds: Bounds) -> None:
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"{name}={bounds}: give (fewest, most), from 1 on.")
