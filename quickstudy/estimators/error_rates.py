"""The errors of a threshold: receiver operating characteristic and equal error rate."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_curve
from sklearn.utils import column_or_1d


class ROC(NamedTuple):
    """Both errors of every threshold: a pair passes if its score reaches the threshold.

    Examples:
        >>> roc([3.0, 2.0, 1.0], [True, False, True])._fields
        ('threshold', 'false_accept', 'false_reject')
    """

    threshold: np.ndarray  # (K,) falling; the first, infinity, lets nothing pass
    false_accept: np.ndarray  # (K,) rate, rising from 0 to 1
    false_reject: np.ndarray  # (K,) rate, falling from 1 to 0


def roc(scores: Any, same: Any) -> ROC:
    """Return the receiver operating characteristic of scores (N,).

    Args:
        scores: larger for pairs that are more alike.
        same: (N,) booleans, whether the pair is of one class.

    Raises:
        ValueError: shapes differ, a score is not finite, or there are no pairs of one class, or
            none of two.

    Examples:
        >>> roc([3.0, 2.0, 1.0], [True, False, True]).false_reject.tolist()
        [1.0, 0.5, 0.5, 0.0]
    """
    scores = column_or_1d(np.asarray(scores, dtype=np.float64))
    same = pair_labels(same, len(scores))
    if same.all() or not same.any():
        raise ValueError(
            f"{'All' if same.all() else 'None'} of the {len(same)} pairs are of one class: "
            "errors need both, pairs of one class and pairs of two."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            "A score is NaN or infinite: leave that pair out, or scale its inputs."
        )
    accept, hit, threshold = roc_curve(same, scores, drop_intermediate=False)
    return ROC(threshold, accept, 1 - hit)


def equal_error_rate(scores: Any, same: Any) -> float:
    """Return the error rate of the threshold at which both errors are equal.

    Between thresholds it is interpolated linearly. Arguments and errors are those of `roc`.

    Examples:
        >>> equal_error_rate([4.0, 3.0, 2.0, 1.0], [True, False, True, False])
        0.5
    """
    _, accept, reject = roc(scores, same)
    gap = accept - reject  # rises from -1 to 1
    after = int((gap >= 0).argmax())
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(accept[after - 1] + share * (accept[after] - accept[after - 1]))


def pair_labels(same: Any, size: int) -> np.ndarray:
    """Return booleans, one for each of `size` pairs.

    Raises:
        ValueError: there are more or fewer, or others than True and False.

    Examples:
        >>> pair_labels([1, 0], 2).tolist()
        [True, False]
    """
    same = column_or_1d(np.asarray(same))
    if len(same) != size:
        raise ValueError(
            f"There are {size} pairs and {len(same)} values of `same`: give one each."
        )
    if not np.isin(same, (0, 1)).all():
        raise ValueError("`same` must be True or False (1 or 0) for every pair.")
    return same.astype(bool)
