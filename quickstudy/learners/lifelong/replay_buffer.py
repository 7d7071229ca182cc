"""Mini-batches and a memory of past examples, for learners of streams."""

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from quickstudy.core.counter_rng import integers, uniform
from quickstudy.core.gradients import gradient
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map


class Weighted(Protocol):
    """`Examples`, or another nest of tensors (N, ...) with a weight for each row.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> x = torch.ones(2, 1)
        >>> rows: Weighted = Examples(x, x, torch.tensor([1.0, 0]))
        >>> rows.weight
        tensor([1., 0.])
    """

    @property
    def weight(self) -> Tensor:
        """Weights (N,), as of `Examples`."""
        ...


Rows = TypeVar("Rows", bound=Weighted)


class Buffer(NamedTuple, Generic[Rows]):
    """A uniform random sample of all examples seen so far.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(5, 2), torch.ones(5, 3), torch.ones(5))
        >>> buffer = reservoir(empty_buffer(examples, 4), examples)
        >>> buffer.examples.x.shape, buffer.seen
        (torch.Size([4, 2]), tensor(5))
    """

    examples: Rows  # (M, ...)  weight 0: an empty place
    seen: Tensor  # ()  int64: the number of examples offered


def sgd_step(loss: Callable[[Params], Tensor], params: Params, lr: float) -> Params:
    """Take one step of gradient descent, itself differentiable.

    Examples:
        >>> import torch
        >>> with torch.no_grad():
        ...     sgd_step(lambda params: params["a"].square(), {"a": torch.tensor(3.0)}, lr=0.25)
        {'a': tensor(1.5000)}
    """
    grads = gradient(loss)(params)
    return {name: p - lr * grads[name] for name, p in params.items()}


def minibatches(examples: Examples, size: int) -> Iterator[Examples]:
    """Yield the examples in order, `size` at a time. The last mini-batch may be smaller.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(5, 2), torch.ones(5, 3), torch.ones(5))
        >>> [len(batch.x) for batch in minibatches(examples, 2)]
        [2, 2, 1]
    """
    for start in range(0, len(examples.x), size):
        yield examples.take(slice(start, start + size))


def salted_minibatches(
    examples: Examples, size: int, epochs: int
) -> Iterator[tuple[Examples, int]]:
    """Yield the mini-batches of all epochs, each with a salt of `sample`.

    It is 1 in the first epoch, which fills a memory, and another for each later mini-batch.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(5, 2), torch.ones(5, 3), torch.ones(5))
        >>> [salt for _, salt in salted_minibatches(examples, 3, epochs=3)]
        [1, 1, 2, 3, 4, 5]
    """
    batches = list(minibatches(examples, size))
    for number, batch in enumerate(batches * epochs):
        yield batch, max(1, number - len(batches) + 2)


def shuffled(examples: Examples, key: Tensor) -> Examples:
    """Return the examples in the random order of a key. Padding comes last and does not change
    the order of the others.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> x = torch.arange(4.0)[:, None]
        >>> examples = Examples(x, x, torch.tensor([0.0, 1, 1, 1]))
        >>> shuffled(examples, torch.tensor(0)).weight
        tensor([1., 1., 1., 0.])
    """
    position = uniform(key, len(examples.x)).masked_fill(examples.weight == 0, 2)
    return examples.take(position.argsort(stable=True))


def shuffled_minibatches(examples: Examples, size: int, epochs: int) -> Iterator[Examples]:
    """Yield mini-batches of the examples, in another order in each epoch.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> x = torch.arange(3.0)[:, None]
        >>> batches = shuffled_minibatches(Examples(x, x, torch.ones(3)), size=2, epochs=2)
        >>> [len(batch.x) for batch in batches]
        [2, 1, 2, 1]
    """
    for epoch in range(epochs):
        key = torch.tensor(epoch, device=examples.x.device)
        yield from minibatches(shuffled(examples, key), size)


def empty_buffer(like: Rows, memory_size: int) -> Buffer[Rows]:
    """Return a buffer with M = `memory_size` empty places for examples of these shapes.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(1, 2), torch.ones(1, 3), torch.ones(1))
        >>> empty_buffer(examples, 4).examples.weight
        tensor([0., 0., 0., 0.])
    """
    places = tree_map(lambda leaf: leaf.new_zeros(memory_size, *leaf.shape[1:]), like)
    return Buffer(places, torch.zeros((), dtype=torch.int64, device=like.weight.device))


def reservoir(buffer: Buffer[Rows], new: Rows, *, salt: int = 0) -> Buffer[Rows]:
    """Offer examples to the buffer, in order (Vitter, 1985, algorithm R): the n-th of all
    enters with probability M / n, at a random place.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> x = torch.arange(1.0, 4)[:, None]
        >>> buffer = empty_buffer(Examples(x, x, torch.ones(3)), 5)
        >>> weight = torch.tensor([1.0, 0, 1])  # the second is padding
        >>> buffer = reservoir(buffer, Examples(x, x, weight))
        >>> buffer.examples.x[:, 0], buffer.seen
        (tensor([1., 3., 0., 0., 0.]), tensor(2))
    """
    memory_size = len(buffer.examples.weight)
    number = buffer.seen + (new.weight > 0).long().cumsum(0)  # (N,)  n, from 1
    drawn = integers(buffer.seen, len(number), number, salt=salt)
    place = torch.where(number <= memory_size, number - 1, drawn)
    place = torch.where(new.weight > 0, place, memory_size)  # memory_size and above: rejected
    # Several examples may take one place: the last stays. Example: with 4 places and
    # place = [2, 0, 2], `last` = [2, 0, 3, 0]: place 0 takes the second example, place 2 the
    # third.
    turn = torch.arange(1, len(place) + 1, device=place.device)
    nothing = place.new_zeros(memory_size + 1)  # of the last place are those rejected
    last = nothing.scatter_reduce(0, place.clamp_max(memory_size), turn, "amax")[:-1]

    def put(old: Tensor, leaf: Tensor) -> Tensor:
        entering = leaf[(last - 1).clamp_min(0)]
        return torch.where((last > 0).reshape(-1, *[1] * (old.ndim - 1)), entering, old)

    return Buffer(tree_map(put, buffer.examples, new), number[-1])


def sample(buffer: Buffer[Rows], size: int, *, salt: int = 1) -> Rows:
    """Draw `size` examples with replacement; they have weight 0 while the buffer is empty.

    The draw changes with the number of examples offered, and with `salt`.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(3, 2), torch.ones(3, 3), torch.ones(3))
        >>> buffer = empty_buffer(examples, 8)
        >>> sample(buffer, 2).weight, sample(reservoir(buffer, examples), 2).weight
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    filled = buffer.seen.clamp_max(len(buffer.examples.weight))
    place = integers(buffer.seen, size, filled, salt=salt)
    return tree_map(lambda leaf: leaf[place], buffer.examples)


def mask_if_empty(examples: Examples, new: Examples) -> Examples:
    """Return the examples, with weight 0 if all of `new` is padding.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> old = Examples(torch.ones(2, 2), torch.ones(2, 3), torch.ones(2))
        >>> mask_if_empty(old, old._replace(weight=torch.zeros(2))).weight
        tensor([0., 0.])
    """
    return examples._replace(weight=examples.weight * any_weight(new))


def any_weight(examples: Examples) -> Tensor:
    """Return 1 if an example has weight, and 0 if all are padding.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> any_weight(Examples(torch.ones(2, 2), torch.ones(2, 3), torch.tensor([0.0, 2])))
        tensor(1.)
    """
    return (examples.weight > 0).any().to(examples.weight)
