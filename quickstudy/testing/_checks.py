"""What the test suites share: the runner of checks, and the traits that exempt from some."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch


def run_checks(
    checks: Iterable[Callable[[Any], None]], case: Any, subject: object, error_type: bool = True
) -> None:
    """Run every check on a case.

    Raises:
        AssertionError: names the subject, the failed check, the observation, and the remedy.

    Examples:
        >>> def is_even(case):
        ...     "A number is even."
        ...     assert case % 2 == 0, f"{case} is odd"
        >>> run_checks([is_even], 4, subject=4)
        >>> run_checks([is_even], 3, subject=3)
        Traceback (most recent call last):
        AssertionError: int fails `is_even`: AssertionError: 3 is odd
        What must hold: A number is even.
    """
    for check in checks:
        try:
            with torch.random.fork_rng():
                check(case)
        except Exception as error:
            remedy = " ".join((check.__doc__ or "").split())
            kind = f"{type(error).__name__}: " if error_type else ""
            raise AssertionError(
                f"{type(subject).__name__} fails `{check.__name__}`: "
                f"{kind}{error}\nWhat must hold: {remedy}"
            ) from error


def require_traits(declared: Collection[str], traits: Collection[str], owner: str) -> None:
    """Raise a `ValueError` if a declared trait is unknown.

    Examples:
        >>> require_traits(["fixed"], ["fixed", "values"], "a task distribution")
    """
    for trait in declared:
        if trait not in traits:
            raise ValueError(
                f"declared={trait!r} is no trait of {owner}; the traits are: "
                f"{', '.join(traits)}."
            )


def require(condition: Any, sentence: str) -> None:
    """Raise an `AssertionError` of one sentence, given without its full stop.

    Examples:
        >>> require(True, "the card is no JSON")
    """
    if not condition:
        raise AssertionError(f"{sentence}.")
