"""A zoo of arrays: the same numbers in odd forms, odd labels, odd weights, and nonsense."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

Rng = np.random.Generator
Array = np.ndarray


def strided(X: Array) -> Array:
    """The same numbers, with gaps between them in memory."""
    wide = np.zeros((2 * len(X), *X.shape[1:]), X.dtype)
    wide[::2] = X
    return wide[::2]


def read_only(X: Array) -> Array:
    """The same numbers, which nobody may change."""
    copied = X.copy()
    copied.flags.writeable = False
    return copied


def backwards(X: Array) -> Array:
    """The same numbers, with negative strides."""
    return X[::-1].copy()[::-1]


def table(X: Array) -> Any:
    """A data frame of two axes, with an odd index."""
    return pd.DataFrame(X.reshape(len(X), -1), index=np.arange(len(X))[::-1])


# X of whole numbers from 0 to 7, (N, *shape), in other forms that hold the same numbers
SAME_NUMBERS: dict[str, Callable[[Array], Any]] = {
    "float64": lambda X: X.astype(np.float64),
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "longdouble": lambda X: X.astype(np.longdouble),
    "int8": lambda X: X.astype(np.int8),
    "int64": lambda X: X.astype(np.int64),
    "uint16": lambda X: X.astype(np.uint16),
    "uint64": lambda X: X.astype(np.uint64),
    "big endian": lambda X: X.astype(">f8"),
    "big endian integers": lambda X: X.astype(">i4"),
    "objects": lambda X: X.astype(np.float64).astype(object),
    "objects of int": lambda X: X.astype(np.int64).astype(object),
    "lists": lambda X: X.tolist(),
    "tuples": lambda X: tuple(map(tuple, X.tolist())) if X.ndim == 2 else X.tolist(),
    "list of arrays": list,
    "Fortran": lambda X: np.asfortranarray(X.astype(np.float64)),
    "transposed": lambda X: X.astype(np.float64).T.copy().T,
    "strided": strided,
    "backwards": backwards,
    "read only": read_only,
    "masked, nothing hidden": lambda X: np.ma.masked_array(X, np.zeros(X.shape, bool)),
    "data frame": table,
    "nullable integers": lambda X: table(X).astype("Int64"),
    "nullable floats": lambda X: table(X).astype("Float32"),
    "tensor": lambda X: torch.from_numpy(X.astype(np.float32)),
    "tensor of bfloat16": lambda X: torch.from_numpy(X.astype(np.float32)).bfloat16(),
    "tensor with a gradient": lambda X: torch.tensor(X, dtype=torch.float32).requires_grad_(),
    "record of fields": lambda X: X.astype(np.float64).view(np.ndarray),
    "broadcast": lambda X: np.broadcast_to(X, (1, *X.shape))[0],
}
FLATTENED = {"data frame", "nullable integers", "nullable floats"}  # of two axes only


# labels for the classes 0, 1, 2, …, in the same order
ORDERED_LABELS: dict[str, Callable[[Array], Any]] = {
    "int64": lambda y: y,
    "int8": lambda y: y.astype(np.int8),
    "negative": lambda y: y - 2,
    "uint64": lambda y: y.astype(np.uint64),
    "above 2^63": lambda y: y.astype(np.uint64) + np.uint64(2**63),
    "above 2^53": lambda y: y + (2**53 + 1),
    "whole floats": lambda y: y.astype(np.float64),
    "text": lambda y: np.array(["a", "b é", "c" * 40])[y],
    "text of lengths": lambda y: np.array(["", "a", "aa"])[y],
    "text of numbers": lambda y: np.array(["0", "01", "1"])[y],
    "objects of text": lambda y: np.array(["a", "b", "c"], dtype=object)[y],
    "objects of int": lambda y: y.astype(object),
    "bytes": lambda y: np.array([b"a", b"b", b"c"])[y],
    "lists": lambda y: y.tolist(),
    "list of text": lambda y: ["xyz"[i] for i in y],
    "series": lambda y: pd.Series(y, index=np.arange(len(y))[::-1] + 5),
    "series of text": lambda y: pd.Series(np.array(["p", "q", "r"])[y]),
    "categories": lambda y: pd.Series(pd.Categorical.from_codes(y, categories=["p", "q", "r"])),
    "nullable integers": lambda y: pd.Series(y).astype("Int64"),
    "column": lambda y: y[:, None],
    "tensor": torch.from_numpy,
    "masked, nothing hidden": lambda y: np.ma.masked_array(y, np.zeros(y.shape, bool)),
    "dates": lambda y: np.datetime64("2026-01-01") + y.astype("timedelta64[D]"),
    "objects of dates": lambda y: np.array(
        [datetime.date(2026, 1, 1 + i) for i in y], dtype=object
    ),
    "big endian": lambda y: y.astype(">i8"),
    "strided": lambda y: np.repeat(y, 2)[::2],
}

# labels that name no classes: they must be refused
BAD_LABELS: dict[str, Callable[[Array], Any]] = {
    "fractions": lambda y: y + 0.5,
    "NaN": lambda y: np.where(y == 0, np.nan, y),
    "infinity": lambda y: np.where(y == 0, np.inf, y),
    "None": lambda y: with_label(y, None),
    "text and numbers": lambda y: with_label(y, "zero"),
    "one too few": lambda y: y[:-1],
    "one too many": lambda y: np.append(y, 0),
    "none": lambda y: y[:0],
    "no array": lambda y: None,
    "two columns": lambda y: np.stack([y, y], 1),
    "complex": lambda y: y + 1j,
    "a number": lambda y: 3,
    "a dictionary": lambda y: {"y": y},
    "hidden by a mask": lambda y: np.ma.masked_array(y, np.arange(len(y)) == 0),
    "missing": lambda y: pd.Series(y).astype("Int64").mask(np.arange(len(y)) == 0),
}

# inputs without numbers for every example: they must be refused
BAD_INPUTS: dict[str, Callable[[Array], Any]] = {
    "NaN": lambda X: with_value(X, np.nan),
    "infinity": lambda X: with_value(X, np.inf),
    "minus infinity in float32": lambda X: with_value(X, -np.inf).astype(np.float32),
    "too large for float64": lambda X: with_value(
        X.astype(np.longdouble), np.longdouble("1e400")
    ),
    "complex": lambda X: X + 1j,
    "text": lambda X: np.full(X.shape, "word"),
    "objects of text": lambda X: np.full(X.shape, "word", dtype=object),
    "None": lambda X: np.full(X.shape, None),
    "dates": lambda X: np.full(X.shape, np.datetime64("2026-01-01")),
    "no rows": lambda X: X[:0],
    "no columns": lambda X: X.reshape(len(X), -1)[:, :0],
    "a number": lambda X: 3.0,
    "a vector": lambda X: X.reshape(len(X), -1)[:, 0],
    "no array": lambda X: None,
    "a dictionary": lambda X: {"X": X},
    "rows of several lengths": lambda X: [list(range(1 + i % 2)) for i in range(len(X))],
    "hidden by a mask": lambda X: np.ma.masked_array(
        X, np.arange(X.size).reshape(X.shape) == 0
    ),
    "sparse": lambda X: scipy.sparse.csr_matrix(X.reshape(len(X), -1)),
    "times": lambda X: X.astype("timedelta64[s]"),
    "fields": lambda X: np.zeros(len(X), [("a", float), ("b", float)]),
    "missing": lambda X: table(X).astype("Int64").mask(table(X) == table(X).iloc[0, 0]),
}

# weights of examples that must be refused
BAD_WEIGHTS: dict[str, Callable[[int], Any]] = {
    "negative": lambda n: np.where(np.arange(n) == 0, -1.0, 1.0),
    "NaN": lambda n: np.where(np.arange(n) == 0, np.nan, 1.0),
    "infinity": lambda n: np.where(np.arange(n) == 0, np.inf, 1.0),
    "all zero": np.zeros,
    "one too few": lambda n: np.ones(n - 1),
    "two columns": lambda n: np.ones((n, 2)),
    "text": lambda n: np.full(n, "heavy"),
    "complex": lambda n: np.ones(n) + 1j,
}


def with_value(X: Array, value: Any) -> Array:
    """`X` with one value replaced."""
    copied = X.astype(np.result_type(X.dtype, np.float64), copy=True)
    copied.flat[0] = value
    return copied


def with_label(y: Array, label: Any) -> Array:
    """`y` with another label for class 0."""
    labels = y.astype(object)
    labels[y == 0] = label
    return labels


def clouds(rng: Rng, classes: int, shape: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    """Draw whole numbers from 0 to 7, (N, *shape), of classes that lie apart.

    Returns:
        Examples, their classes, queries, and their classes; two of each class at least.
    """
    width = int(np.prod(shape))
    centres = rng.integers(1, 7, (classes, width))
    counts = rng.integers(2, 5, classes), rng.integers(2, 4, classes)
    parts = list[Array]()
    for count in counts:
        y = rng.permutation(np.repeat(np.arange(classes), count))
        parts += [
            (centres[y] + rng.integers(-1, 2, (len(y), width))).reshape(len(y), *shape),
            y,
        ]
    return parts[0], parts[1], parts[2], parts[3]
