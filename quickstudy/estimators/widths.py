"""The number of classes that a learner predicts, and how a state gains classes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quickstudy.core.criteria import OutputMismatch
from quickstudy.core.task import Examples
from quickstudy.core.tree import leaves, unflatten
from quickstudy.learner import Learner


def one_hot_examples(x: Tensor, index: np.ndarray, weight: Tensor, width: int) -> Examples:
    """Return examples whose labels have `width` columns.

    Examples:
        >>> one_hot_examples(torch.zeros(2, 4), np.array([0, 2]), torch.ones(2), 3).y.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return Examples(x, F.one_hot(torch.from_numpy(index), width).to(weight), weight)


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
