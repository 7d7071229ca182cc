"""Draws by a key: uniform, independent, the same everywhere."""

import torch
from torch.func import vmap

from quickstudy.core.counter_rng import integers, uniform


def test_splitmix64_is_the_published_one():
    """Against the generator written in Python's own integers."""
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    start = mixed((mixed((7 + golden) & mask) + 3) & mask)
    expected = [mixed((start + golden * i) & mask) for i in range(1, 6)]
    drawn = uniform(torch.tensor(7), 5, salt=3)
    assert drawn.tolist() == [(z >> 40) / 2**24 for z in expected]
    assert integers(torch.tensor(7), 5, torch.tensor(10), salt=3).tolist() == [
        (z >> 1) % 10 for z in expected
    ]


def test_numbers_are_uniform_and_those_of_other_keys_are_others():
    first, second = (uniform(torch.tensor(key), 40_000) for key in (1, 2))
    other = uniform(torch.tensor(1), 40_000, salt=1)
    counts = torch.histc(first, 20, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 43.8  # the 99.9 % point of χ² with 19 degrees
    for a, b in ((first, second), (first, other), (first[1:], first[:-1])):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.02


def test_under_vmap_as_in_a_loop():
    keys = torch.arange(4)
    together = vmap(lambda key: uniform(key, 2, 3))(keys)
    assert torch.equal(together, torch.stack([uniform(key, 2, 3) for key in keys]))


def test_of_nothing_nothing_is_drawn_but_zero():
    assert integers(torch.tensor(5), 3, torch.tensor(0)).tolist() == [0, 0, 0]
