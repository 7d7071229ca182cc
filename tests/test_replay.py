"""The memory of past examples."""

import torch
from torch.func import vmap

from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    mask_if_empty,
    minibatches,
    reservoir,
    sample,
    shuffled,
)


def numbers(start: int, end: int) -> Examples:
    x = torch.arange(start, end).float()[:, None]
    return Examples(x, x, torch.ones(len(x)))


def kept(buffer: Buffer) -> list[float]:
    return buffer.examples.x[buffer.examples.weight > 0, 0].tolist()


def test_a_reservoir_holds_every_example_equally_often():
    """Vitter's theorem, by χ²: 600 streams of 300 examples in pieces, 30 places."""
    hits = torch.zeros(300)
    for salt in range(600):
        buffer = empty_buffer(numbers(0, 1), 30)
        for start in range(0, 300, 20):
            buffer = reservoir(buffer, numbers(start, start + 20), salt=salt)
        hits[buffer.examples.x[:, 0].long()] += 1
    expected = 600 * 30 / 300
    variance = expected * (1 - 30 / 300)
    assert hits.sum() == 600 * 30
    assert 0 < ((hits - expected) ** 2 / variance).sum() < 380.4  # 99.9 %, 299 degrees


def test_a_reservoir_is_that_of_a_loop():
    buffer, places = empty_buffer(numbers(0, 1), 4), [None] * 4
    from quickstudy.core.counter_rng import integers

    for start in (0, 5, 10, 15):
        new = numbers(start, start + 5)
        count = torch.arange(start + 1, start + 6)
        drawn = integers(torch.tensor(start), 5, count)
        for value, n, place in zip(new.x[:, 0].tolist(), count, drawn, strict=True):
            place = int(n) - 1 if n <= 4 else int(place)
            if place < 4:
                places[place] = value
        buffer = reservoir(buffer, new)
        assert buffer.examples.x[:, 0].tolist()[: start + 5] == places[: start + 5]
    assert buffer.seen == 20


def test_padding_is_neither_kept_nor_counted():
    new = numbers(1, 7)._replace(weight=torch.tensor([1.0, 0, 1, 0, 0, 1]))
    buffer = reservoir(empty_buffer(new, 5), new)
    assert kept(buffer) == [1, 3, 6]
    assert buffer.seen == 3


def test_draws_are_of_what_is_there():
    buffer = reservoir(empty_buffer(numbers(0, 1), 8), numbers(1, 4))
    drawn = sample(buffer, 200)
    assert set(drawn.x[:, 0].tolist()) == {1, 2, 3}
    unfilled = sample(empty_buffer(numbers(0, 1), 8), 5)
    assert unfilled.weight.tolist() == [0] * 5


def test_samples_of_a_full_buffer_are_from_all_its_places():
    buffer = reservoir(empty_buffer(numbers(0, 1), 3), numbers(1, 9))
    assert set(sample(buffer, 200).x[:, 0].tolist()) == set(kept(buffer))
    assert len(set(kept(buffer))) == 3


def test_beside_padding_nothing_is_rehearsed():
    old, new = numbers(0, 3), numbers(3, 5)
    assert mask_if_empty(old, new).weight.tolist() == [1, 1, 1]
    assert mask_if_empty(old, new._replace(weight=torch.zeros(2))).weight.tolist() == [0, 0, 0]


def test_several_streams_at_once_are_as_each_alone():
    batch = tree_map(lambda *leaves: torch.stack(leaves), numbers(0, 9), numbers(20, 29))
    together = vmap(lambda new: reservoir(empty_buffer(new, 3), new))(batch)
    alone = reservoir(empty_buffer(numbers(20, 29), 3), numbers(20, 29))
    assert torch.equal(together.examples.x[1], alone.examples.x)


def test_every_order_is_as_likely():
    keys = torch.arange(6000)
    orders = vmap(lambda key: shuffled(numbers(0, 3), key).x[:, 0])(keys)
    counts = torch.bincount((orders @ torch.tensor([9.0, 3, 1])).long()).float()
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # the 99.9 % point of χ², 5 degrees


def test_minibatches_are_in_order_and_shuffles_lose_nothing():
    sizes = [len(part.x) for part in minibatches(numbers(0, 7), 3)]
    assert sizes == [3, 3, 1]
    mixed = shuffled(numbers(0, 7), torch.tensor(1)).x[:, 0]
    assert mixed.tolist() != list(range(7))
    assert mixed.sort().values.tolist() == list(range(7))
