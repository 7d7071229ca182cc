"""Sequences to recite, read back from what the tasks say, by loops."""

import pytest
import torch
from torch import Generator, Tensor

from quickstudy.core.task import Examples
from quickstudy.tasks import Copy, RepeatCopy


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rows(examples: Examples, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and y of the examples of one task that are no padding, and its weights."""
    x, y, weight = (column[number] for column in examples)
    return x[weight > 0], y[weight > 0], weight


@pytest.mark.parametrize("ragged", [False, True])
def test_the_answer_is_what_was_shown(ragged: bool):
    batch = Copy(6, length=(2, 5), ragged=ragged).sample(20, seeded())
    lengths = set[int]()
    for i in range(20):
        shown, labels, _ = rows(batch.support, i)
        queries, answer, weight = rows(batch.query, i)
        length = len(shown) - 1
        lengths.add(length)
        assert torch.equal(shown[:-1, :6], answer) and set(answer.unique().tolist()) <= {0, 1}
        assert shown[:, 6].tolist() == [0] * length + [1] and not shown[-1, :6].any()
        assert not labels.any()
        assert (
            queries.argmax(-1).tolist() == list(range(length)) and (queries.sum(-1) == 1).all()
        )
        assert weight.tolist() == [1] * length + [0] * (len(weight) - length)
    assert lengths == {2, 3, 4, 5} if ragged else len(lengths) == 1
    if ragged:
        assert batch.support.x.shape == (20, 6, 7) and batch.query.x.shape == (20, 5, 5)
    else:
        assert (batch.support.weight == 1).all() and (batch.query.weight == 1).all()


@pytest.mark.parametrize("ragged", [False, True])
def test_the_answer_is_repeated_and_ended(ragged: bool):
    tasks = RepeatCopy(3, length=(1, 3), repeats=(2, 4), standard=(1, 5), ragged=ragged)
    batch = tasks.sample(60, seeded())
    seen = set[tuple[int, int]]()
    for i in range(60):
        shown, labels, _ = rows(batch.support, i)
        queries, answer, _ = rows(batch.query, i)
        length = len(shown) - 1
        number = shown[-1, 4].item() * 2**0.5 + 3  # of 1 to 5: mean 3, variance 2
        repeats = round(number)
        assert number == pytest.approx(repeats, abs=1e-5) and not shown[:-1, 4].any()
        assert shown[:, 3].tolist() == [0] * length + [1] and not labels.any()
        expected = [[*shown[t, :3].tolist(), 0] for _ in range(repeats) for t in range(length)]
        assert answer.tolist() == [*expected, [0, 0, 0, 1]]
        assert queries.argmax(-1).tolist() == list(range(length * repeats + 1))
        seen.add((length, repeats))
    if ragged:
        assert seen == {(length, repeats) for length in (1, 2, 3) for repeats in (2, 3, 4)}
        assert batch.query.x.shape == (60, 13, 13)
    else:
        assert len(seen) == 1 and (batch.query.weight == 1).all()


def test_lengths_and_bits_are_uniform():
    batch = Copy(8, length=(1, 4), ragged=True).sample(4000, seeded())
    lengths = batch.query.weight.sum(-1)
    for length in range(1, 5):
        assert abs((lengths == length).double().mean().item() - 0.25) < 0.03
    bits = batch.query.y[batch.query.weight > 0].double().mean(0)
    torch.testing.assert_close(bits, torch.full((8,), 0.5).double(), rtol=0, atol=0.03)


def test_bounds_that_are_none_are_refused():
    for make in (
        lambda: Copy(length=(0, 3)),
        lambda: Copy(length=(3, 2)),
        lambda: RepeatCopy(repeats=(0, 1)),
        lambda: RepeatCopy(standard=(5, 1)),
    ):
        with pytest.raises(ValueError, match="fewest, most"):
            make()
