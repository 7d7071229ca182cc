"""The harnesses on a few trials, and that they notice what is wrong."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import quickstudy as qs
from tests.fuzz import estimators, learners
from tests.fuzz.trials import Tally, Trial, applies, must_refuse, require, tally, tried

HARNESSES = {"learners": learners.draw, "estimators": estimators.draw}


def failures(result: Tally) -> str:
    lines = [f"{n} {trial.property}: {trial.about}: {why}" for n, trial, why in result.failures]
    return "\n".join([*lines, result.line()])


@pytest.mark.parametrize("name", HARNESSES)
def test_a_few_trials_hold(name: str) -> None:
    result = tally(HARNESSES[name], range(150), seed=0)
    assert not result.failures, failures(result)
    assert result.tried == 150 and result.refused.total() < 75


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", HARNESSES)
def test_many_trials_hold(name: str) -> None:
    result = tally(HARNESSES[name], range(150, 5000), seed=0)
    assert not result.failures, failures(result)


@pytest.mark.parametrize("name", HARNESSES)
def test_a_trial_is_a_function_of_seed_and_number(name: str) -> None:
    one, other = (
        [HARNESSES[name](np.random.default_rng([5, number]))[:2] for number in range(20)]
        for _ in range(2)
    )
    assert one == other and len(set(one)) > 15


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (lambda: require(True, "fine"), True),
        (lambda: require(False, "broken"), False),
        (lambda: must_refuse("nonsense"), False),
        (lambda: torch.ones(2) + torch.ones(3), False),  # PyTorch's own error
        (lambda: {}["key"], False),
        (lambda: qs.MAML(torch.nn.Linear(1, 1), steps=-1), True),  # refused in words
        (lambda: qs.FewShotClassifier().fit([[np.nan]], [0]), True),  # by scikit-learn
        (lambda: int("no error of quickstudy"), False),
    ],
)
def test_what_holds_and_what_fails(run: Callable[[], object], held: bool) -> None:
    result = tally(lambda rng: Trial("a property", "an input", run), [7], seed=0)
    assert result.tried == 1 and result.held.total() == held
    assert result.line() == f"tried 1 / held {int(held)} / failed {1 - held}"


def test_broken_criteria_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(prediction: torch.Tensor, examples: qs.Examples) -> torch.Tensor:
        return 2 * qs.squared_error(prediction, examples)

    monkeypatch.setattr(learners, "squared_error", doubled)
    reasons = list[str]()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        trial = Trial("", "", partial(learners.criteria_are_loops, rng))
        result = tally(lambda rng, trial=trial: trial, [0], seed=0)
        reasons += [failure.reason for failure in result.failures]
    assert any(reason.startswith("Broken: squared_error") for reason in reasons)


def test_an_input_that_a_property_says_nothing_of_is_drawn_again() -> None:
    def draw(rng: np.random.Generator) -> Trial:
        number = int(rng.integers(10))
        return Trial("a property", str(number), lambda: applies(number > 7))

    result = tally(draw, range(20), seed=0)
    assert result.held.total() == 20
    _, error = tried(draw, np.random.default_rng([0, 0]), 0)
    assert error is None
