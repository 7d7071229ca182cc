"""What estimators take as arrays: numbers that are all visible."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def visible_values(values: Any, name: str) -> Any:
    """Return `values` as scikit-learn validates them; a tensor becomes an array.

    Raises:
        ValueError: a mask hides values, or they are dates or times. NumPy would take the
            hidden values, and the number of days or nanoseconds.

    Examples:
        >>> visible_values(torch.ones(2, dtype=torch.bfloat16), "X")
        array([1., 1.], dtype=float32)
        >>> visible_values(np.ma.masked_array([1.0, 9.0], [False, True]), "X")
        Traceback (most recent call last):
        ValueError: X hides values by a mask: fill them in, or leave these examples out.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} hides values by a mask: fill them in, or leave these examples out."
        )
    if name == "X" and getattr(getattr(values, "dtype", None), "kind", "") in ("m", "M"):
        raise ValueError(
            f"X holds dates or times ({values.dtype}): convert them to numbers of one unit."
        )
    return values
