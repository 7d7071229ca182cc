"""Trees: nested tuples and dictionaries of tensors, as tasks and states are."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `fn` to the tensors of nested tuples and dictionaries.

    Examples:
        >>> import torch
        >>> tree_map(lambda a, b: a + b, (torch.ones(1), {}), (torch.ones(1), {}))
        (tensor([2.]), {})
    """
    if isinstance(tree, dict):
        return {key: tree_map(fn, *(t[key] for t in (tree, *others))) for key in tree}
    if isinstance(tree, tuple):
        parts = (tree_map(fn, *part) for part in zip(tree, *others, strict=True))
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fn(tree, *others)


def merge(fn: Callable[[Tensor, Tensor], Tensor], state: Any, new: Any) -> Any:
    """Apply `fn` to the tensors of a state and of new examples; None is the empty state.

    Examples:
        >>> import torch
        >>> merge(torch.add, None, (torch.ones(1),)), merge(torch.add, (1,), (torch.ones(1),))
        ((tensor([1.]),), (tensor([2.]),))
    """
    return new if state is None else tree_map(fn, state, new)


def append(state: Any, new: Any) -> Any:
    """Concatenate the tensors of a state and of new examples; None is the empty state.

    Examples:
        >>> import torch
        >>> append((torch.zeros(2),), (torch.ones(1),))
        (tensor([0., 0., 1.]),)
    """
    return merge(lambda old, more: torch.cat([old, more]), state, new)


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of nested tuples and dictionaries, in order.

    Examples:
        >>> import torch
        >>> leaves({"a": (torch.tensor(1), torch.tensor(2)), "b": torch.tensor(3)})
        [tensor(1), tensor(2), tensor(3)]
    """
    tensors: list[Tensor] = []
    tree_map(tensors.append, tree)
    return tensors


def unflatten(like: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a tree of the structure of `like` with `tensors` in order; undoes `leaves`.

    Examples:
        >>> import torch
        >>> unflatten({"a": torch.zeros(1), "b": ()}, [torch.ones(2)])
        {'a': tensor([1., 1.]), 'b': ()}
    """
    stream = iter(tensors)
    return tree_map(lambda _: next(stream), like)


def unstack(tree: Any) -> list[Any]:
    """Split a tree of tensors with a leading axis T into T trees.

    Examples:
        >>> import torch
        >>> unstack({"a": torch.tensor([1, 2])})
        [{'a': tensor(1)}, {'a': tensor(2)}]
    """
    size = len(leaves(tree)[0])
    return [tree_map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]


def scan(step: Callable[..., Any], state: Any, *rows: Tensor, weight: Tensor) -> list[Any]:
    """Return the N + 1 states before, between and after N steps; padding changes no state.

    Args:
        step: maps a state and one row of each tensor to the next state.
        state: the first, a tree of tensors.
        rows: tensors (N, ...).
        weight: (N,); rows of weight 0 are padding.

    Examples:
        >>> import torch
        >>> scan(torch.add, torch.tensor(1), torch.tensor([2, 4]), weight=torch.tensor([1, 0]))
        [tensor(1), tensor(3), tensor(3)]
    """
    return [state, *_states(step, state, *rows, weight=weight)]


def fold(step: Callable[..., Any], state: Any, *rows: Tensor, weight: Tensor) -> Any:
    """Return the last state that `scan` returns; no other is kept.

    Examples:
        >>> import torch
        >>> fold(torch.add, torch.tensor(1), torch.tensor([2, 4]), weight=torch.tensor([1, 0]))
        tensor(3)
    """
    for after in _states(step, state, *rows, weight=weight):
        state = after
    return state


def _states(
    step: Callable[..., Any], state: Any, *rows: Tensor, weight: Tensor
) -> Iterator[Any]:
    for *row, is_real in zip(*rows, weight > 0, strict=True):
        state = tree_map(partial(torch.where, is_real), step(state, *row), state)
        yield state
