"""Intervals of few tasks are Student's, and cover the mean in 95 of 100 cases."""

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch

import quickstudy as qs
from quickstudy.evaluation.report import Report, half_width, unpack


@pytest.mark.parametrize("size", [2, 3, 5, 10, 100, 600])
def test_half_widths_are_those_of_scipy(size: int):
    values = torch.tensor(np.random.default_rng(size).normal(3, 2, size))
    low, high = scipy.stats.t.interval(
        0.95, size - 1, np.mean(values.numpy()), scipy.stats.sem(values.numpy())
    )
    assert half_width(values) == pytest.approx((high - low) / 2)
    other = values + torch.tensor(np.random.default_rng(1).normal(0, 1, size))
    first, second = Report({"loss": values}), Report({"loss": other})
    paired = scipy.stats.ttest_rel(values, other).confidence_interval(0.95)
    gap = first.paired_difference(second)
    assert gap.mean - gap.interval == pytest.approx(paired.low)
    assert gap.mean + gap.interval == pytest.approx(paired.high)


def test_five_tasks_cover_the_mean_as_often_as_they_say():
    draws = torch.tensor(np.random.default_rng(0).normal(0, 1, (4000, 5)))
    covered = [abs(float(row.mean())) < half_width(row) for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_one_task_has_no_interval():
    assert math.isnan(half_width(torch.ones(1)))


def test_scipy_is_imported_when_an_interval_is_computed():
    program = "import sys, quickstudy.evaluation; print('scipy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr


def test_stored_results_have_the_intervals_of_their_values():
    """To the four digits that values are stored with."""
    checked = 0
    for name, result in qs.runs.stored().items():
        for row, measured in result["measured"].items():
            for metric, number in measured.items():
                if metric == "card" or not number.get("values"):
                    continue
                values = unpack(number["values"])
                if len(values) > 1 and values.isfinite().all():
                    expected = half_width(values)
                    tolerance = 2e-3 * expected + 1e-3 * float(values.abs().max())
                    if len(values) > 50:
                        tolerance = 2e-4 * expected + 1e-4 * float(values.abs().max())
                    assert number["interval"] == pytest.approx(expected, abs=tolerance), (
                        name,
                        row,
                        metric,
                    )
                    checked += 1
    assert checked > 100
