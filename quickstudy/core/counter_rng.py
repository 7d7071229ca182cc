"""Random numbers as a function of a key, for learners that draw while they adapt.

`adapt` must be a function of its arguments, so that a resumed stream equals one without an
interruption. So a state holds a counter, and the draws are its hash, by SplitMix64 (Steele, Lea
& Flood, 2014, doi:10.1145/2660193.2660195). Integers of 64 bits are the same on every device,
and under vmap.
"""

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, as a signed integer
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # the mixer's two multipliers


def uniform(key: Tensor, *shape: int, salt: int = 0) -> Tensor:
    """Return numbers (*shape) in [0, 1), of 24 random bits each, the same for the same key.

    Args:
        key: an integer, as a tensor of no axes.
        salt: makes several draws from one key differ.

    Examples:
        >>> key = torch.tensor(5)
        >>> first = uniform(key, 2)
        >>> first.equal(uniform(key, 2)), first.equal(uniform(key, 2, salt=1))
        (True, False)
    """
    return _shift_right(_bits(key, salt, math.prod(shape)), 40).float().reshape(shape) / 2**24


def integers(key: Tensor, size: int, below: Tensor, *, salt: int = 0) -> Tensor:
    """Return whole numbers (size,) from 0 to below `below`, () or (size,); 0 where that is 0.

    Examples:
        >>> integers(torch.tensor(5), 4, torch.tensor([1, 1, 1, 0]))
        tensor([0, 0, 0, 0])
    """
    return _shift_right(_bits(key, salt, size), 1) % below.clamp_min(1)


def _bits(key: Tensor, salt: int, size: int) -> Tensor:
    start = _mixed(_mixed(key.long() + _GOLDEN) + salt)
    return _mixed(start + _GOLDEN * torch.arange(1, size + 1, device=key.device))


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _FIRST
    z = (z ^ _shift_right(z, 27)) * _SECOND
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """A logical shift: zeros come in from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
