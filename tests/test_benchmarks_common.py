"""Peaks of benchmarks, and when they are refused."""

import time

import pytest
import torch

from benchmarks.common import MATRIX, Peak, in_turns, machine, peak, steady


def test_the_peak_of_work_of_a_known_time() -> None:
    found = peak(lambda: time.sleep(0.02), flop=2e7, repeats=5)
    assert 0 < found.gflops <= 1.0  # 2e7 in 20 ms, or more on a busy machine
    assert found.share < 0.5  # asleep


@pytest.mark.parametrize("found", [Peak(10.0, 0.4, 1.0), Peak(10.0, 0.0, 0.2)])
def test_a_peak_that_is_not_steady_is_refused_or_stored_in_words(found: Peak) -> None:
    with pytest.raises(SystemExit, match="Bounds would be wrong: stop the other work"):
        steady({MATRIX: found}, noisy=False)
    assert steady({MATRIX: found}, noisy=True).startswith("The peak is not steady")
    assert steady({MATRIX: Peak(10.0, 0.01, 0.99)}, noisy=False).startswith(
        "The peak is steady"
    )


def test_times_are_those_of_the_clock_and_of_the_process() -> None:
    ways = {"asleep": lambda: time.sleep(0.01), "busy": lambda: torch.rand(10**6).sum()}
    times = in_turns(ways, turns=2, least=0.02)
    assert list(times) == list(ways)
    assert times["asleep"].wall >= 0.01 > 0.005 > times["asleep"].cpu
    assert times["busy"].cpu > 0
    assert len(machine()["load of 1, 5 and 15 minutes"]) == 3
