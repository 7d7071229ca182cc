"""Comparison of finished runs: scores, paired differences, and costs.

Two runs that were measured on the same episodes are paired by task. The difficulty of a task,
most of the scatter, cancels in their difference.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from quickstudy.core.task import Json
from quickstudy.evaluation.formatting import format_mean
from quickstudy.evaluation.report import Difference, Report, unpack

OTHER_TASKS, NO_TASKS, NOT_FINITE = "other episodes", "no number per task stored", "not finite"
HEAD = ["Run", "Difference to the best", "Better on", "Steps", "Tasks", "Training", "Per task"]


class Entry(NamedTuple):
    """A run on one benchmark.

    Examples:
        >>> import quickstudy as qs
        >>> entry = qs.runs.Entry("maml", 0.9, 0.01, None, "", 100, 400, 60.0, 2.5, {})
        >>> entry.name, entry.tasks
        ('maml', 400)
    """

    name: str
    mean: float  # over tasks; NaN if it was not finite
    interval: float  # half the width of the 95 % interval of the mean
    difference: Difference | None  # to the best, by task; `wins`: how often this is better
    unpaired: str  # the reason why there is no difference; "" for the best itself
    steps: int
    tasks: int | None  # meta-trained on
    seconds: float  # of meta-training
    milliseconds: float | None  # of adapting to a task and predicting its queries
    hardware: Mapping[str, Json]


class Comparison(NamedTuple):
    """All runs on one benchmark, the best first.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.Comparison("5-way", "accuracy", []).to_json()
        {'test': '5-way', 'metric': 'accuracy', 'entries': []}
    """

    test: str
    metric: str
    entries: list[Entry]

    def to_json(self) -> Json:
        """Return everything as JSON; NaN becomes null."""

        def plain(value: Json) -> Json:
            return None if isinstance(value, float) and math.isnan(value) else value

        entries = [
            {
                **{key: plain(value) for key, value in entry._asdict().items()},
                "difference": entry.difference and entry.difference._asdict(),
            }
            for entry in self.entries
        ]
        return {"test": self.test, "metric": self.metric, "entries": entries}


def compare(results: Mapping[str, Json]) -> list[Comparison]:
    """Compare results on every benchmark that two of them share, by its first metric.

    Args:
        results: results of `quickstudy.runs.finish`, by name.

    Raises:
        ValueError: no two results share a benchmark.

    Examples:
        >>> import quickstudy as qs
        >>> stored = qs.runs.stored()
        >>> results = {name: stored[name] for name in ("glyphs_fomaml", "glyphs_protonet")}
        >>> [comparison.test for comparison in qs.runs.compare(results)]
        ['10-way 1-shot', '10-way 5-shot']
    """
    tests = dict.fromkeys(test for result in results.values() for test in result["measured"])
    sharing = {
        test: {name: r for name, r in results.items() if test in r["measured"]}
        for test in tests
    }
    comparisons = [_on(test, runs) for test, runs in sharing.items() if len(runs) > 1]
    if not comparisons:
        tests = "; ".join(f"{name}: {', '.join(r['measured'])}" for name, r in results.items())
        raise ValueError(f"These results share no test ({tests}). Compare runs of one test.")
    return comparisons


def table(comparison: Comparison) -> list[list[str]]:
    """Return texts: a row of titles, and a row for each run.

    Examples:
        >>> import quickstudy as qs
        >>> stored = qs.runs.stored()
        >>> results = {name: stored[name] for name in ("glyphs_fomaml", "glyphs_protonet")}
        >>> rows = qs.runs.table(qs.runs.compare(results)[0])
        >>> [row[0] for row in rows]
        ['Run', 'glyphs_protonet', 'glyphs_fomaml']
    """

    def number(mean: float, interval: float) -> str:
        return (
            NOT_FINITE if math.isnan(mean) else format_mean(comparison.metric, mean, interval)
        )

    def row(entry: Entry) -> list[str]:
        gap, cost = entry.difference, entry.milliseconds
        best = entry.unpaired or "the best"
        return [
            entry.name,
            number(entry.mean, entry.interval),
            f"{'+' * (gap.mean > 0)}{number(*gap[:2])}" if gap else best,
            f"{gap.wins:.0%} of tasks" if gap else "",
            f"{entry.steps:,}",
            "not stored" if entry.tasks is None else f"{entry.tasks:,}",
            f"{entry.seconds:,.0f} s on {_machine(entry.hardware)}",
            "not measured" if cost is None else f"{cost:.3g} ms",
        ]

    metric = comparison.metric.replace("_", " ").capitalize()
    return [[HEAD[0], metric, *HEAD[1:]], *map(row, comparison.entries)]


def _on(test: str, results: Mapping[str, Json]) -> Comparison:
    first = next(iter(results.values()))
    metric = next(name for name in first["measured"][test] if name != "card")
    results = {name: r for name, r in results.items() if metric in r["measured"][test]}
    sign = -1 if first.get("better") == "min" else 1

    def place(name: str) -> float:
        mean = results[name]["measured"][test][metric]["mean"]
        return math.inf if mean is None else -sign * mean

    best = _report(results[min(results, key=place)], test, metric)
    names = sorted(results, key=place)
    entries = [_entry(name, results[name], test, metric, best, sign) for name in names]
    entries[0] = entries[0]._replace(difference=None, unpaired="")
    return Comparison(test, metric, entries)


def _entry(
    name: str, result: Json, test: str, metric: str, best: Report | None, sign: int
) -> Entry:
    number = result["measured"][test][metric]
    mean, interval = number["mean"], number["interval"]
    report = _report(result, test, metric)
    difference, unpaired = None, ""
    if report is None or best is None:
        unpaired = NO_TASKS
    elif mean is None:
        unpaired = NOT_FINITE
    else:
        try:
            gap = report.paired_difference(best, metric)
            difference = gap if sign > 0 else gap._replace(wins=1 - gap.wins)
        except ValueError:  # their cards differ
            unpaired = OTHER_TASKS
    size = result.get("size")
    return Entry(
        name,
        math.nan if mean is None else mean,
        math.nan if interval is None else interval,
        difference,
        unpaired,
        result["steps"],
        None if size is None else size * result["steps"],
        result["seconds"],
        result.get("milliseconds", {}).get(test),
        result["hardware"],
    )


def _machine(hardware: Mapping[str, Json]) -> str:
    if hardware.get("gpu"):
        return hardware["gpu"]
    threads = hardware["threads"]
    return f"{threads} CPU thread{'s' * (threads != 1)}"


def _report(result: Json, test: str, metric: str) -> Report | None:
    row = result["measured"][test]
    packed = row[metric].get("values")
    return Report({metric: unpack(packed)}, row["card"]) if packed else None
