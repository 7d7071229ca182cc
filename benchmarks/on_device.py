"""Times of ways that take turns, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
Ways = Mapping[str, Callable[[], object]]
LONG = 10.0  # seconds of the first calls, from where there is one turn only


class Setting(NamedTuple):
    """Where to measure, and how much."""

    device: torch.device
    smoke: bool
    failures: list[str]  # grows

    @property
    def turns(self) -> int:
        return 1 if self.smoke else 5

    @property
    def at_least(self) -> float:
        """Seconds of a turn."""
        return 0.0 if self.smoke else 0.2

    def size(self, full: int, smoke: int) -> int:
        return smoke if self.smoke else full

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def fails(self, what: str, error: Exception) -> None:
        """Note a failure. Libraries that are not installed are none."""
        kind = "is left out" if isinstance(error, ImportError) else "fails"
        text = f"{what} {kind}: {type(error).__name__}: {error}".splitlines()[0]
        print(text, flush=True)
        if kind == "fails":
            self.failures.append(text)


def measured(case: str, ways: Ways, setting: Setting) -> dict[str, tuple[float, float | None]]:
    """Median seconds of a call and GB at its peak (None: not of a GPU), of each way."""
    on_gpu = setting.device.type == "cuda"
    peaks: dict[str, float | None] = {}
    started = time.perf_counter()
    for way, work in ways.items():
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(setting.device)
        try:
            work()
            setting.synchronise()
        except Exception as error:
            setting.fails(f"{case}: {way}", error)
            continue
        peaks[way] = torch.cuda.max_memory_allocated(setting.device) / 1e9 if on_gpu else None
    spent: dict[str, list[float]] = {way: [] for way in peaks}
    slow = time.perf_counter() - started > LONG
    for _ in range(1 if slow else setting.turns):
        for way, times in spent.items():
            begun, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - begun < setting.at_least:
                ways[way]()
                setting.synchronise()
                calls += 1
            times.append((time.perf_counter() - begun) / calls)
    return {way: (statistics.median(times), peaks[way]) for way, times in spent.items()}


def table(case: str, ways: Ways, count: int, unit: str, setting: Setting) -> list[Row]:
    """A row for every way; the first one is what the others are compared with."""
    results = measured(case, ways, setting)
    base = results.get(next(iter(ways)), (float("nan"), None))[0]
    return [
        {
            "case": case,
            "way": way,
            "ms": digits(1e3 * seconds),
            f"{unit}/s": digits(count / seconds),
            "x first": digits(base / seconds),
            "GB": "" if peak is None else digits(peak),
        }
        for way, (seconds, peak) in results.items()
    ]


def digits(number: float) -> float:
    return float(f"{number:.3g}")
