"""Labels of classes as arrays that hold each of them exactly.

NumPy joins int64 and uint64 as float64, which holds no integer above 2^53, and numbers and text
as text. Then two classes may become one.
"""

from typing import Any

import numpy as np
from sklearn.utils.multiclass import unique_labels

from quickstudy.core.labels import LABEL_REMEDY, require_same_labels


def exact_labels(y: Any) -> Any:
    """Return labels (N,) as an array if the default conversion would change one of them.

    Raises:
        ValueError: no array holds all of them, as of large integers and floats, or of numbers
            and text; or a label is missing.

    Examples:
        >>> import pandas as pd
        >>> exact_labels(pd.Series([2**60 + 1, 2**60 + 3], dtype="Int64")).dtype
        dtype('int64')
    """
    array = np.asarray(y)
    if array.ndim != 1:
        return y
    original = list(y) if isinstance(y, list | tuple) else array.tolist()
    if array.dtype == object and all(isinstance(label, int | np.bool_) for label in original):
        array = np.array(original)
    require_same_labels(original, array)
    return array if array.dtype.kind in "iub" else y


def join_labels(*groups: Any) -> np.ndarray:
    """Return the labels of all groups in one array. A group may be empty or None.

    Raises:
        ValueError: no array holds all of them, as of text and numbers.

    Examples:
        >>> join_labels(np.array([3, 1]), None, [2]).tolist()
        [3, 1, 2]
        >>> join_labels(np.array([2**60 + 1]), np.array([5], np.uint64)).tolist()
        [1152921504606846977, 5]
    """
    arrays = [
        np.asarray(exact_labels(group)) for group in groups if group is not None and len(group)
    ]
    try:
        unique_labels(*arrays)  # raises where text is mixed with numbers
        joined = np.concatenate(arrays)
    except TypeError as error:  # dates, or labels of no order
        raise ValueError(f"Labels cannot be distinguished ({error}): {LABEL_REMEDY}") from error
    if joined.dtype.kind == "f" and all(array.dtype.kind in "iu" for array in arrays):
        signed = all(int(array.max()) < 2**63 for array in arrays)
        joined = np.concatenate(
            [array.astype(np.int64 if signed else np.uint64) for array in arrays]
        )
    require_same_labels([label for array in arrays for label in array.tolist()], joined)
    return joined
