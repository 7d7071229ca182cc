"""What every benchmark shares: the state of the machine, its peak, times taken in turns, a
table for people, and JSON for the record."""

import json
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from quickstudy.runs import hardware, stored

LARGEST_SPREAD = 0.15  # of the repeats of a peak
SMALLEST_SHARE = 0.85  # of the time of its cores that a process needs for a peak


class Times(NamedTuple):
    """Medians of a call, in seconds."""

    wall: float
    cpu: float  # of the process: other work on the machine disturbs it least


class Peak(NamedTuple):
    """GFLOP/s, as the median of repeats."""

    gflops: float
    spread: float  # the difference of the quartiles of the repeats, relative to the median
    share: float  # of the time of its cores that the process had


def machine() -> dict[str, Any]:
    """Load and clock of the machine now; None where the system does not tell."""
    try:
        found = re.findall(r"cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = []
    load = [round(average, 2) for average in os.getloadavg()]
    return {
        "load of 1, 5 and 15 minutes": load,
        "MHz": [round(float(mhz)) for mhz in found] or None,
    }


_AT_START = machine()


def in_turns(
    ways: Mapping[str, Callable[[], Any]], turns: int, least: float = 0.2
) -> dict[str, Times]:
    """Times of every way. In a turn, each runs once untimed, so that the caches are its own,
    and then for at least `least` seconds."""
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, work in ways.items():
            work()
            wall, cpu, calls = time.perf_counter(), time.process_time(), 0
            while calls == 0 or time.perf_counter() - wall < least:
                work()
                calls += 1
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            spent[way].append((wall / calls, cpu / calls))
    return {
        way: Times(*map(statistics.median, zip(*times, strict=True)))
        for way, times in spent.items()
    }


def peak(work: Callable[[], Any], flop: float, repeats: int = 15) -> Peak:
    """The peak of `work`, which takes `flop` floating-point operations."""
    work()
    rates = []
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        rates.append(flop / (time.perf_counter() - begun) / 1e9)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    low, middle, high = statistics.quantiles(rates, n=4)
    share = cpu / wall / torch.get_num_threads()
    return Peak(round(middle, 1), round((high - low) / middle, 3), round(share, 3))


def peaks() -> dict[str, Peak]:
    """Peaks of a large matrix product, which bounds are computed from, and, beside it, of
    products and convolutions of the sizes that nets of few-shot learning have."""
    generator = torch.Generator().manual_seed(0)

    def product(*batch: int, sizes: tuple[int, int, int]) -> Peak:
        rows, inner, columns = sizes
        a = torch.randn(*batch, rows, inner, generator=generator)
        b = torch.randn(*batch, inner, columns, generator=generator)
        calls = max(1, 10**8 // (2 * a.numel() * columns))
        return peak(lambda: [a @ b for _ in range(calls)], 2 * a.numel() * columns * calls)

    def convolution(images: int, channels: int, size: int) -> Peak:
        x = torch.randn(images, channels, size, size, generator=generator)
        weight = torch.randn(channels, channels, 3, 3, generator=generator)
        x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
        flop = 2 * x.numel() * channels * 9
        calls = max(1, 10**8 // flop)
        return peak(
            lambda: [F.conv2d(x, weight, padding=1) for _ in range(calls)], flop * calls
        )

    return {
        MATRIX: product(sizes=(2048, 2048, 2048)),
        "32 products of 10 x 40 x 40": product(32, sizes=(10, 40, 40)),
        "a product of 2000 x 64 x 64": product(sizes=(2000, 64, 64)),
        "3 x 3, 64 channels, 25 pictures of 14 x 14": convolution(25, 64, 14),
        "3 x 3, 32 channels, 80 pictures of 42 x 42": convolution(80, 32, 42),
    }


MATRIX = "a product of 2048 x 2048 x 2048"


def steady(found: Mapping[str, Peak], noisy: bool) -> str:
    """A sentence on how far the peak that bounds are computed from can be trusted.

    Raises:
        SystemExit: its repeats differ by much, or other work took part of the cores (which may
            lower all repeats alike), and not `noisy`: bounds would be wrong.
    """
    _, spread, share = found[MATRIX]
    facts = (
        f"the quartiles of its repeats differ by {spread:.0%}, and the process had {share:.0%} "
        f"of the time of its {torch.get_num_threads()} cores"
    )
    if spread <= LARGEST_SPREAD and share >= SMALLEST_SHARE:
        return f"The peak is steady: {facts}."
    sentence = (
        f"The peak is not steady: {facts} (at most {LARGEST_SPREAD:.0%} and at least "
        f"{SMALLEST_SHARE:.0%} are); the load average is {os.getloadavg()[0]:.1f}."
    )
    if not noisy:
        raise SystemExit(
            f"{sentence} Bounds would be wrong: stop the other work, or give --noisy, which "
            "stores this sentence with the result."
        )
    return sentence


def write(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], out: Path | None, **more: Any
) -> None:
    """Prints rows of one shape as a table, and stores them with date, hardware, load and
    clock."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    states = {"machine at the start": _AT_START, "machine at the end": machine()}
    console = Console()
    console.print(table)
    for moment, state in states.items():
        console.print(f"{moment}: {state}")
    if out is not None:
        date = datetime.now(UTC).date().isoformat()
        record = {"benchmark": name, "title": title, "rows": list(rows), **more}
        record |= {"date": date, "hardware": hardware(), **states}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")


def recorded(result: str, metric: str) -> str:
    """The value of a stored result of one row, mean ± 95 % interval; nothing where it is not
    recorded."""
    for row in stored().get(result, {"measured": {}})["measured"].values():
        return f"{row[metric]['mean']:#.4g} ± {row[metric]['interval']:.2g}"
    return ""
