"""Random numbers as a function of a key: for learners that draw while they adapt.

What `adapt` returns must be a function of what it was given, or a stream that is resumed would
go on otherwise than the one that was not interrupted. So a state holds a counter, and the draws
are its hash, by SplitMix64 (Steele, Lea & Flood, 2014, doi:10.1145/2660193.2660195); integers
of 64 bits are the same on every device, and under vmap.
"""

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, as a signed integer
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # the mixer's two multipliers


def uniform(key: Tensor, *shape: int, salt: int = 0) -> Tensor:
    """Numbers (*shape) in [0, 1), of 24 random bits each, the same for the same key.

    Args:
        key: an integer, as a tensor of no axes.
        salt: tells several draws of one key apart.
    """
    return _right(_bits(key, salt, math.prod(shape)), 40).float().reshape(shape) / 2**24


def integers(key: Tensor, size: int, below: Tensor, *, salt: int = 0) -> Tensor:
    """Whole numbers (size,) from 0 to below `below`, () or (size,); 0 where that is 0."""
    return _right(_bits(key, salt, size), 1) % below.clamp_min(1)


def _bits(key: Tensor, salt: int, size: int) -> Tensor:
    start = _mixed(_mixed(key.long() + _GOLDEN) + salt)
    return _mixed(start + _GOLDEN * torch.arange(1, size + 1, device=key.device))


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _right(z, 30)) * _FIRST
    z = (z ^ _right(z, 27)) * _SECOND
    return z ^ _right(z, 31)


def _right(z: Tensor, bits: int) -> Tensor:
    """The bits moved to the right, with zeros from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
