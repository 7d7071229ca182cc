"""The threshold of the best logit below which an example belongs to no known class."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.estimators.labels import join_labels

ROUNDS = 20  # of leaving out, at most
PASSING = 0.95  # share of the left-out examples that pass the threshold


def check_unknown_label(unknown: Any, classes: np.ndarray) -> None:
    """Raise an error if the label for unknown examples is the label of a class.

    Raises:
        ValueError: it is, or no array holds it and the labels, as of text and numbers.

    Examples:
        >>> check_unknown_label(-1, np.array([0, 1]))
    """
    *known, label = join_labels(classes, [unknown]).tolist()
    if label in known:
        raise ValueError(
            f"unknown={unknown!r} is the label of a class: leave out its examples, or give "
            "another label."
        )


def leave_one_out(index: np.ndarray, rounds: int = ROUNDS) -> Iterator[np.ndarray]:
    """Yield masks (N,) that leave out one example of each class that has several.

    Args:
        index: of the classes (N,).
        rounds: at most so many masks.

    Examples:
        >>> [mask.tolist() for mask in leave_one_out(np.array([0, 0, 1]))]
        [[True, False, False], [False, True, False]]
    """
    order = np.argsort(index, kind="stable")
    sizes = np.bincount(index)
    rank = np.empty_like(index)  # of an example within its class
    rank[order] = np.arange(len(index)) - np.repeat(sizes.cumsum() - sizes, sizes)
    for number in range(min(sizes.max(), rounds)):
        left_out = (rank == number) & (sizes[index] > 1)
        if left_out.any():
            yield left_out


def calibrate_threshold(
    index: np.ndarray, best_logits: Callable[[np.ndarray], Tensor]
) -> float:
    """Return the threshold that 95 % of the examples pass, each when it is left out.

    Args:
        index: of the classes (N,).
        best_logits: of the examples in a mask (N,), after adaptation to all others.

    Examples:
        >>> calibrate_threshold(np.zeros(4, int), lambda mask: torch.tensor([-2.0]))
        -2.0
    """
    best = torch.cat([best_logits(left_out) for left_out in leave_one_out(index)])
    return float(np.quantile(best.cpu().double().numpy(), 1 - PASSING, method="lower"))
