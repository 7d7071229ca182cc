"""Labels of classes that an array holds exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np

LABEL_REMEDY = "give all labels as integers of one kind, or all as text."
_MISSING = ("NoneType", "NAType", "NaTType")  # the last two are of pandas


def require_same_labels(labels: Sequence[Any], array: np.ndarray) -> None:
    """Raise an error if an array does not hold the labels that it was made of.

    NumPy makes text of numbers beside text, NaN included, and floats of integers beside
    floats. Then two classes may become one, and a missing label becomes a class.

    Args:
        labels: N labels of any kind.
        array: (N,) what NumPy made of them.

    Raises:
        ValueError: a label became another, or is missing among labels that are no numbers.

    Examples:
        >>> require_same_labels([1, 2], np.array([1, 2]))
        >>> try:
        ...     require_same_labels(["a", 1], np.array(["a", 1]))
        ... except ValueError as error:
        ...     print(str(error).partition(":")[0])
        The label 1 would become '1' beside the others
    """
    for label, converted in zip(labels, array.tolist(), strict=True):
        # NaN among numbers has an error of its own
        if array.dtype.kind in "OU" and (type(label).__name__ in _MISSING or label != label):
            raise ValueError(
                f"A label is missing ({label!r}): give every example a class, or leave it out."
            )
        if array.dtype.kind in "iufU" and label == label and label != converted:
            raise ValueError(
                f"The label {label!r} would become {converted!r} beside the others: "
                f"{LABEL_REMEDY}"
            )
