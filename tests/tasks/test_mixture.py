"""Mixtures: whose tasks, how often, and in random order."""

import pytest
import torch
from torch import Generator

from quickstudy import Sinusoid
from quickstudy.tasks import Line, Mixture


def constant(level: float) -> Line:
    return Line(slope=(0, 0), intercept=(level, level))


def test_all_are_equally_likely_and_independent():
    tasks = Mixture(*map(constant, (0.0, 1.0, 2.0)))
    kind = tasks.sample(6000, Generator().manual_seed(0)).query.y[:, 0, 0].long()

    def chi_square(counts: torch.Tensor) -> float:
        expected = counts.sum() / len(counts)
        return ((counts - expected).square() / expected).sum().item()

    assert chi_square(kind.bincount(minlength=3)) < 13.8  # 99.9 % of 2 degrees of freedom
    pairs = 3 * kind[::2] + kind[1::2]
    assert chi_square(pairs.bincount(minlength=9)) < 26.1  # of 8


def test_support_and_query_are_of_one_task():
    batch = Mixture(constant(0), constant(1)).sample(50, Generator().manual_seed(0))
    assert torch.equal(batch.support.y[:, 0], batch.query.y[:, 0])
    assert (batch.query.y == batch.query.y[:, :1]).all()


def test_the_card_says_what_is_shared_and_what_is_not():
    card = Mixture(Sinusoid(5), Line(5)).card()
    assert card["tasks"] == "mixture of 2" and card["shots"] == 5
    assert (card["tasks 1"], card["tasks 2"]) == ("Sinusoid", "Line")
    assert card["amplitude 1"] == [0.1, 5.0] and card["slope 2"] == [-3, 3]
    assert Mixture(Line(), Line()).card()["tasks"] == "mixture of 2"


def test_tasks_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        Mixture(Line(5), Line(6)).sample(20, Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least one distribution"):
        Mixture()


def test_tasks_that_are_drawn_together_are_of_one_kind_and_may_differ_in_shape() -> None:
    tasks, generator = Mixture(Line(5), Line(6), together=True), Generator().manual_seed(0)
    shots = [tasks.sample(4, generator).support.x.shape[1] for _ in range(200)]
    assert set(shots) == {5, 6} and 70 < shots.count(5) < 130
