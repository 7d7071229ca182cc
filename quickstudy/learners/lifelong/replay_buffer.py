"""What learners of streams share: mini-batches, and a memory of past examples."""

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from quickstudy.core.counter_rng import integers, uniform
from quickstudy.core.functional import Params, gradient, tree_map
from quickstudy.core.task import Examples


class Weighted(Protocol):
    """`Examples`, or another nest of tensors (N, ...) that says which of the N there are."""

    @property
    def weight(self) -> Tensor:
        """As of `Examples` (N,)."""
        ...


Kept = TypeVar("Kept", bound=Weighted)


class Buffer(NamedTuple, Generic[Kept]):
    """A sample of all examples seen, each of them equally likely to be in it."""

    examples: Kept  # (M, ...)  weight 0: an empty place
    seen: Tensor  # ()  int64: how many examples were offered


def sgd(loss: Callable[[Params], Tensor], params: Params, lr: float) -> Params:
    """One step of steepest descent, itself differentiable."""
    slopes = gradient(loss)(params)
    return {name: p - lr * slopes[name] for name, p in params.items()}


def minibatches(examples: Examples, size: int) -> Iterator[Examples]:
    """The examples in order, `size` at a time, the last maybe fewer."""
    for start in range(0, len(examples.x), size):
        yield examples.take(slice(start, start + size))


def shuffled(examples: Examples, key: Tensor) -> Examples:
    """The examples in the random order of a key, which padding does not change: it comes
    last."""
    place = uniform(key, len(examples.x)).masked_fill(examples.weight == 0, 2)
    order = place.argsort(stable=True)
    return examples.take(order)


def empty(like: Kept, slots: int) -> Buffer[Kept]:
    """A buffer of M = `slots` places for examples of these shapes."""
    places = tree_map(lambda leaf: leaf.new_zeros(slots, *leaf.shape[1:]), like)
    return Buffer(places, torch.zeros((), dtype=torch.int64, device=like.weight.device))


def reservoir(buffer: Buffer[Kept], new: Kept, *, salt: int = 0) -> Buffer[Kept]:
    """The buffer after it was offered examples, in order (Vitter, 1985, algorithm R): the n-th
    of all comes in with probability M / n, and takes a place at random."""
    slots = len(buffer.examples.weight)
    number = buffer.seen + (new.weight > 0).long().cumsum(0)  # (N,)  n, from 1
    drawn = integers(buffer.seen, len(number), number, salt=salt)
    place = torch.where(number <= slots, number - 1, drawn)
    place = torch.where(new.weight > 0, place, slots)  # slots and above: not kept
    # of several that take one place, the last stays
    order = torch.arange(1, len(place) + 1, device=place.device)
    taken = (place == torch.arange(slots, device=place.device)[:, None]) * order  # (M, N)
    last = taken.amax(1)

    def put(old: Tensor, leaf: Tensor) -> Tensor:
        chosen = leaf[(last - 1).clamp_min(0)]
        return torch.where((last > 0).reshape(-1, *[1] * (old.ndim - 1)), chosen, old)

    return Buffer(tree_map(put, buffer.examples, new), number[-1])


def draw(buffer: Buffer[Kept], size: int, *, salt: int = 1) -> Kept:
    """`size` examples of the buffer at random, each time from all; none has weight while it
    is empty. The draws are others after every example that was offered, and for other salt."""
    filled = buffer.seen.clamp_max(len(buffer.examples.weight))
    place = integers(buffer.seen, size, filled, salt=salt)
    return tree_map(lambda leaf: leaf[place], buffer.examples)


def counting(examples: Examples, new: Examples) -> Examples:
    """The examples, of weight 0 where there is nothing `new` to learn beside them."""
    there = (new.weight > 0).any().to(new.weight)
    return examples._replace(weight=examples.weight * there)


def together(*parts: Examples) -> Examples:
    """All examples of several sets."""
    return Examples.cat(*parts)
