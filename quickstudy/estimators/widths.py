"""The number of classes that a learner predicts, and how a state gains classes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import OutputMismatch
from quickstudy.core.task import Examples
from quickstudy.core.tree import leaves, unflatten
from quickstudy.learner import Learner
from quickstudy.training.embed_together import head_of

CLASSES = 256  # that have labels at once, of a learner whose classes are independent


def one_hot_examples(x: Tensor, index: np.ndarray, weight: Tensor, width: int) -> Examples:
    """Return examples whose labels have `width` columns.

    Examples:
        >>> one_hot_examples(torch.zeros(2, 4), np.array([0, 2]), torch.ones(2), 3).y.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return Examples(x, F.one_hot(torch.from_numpy(index), width).to(weight), weight)


def adapt_to_labels(
    learner: Learner[Any], x: Tensor, index: np.ndarray, weight: Tensor, width: int
) -> Any:
    """Return the state of `width` classes after examples with the classes `index` (N,).

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> adapt_to_labels(learner, torch.eye(2), np.array([0, 2]), torch.ones(2), 3).sizes
        tensor([1., 0., 1.])
    """
    if width > CLASSES and learner.independent_classes:
        return adapt_classes(learner, x, index, weight, width)
    return learner.adapt(one_hot_examples(x, index, weight, width))


