"""Sequences to be recited: the copy tasks of neural Turing machines (Graves, Wayne & Danihelka,
2014, arXiv:1410.5401, sections 4.1 and 4.2).

A task is one sequence. Its support set is what is shown, in order, and has zeros in y, as
nothing is told about it; its query set is what to answer. Row t of a query's x asks for step t
of the answer: x is the identity, so that how long to answer is a shape.
"""

import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution

Whole = tuple[int, int]  # fewest, most


class Copy(TaskDistribution):
    """A sequence of random bits, to be recited once it has ended.

    Support x has `bits` columns and one that says, in a last step of its own, that the
    sequence has ended; y has `bits`.

    Args:
        length: fewest and most steps of a sequence, all equally likely.
        ragged: False: the tasks of a batch share one length, so that nothing is computed in
            vain, which is what training wants. True: every task has its own, padded to
            the longest possible by `weight` 0; tasks are then independent, and all batches
            of one shape.

    Raises:
        ValueError: `length` is not (fewest, most).
    """

    def __init__(self, bits: int = 8, *, length: Whole = (1, 20), ragged: bool = False):
        _check("length", length)
        self.bits, self.length, self.ragged = bits, length, ragged

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` sequences: support x (T, S, bits + 1), query y (T, Q, bits)."""
        length = _draw(self.length, n_tasks, self.ragged, generator)
        longest = _longest(self.length, length, self.ragged)
        return _recitals(self.bits, length, longest, generator)

    def card(self) -> dict[str, Json]:
        """The parameters."""
        own = {"bits": self.bits, "length": list(self.length), "ragged": self.ragged}
        return {**super().card(), **own}


class RepeatCopy(TaskDistribution):
    """A sequence of random bits, to be recited a number of times that is told at its end.

    Support x has `bits` columns and, in a last step of its own, one that says that the
    sequence has ended and one with the number of repeats; y has `bits` and one that says, in a
    last step of its own, that the answer has ended.

    Args:
        length: fewest and most steps of a sequence, all equally likely.
        repeats: fewest and most repeats, all equally likely.
        standard: the number of repeats is told as so many standard deviations above the mean
            of the numbers in this range, which should be that of training.
        ragged: as of `Copy`; where False, the number of repeats is shared too.

    Raises:
        ValueError: `length`, `repeats` or `standard` is not (fewest, most).
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        length: Whole = (1, 10),
        repeats: Whole = (1, 10),
        standard: Whole = (1, 10),
        ragged: bool = False,
    ):
        _check("length", length)
        _check("repeats", repeats)
        _check("standard", standard)
        self.bits, self.ragged = bits, ragged
        self.length, self.repeats, self.standard = length, repeats, standard

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """`n_tasks` sequences: support x (T, S, bits + 2), query y (T, Q, bits + 1)."""
        length = _draw(self.length, n_tasks, self.ragged, generator)
        repeats = _draw(self.repeats, n_tasks, self.ragged, generator)
        longest = _longest(self.length, length, self.ragged)
        most = _longest(self.repeats, repeats, self.ragged)
        given, _ = _recitals(self.bits, length, longest, generator)
        low, high = self.standard
        numbers = torch.arange(low, high + 1.0)
        number = (repeats - numbers.mean()) / numbers.std(correction=0).clamp_min(1)
        ended = given.x[..., -1:]
        x = torch.cat([given.x, ended * number[..., None]], -1)
        step = torch.arange(longest * most + 1)
        ends = length * repeats  # (T, 1)
        bits = given.x[..., : self.bits]
        again = bits.gather(1, (step % length)[..., None].expand(-1, -1, self.bits))
        adaptation_trace = (step < ends)[..., None]
        y = torch.cat([again * adaptation_trace, step[:, None] == ends[..., None]], -1)
        nothing = y.new_zeros(*x.shape[:2], self.bits + 1)
        support = Examples(x, nothing, given.weight)
        return Task(support, _asked(y, (step <= ends).to(y)))

    def card(self) -> dict[str, Json]:
        """The parameters."""
        return {
            **super().card(),
            "bits": self.bits,
            "length": list(self.length),
            "repeats": list(self.repeats),
            "standard": list(self.standard),
            "ragged": self.ragged,
        }


def _recitals(bits: int, length: Tensor, longest: int, generator: Generator) -> TaskBatch:
    """Random sequences of the lengths (T, 1), to be recited once."""
    size, step = len(length), torch.arange(longest + 1)
    says = torch.randint(0, 2, (size, longest + 1, bits), generator=generator)
    y = (says * (step < length)[..., None]).to(torch.get_default_dtype())
    x = torch.cat([y, (step == length)[..., None]], -1)
    support = Examples(x, torch.zeros_like(y), (step <= length).to(y))
    return Task(support, _asked(y[:, :-1], (step[:-1] < length).to(y)))


def _asked(y: Tensor, weight: Tensor) -> Examples:
    """Every step (T, Q, C) of the answers, asked for by its row of the identity."""
    size, steps = weight.shape
    return Examples(torch.eye(steps).to(y).expand(size, -1, -1), y, weight)


def _draw(bounds: Whole, size: int, ragged: bool, generator: Generator) -> Tensor:
    """A number of every task (T, 1)."""
    low, high = bounds
    drawn = torch.randint(low, high + 1, (size if ragged else 1, 1), generator=generator)
    return drawn.expand(size, 1)


def _longest(bounds: Whole, drawn: Tensor, ragged: bool) -> int:
    """What all tasks of a batch are padded to."""
    return bounds[1] if ragged else int(drawn[0])


def _check(name: str, bounds: Whole) -> None:
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"{name}={bounds}: give (fewest, most), from 1 on.")
