"""What the test suites share: the runner of checks, the traits that exempt from some, and what
checks require."""

import tempfile
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.tree import leaves
from quickstudy.storage.checkpoints import load, save


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


def require_same(a: Any, b: Any, sentence: str, *, exactly: bool = False) -> None:
    """Raise an `AssertionError` unless two trees of tensors are equal, up to rounding if not
    `exactly`.

    Examples:
        >>> require_same(torch.ones(2), torch.ones(2) + 1e-10, "the results differ")
        >>> require_same(torch.ones(2), torch.zeros(2), "the results differ")
        Traceback (most recent call last):
        AssertionError: the results differ: by up to 1.
    """
    rtol, atol = (0.0, 0.0) if exactly else (1e-7, 1e-9)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        require(x.shape == y.shape, f"{sentence}: {tuple(x.shape)} and {tuple(y.shape)}")
        if not torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True):
            gap = (x.double() - y.double()).abs().nan_to_num().max()
            raise AssertionError(f"{sentence}: by up to {gap:.2g}.")


def is_finite(tree: Any) -> bool:
    """Return whether no number of a tree of tensors is infinite or NaN.

    Examples:
        >>> is_finite((torch.ones(2), torch.tensor(torch.nan)))
        False
    """
    return all(bool(leaf.isfinite().all()) for leaf in leaves(tree))


def gradients(learner: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the parameters that have one, by name.

    Examples:
        >>> gradients(nn.Linear(1, 1))
        {}
    """
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


@torch.no_grad()
def save_and_load(learner: nn.Module, other: nn.Module) -> None:
    """Save a learner, change the parameters of another, or the same, and load them into it.

    Examples:
        >>> linear = nn.Linear(1, 1)
        >>> before = linear.weight.item()
        >>> save_and_load(linear, linear)
        >>> linear.weight.item() == before
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        save(folder, learner)
        for p in other.parameters():
            p.add_(1)
        load(folder, other)
