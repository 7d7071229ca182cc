"""Runs beside each other: the numbers against numpy, and what cannot be compared says so."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from quickstudy.evaluation.report import pack, unpack
from quickstudy.runs.compare_runs import NO_TASKS, NOT_FINITE, OTHER_TASKS, compare, table

CARD = {"tasks": "Waves", "episodes": 500, "batch": 50, "seed": 1}


def result(values: Any, *, metric: str = "accuracy", **other: Any) -> Any:
    """A result of one test, as `quickstudy.runs.finish` makes it."""
    values = np.asarray(values, dtype=float)
    finite = bool(np.isfinite(values).all())
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    number = {
        "mean": values.mean() if finite else None,
        "interval": half if finite else None,
        "values": pack(torch.from_numpy(values)),
    }
    return {
        "recipe": "waves",
        "measured": {"5-way": {metric: number, "card": CARD | other.pop("card", {})}},
        "better": "max",
        "milliseconds": {"5-way": 1.25},
        "steps": 1000,
        "size": 4,
        "seconds": 61.2,
        "hardware": {"processor": "P", "threads": 1, "gpu": None, "torch": "2.13"},
        **other,
    }


@pytest.fixture
def scores() -> dict[str, Any]:
    """Accuracies on 500 tasks: how hard a task is scatters more than the learners differ."""
    random = np.random.default_rng(0)
    hard = random.normal(0.6, 0.1, 500)
    return {
        "worse": np.round(hard - 0.05 + random.normal(0, 0.01, 500), 3),
        "better": np.round(hard + random.normal(0, 0.01, 500), 3),
    }


def test_the_difference_to_the_best_is_paired(scores: dict[str, Any]) -> None:
    (comparison,) = compare({name: result(values) for name, values in scores.items()})
    best, other = comparison.entries
    assert (best.name, other.name) == ("better", "worse")
    assert best.difference is None and best.unpaired == ""
    gap = scores["worse"] - scores["better"]
    assert other.difference is not None
    assert other.difference.mean == pytest.approx(gap.mean(), abs=1e-9)
    half = stats.t.ppf(0.975, 499) * gap.std(ddof=1) / 500**0.5
    assert other.difference.interval == pytest.approx(half, rel=1e-6)
    assert other.difference.interval < 0.2 * other.interval, "pairing narrows it"
    assert other.difference.wins == pytest.approx(((gap > 0) + 0.5 * (gap == 0)).mean())
    assert other.tasks == 4000 and other.milliseconds == 1.25

    head, first, second = table(comparison)
    assert head[:3] == ["Run", "Accuracy", "Difference to the best"]
    assert first[2:4] == ["the best", ""]
    assert second[0] == "worse" and second[2].startswith("-5.") and second[2].endswith(" %")
    assert second[4:] == ["1,000", "4,000", "61 s on 1 CPU thread", "1.25 ms"]
    stored = json.loads(json.dumps(comparison.to_json()))
    assert stored["entries"][1]["difference"]["mean"] == other.difference.mean


def test_of_an_error_the_smallest_is_best(scores: dict[str, Any]) -> None:
    results = {
        name: result(values, metric="squared_error", better="min")
        for name, values in scores.items()
    }
    (comparison,) = compare(results)
    assert [entry.name for entry in comparison.entries] == ["worse", "better"]
    gap = comparison.entries[1].difference
    assert gap is not None and gap.mean > 0
    better = (scores["better"] < scores["worse"]) + 0.5 * (scores["better"] == scores["worse"])
    assert gap.wins == pytest.approx(better.mean())


def test_what_cannot_be_paired_says_why(scores: dict[str, Any]) -> None:
    old = result(scores["worse"])
    del old["measured"]["5-way"]["accuracy"]["values"], old["size"], old["milliseconds"]
    results = {
        "best": result(scores["better"]),
        "other": result(scores["worse"], card={"seed": 2}),
        "fewer": result(scores["worse"][:400], card={"episodes": 400}),
        "chosen": result(
            scores["worse"], card={"selection": "step 3", "learner": {"steps": 2}}
        ),
        "old": old,
        "wild": result([math.nan] * 500),
    }
    (comparison,) = compare(results)
    unpaired = {entry.name: entry.unpaired for entry in comparison.entries}
    assert unpaired["other"] == unpaired["fewer"] == OTHER_TASKS
    assert unpaired["chosen"] == "" and unpaired["old"] == NO_TASKS
    assert unpaired["wild"] == NOT_FINITE and comparison.entries[-1].name == "wild"
    rows = {row[0]: row for row in table(comparison)}
    assert rows["old"][5] == "not stored" and rows["old"][7] == "not measured"
    assert rows["wild"][1] == NOT_FINITE
    assert json.loads(json.dumps(comparison.to_json()))["entries"][-1]["mean"] is None


def test_a_test_that_one_run_has_alone_is_left_out(scores: dict[str, Any]) -> None:
    a, b = result(scores["worse"]), result(scores["better"])
    a["measured"]["20-way"] = a["measured"]["5-way"]
    assert [comparison.test for comparison in compare({"a": a, "b": b})] == ["5-way"]
    b["measured"] = {"10-way": b["measured"]["5-way"]}
    with pytest.raises(ValueError, match="share no test"):
        compare({"a": a, "b": b})


def test_numbers_survive_being_packed() -> None:
    values = torch.tensor([0.0, 1 / 3, 64 / 75, 1.0, 123456.7, 1e-9, -2.5, math.inf])
    values = torch.cat([values, torch.full((1,), math.nan)]).double()
    again = unpack(pack(values))
    assert again.dtype == torch.float64
    assert torch.allclose(again, values, rtol=5e-4, atol=0, equal_nan=True)
    shares = torch.randint(0, 76, (1000,)) / 75
    assert len(pack(shares)) < 2400
