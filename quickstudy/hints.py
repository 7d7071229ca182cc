"""Sentences that error messages share; imports no torch, so that the command line starts fast."""

import difflib
from collections.abc import Iterable


def suggest(name: str, names: Iterable[str], otherwise: str | None = None) -> str:
    """Return the sentence that ends an error about an unknown `name`.

    Args:
        names: the names that exist.
        otherwise: the sentence if none of them is similar (None: lists them all).

    Examples:
        >>> suggest("haed", ["body", "head"])
        "Did you mean 'head'?"
        >>> suggest("tail", ["body", "head"])
        'There are: body, head.'
    """
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return (
        f"Did you mean {near[0]!r}?" if near else otherwise or f"There are: {', '.join(names)}."
    )