def adapt_classes(
    learner: Learner[Any],
    x: Tensor,
    index: np.ndarray,
    weight: Tensor,
    width: int,
    state: Any = None,
) -> Any:
    """Adapt a learner whose classes are independent, some classes at a time.

    One-hot labels of all classes would be a table of all examples and all classes.

    Args:
        state: of `width` classes. Its tensors with a class axis are written in place. None: it
            begins without examples.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> state = adapt_classes(learner, torch.eye(2), np.array([2, 0]), torch.ones(2), 3)
        >>> state.sums.tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    axes = learner.class_axes
    assert axes is not None
    blocks = list(class_blocks(index))
    if len(blocks) > 1 and isinstance(learner, Embeds):
        # together, as a net may normalise by the batch
        x, learner = learner.get_submodule("embed")(x), head_of(learner)
    for classes, rows in blocks:
        columns, some = (torch.from_numpy(part).to(x.device) for part in (classes, rows))
        labels = np.searchsorted(classes, index[rows])
        examples = one_hot_examples(x[some], labels, weight[some], len(classes))
        before = None if state is None else columns_of(state, columns, axes)
        after = learner.adapt(examples, before)
        if state is None:
            state = map_class_axes(
                lambda leaf, axis: leaf.new_zeros(width, *leaf.shape[1:]), after, axes
            )
        state = write_columns(state, columns, after, axes)
    return state


def class_blocks(index: np.ndarray, size: int = CLASSES) -> Iterator[tuple[Any, Any]]:
    """Yield classes, at most `size` at a time in order, and the rows of their examples.

    Examples:
        >>> [rows.tolist() for _, rows in class_blocks(np.array([5, 2, 5, 9]), size=2)]
        [[0, 1, 2], [3]]
    """
    order = np.argsort(index, kind="stable")
    classes, starts = np.unique(index[order], return_index=True)
    ends = np.append(starts, len(index))
    for first in range(0, len(classes), size):
        last = min(first + size, len(classes))
        yield classes[first:last], np.sort(order[ends[first] : ends[last]])


def columns_of(state: Any, columns: Tensor, axes: Mapping[str, int]) -> Any:
    """Return the part of a state that belongs to some classes; class axes are the first.

    Examples:
        >>> state = {"b": torch.tensor([3.0, 4.0])}
        >>> columns_of(state, torch.tensor([1]), {"b": 0})
        {'b': tensor([4.])}
    """
    return map_class_axes(lambda leaf, axis: leaf[columns], state, axes)


def write_columns(state: Any, columns: Tensor, part: Any, axes: Mapping[str, int]) -> Any:
    """Write the `part` of some classes into a state, in place; return it with the tensors of
    `part` that have no class axis.

    Examples:
        >>> state = {"b": torch.tensor([3.0, 4.0])}
        >>> write_columns(state, torch.tensor([1]), {"b": torch.tensor([5.0])}, {"b": 0})
        {'b': tensor([3., 5.])}
    """
    return map_class_axes(
        lambda some, axis, whole: whole.index_copy_(0, columns, some), part, axes, state
    )


def adapt_from_scratch(
    learner: Learner[Any], adapt: Callable[[int], tuple[Any, int]], count: int
) -> tuple[Any, int]:
    """Adapt with labels of as many columns as the learner has outputs, at least `count`.

    The number of outputs is the learner's `outputs`. If it declares none, labels have `count`
    columns first. A learner of another number of outputs then either raises `OutputMismatch`,
    which states that number, or predicts that many columns.

    Args:
        adapt: adapts with labels of so many columns; returns the state and the number of
            columns of its predictions.

    Returns:
        The state, and the number of columns.

    Raises:
        ValueError: the learner has fewer outputs, or a number that changes with the labels.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(4, 3))
        >>> def adapt(width):
        ...     index = np.arange(4) % 2
        ...     examples = one_hot_examples(torch.eye(4), index, torch.ones(4), width)
        ...     state = learner.adapt(examples)
        ...     return state, learner.predict(state, examples.x).shape[1]
        >>> adapt_from_scratch(learner, adapt, count=2)[1]
        3
    """
    width = learner.outputs or count
    for _ in range(3):
        if width < count:
            raise ValueError(
                f"The learner has {width} outputs, and there are {count} classes: give "
                f"examples of at most {width} classes, or a learner of {count} outputs."
            )
        try:
            state, predicted = adapt(width)
        except OutputMismatch as mismatch:
            if mismatch.outputs == width:  # another axis is wrong
                raise
            predicted = mismatch.outputs
        else:
            if predicted == width:
                return state, width
        width = predicted
    raise ValueError(
        f"{type(learner).__name__} predicts {width} columns where labels have another number, "
        "whatever their number is: declare its `outputs`."
    )


def grow(learner: Learner[Any], state: Any, width: int, count: int) -> Any:
    """Extend a state from `width` to `count` classes.

    Raises:
        ValueError: the learner declares no `class_axes`.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Identity())
        >>> examples = one_hot_examples(torch.eye(2), np.arange(2), torch.ones(2), 2)
        >>> state = learner.adapt(examples)
        >>> grow(learner, state, 2, 3).sizes.tolist()
        [1.0, 1.0, 0.0]
    """
    if learner.class_axes is None:
        raise ValueError(
            f"A state of {type(learner).__name__} of {width} classes cannot grow to {count}: "
            "name all classes in the first call, partial_fit(X, y, classes=…), or fit a "
            "learner that has enough outputs on all examples. If zeros stand for a class "
            "without examples in its state, declare `class_axes`."
        )

    def pad(leaf: Tensor, axis: int) -> Tensor:
        return F.pad(leaf, [0, 0] * (leaf.ndim - 1 - axis) + [0, count - width])

    return map_class_axes(pad, state, learner.class_axes)


def map_class_axes(
    fn: Callable[..., Tensor], state: Any, axes: Mapping[str, int], *others: Any
) -> Any:
    """Apply `fn(leaf, axis, *leaves)` to the tensors of `state` that `axes` names.

    Args:
        axes: `Learner.class_axes`.
        others: states of the same form, whose tensors follow.

    Examples:
        >>> state = {"W": torch.zeros(2, 3), "b": torch.ones(3)}
        >>> first = map_class_axes(lambda leaf, axis: leaf.narrow(axis, 0, 2), state, {"W": 1})
        >>> first["W"].shape
        torch.Size([2, 2])
    """

    leaf_lists = zip(paths(state), leaves(state), *map(leaves, others), strict=True)
    return unflatten(
        state,
        [
            fn(leaf, axes[path], *rest) if path in axes else leaf
            for path, leaf, *rest in leaf_lists
        ],
    )


def paths(tree: Any, root: str = "") -> list[str]:
    """Return the names of a tree's tensors, as `Learner.class_axes` has them, in order.

    Examples:
        >>> paths({"head": (torch.zeros(1), torch.zeros(1)), "step": torch.zeros(())})
        ['head.0', 'head.1', 'step']
    """
    if isinstance(tree, Tensor):
        return [root]
    keys = tree if isinstance(tree, dict) else getattr(tree, "_fields", range(len(tree)))
    parts = tree.values() if isinstance(tree, dict) else tree
    return [
        path
        for key, part in zip(keys, parts, strict=True)
        for path in paths(part, f"{root}.{key}" if root else str(key))
    ]
