"""`quickstudy reproduce`: repeat stored results, or train what is missing or too short."""

import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from filelock import FileLock, Timeout
from tyro.conf import Positional, arg

from quickstudy import runs
from quickstudy.cli import catalogue
from quickstudy.cli.options import Device, Execution
from quickstudy.cli.train import carry_out
from quickstudy.evaluation.formatting import format_duration, parse_duration
from quickstudy.runs.queue import FOLDER

HEAD = ("Result", "Misses published by", "Steps", "Of the paper's", "Next training", "Time")
LOWEST_PRIORITY = 19


def reproduce(
    results: Positional[Annotated[tuple[str, ...], arg(metavar="RESULT")]],
    *,
    queue: bool = False,
    budget: str | None = None,
    first: tuple[str, ...] = (),
    jobs: int = 1,
    dry_run: bool = False,
    execution: Execution = "recipe",
    device: Device = "cpu",
) -> None:
    """Repeat stored results with their settings, which takes hours.

    Runs are in runs/RESULT. The same command resumes them.

    With --queue it trains what is missing or was trained too little, one result at a time, at
    the lowest priority and on one core. Results that miss their published number by most come
    first. Each training is four times as long as the stored one, and at most as long as the
    paper's. Runs are in runs/queue. At the end of the budget the current run is saved, measured
    and recorded. Ctrl-C, SIGTERM and SIGKILL lose no more than two minutes. The same command
    goes on.

    Example: quickstudy reproduce glyphs_protonet glyphs_fomaml

    Example: quickstudy reproduce --queue --budget 2h --first omniglot_imaml omniglot_reptile

    Args:
        results: Names of results (`quickstudy list --results`). Default: all. The queue trains
            these only, in this order.
        queue: Train what is missing or was trained too little.
        budget: Time to train for, such as 2h or 90m. Default: until nothing is left.
        first: Results to train before the others, in this order.
        jobs: Results to train at the same time, each on one core.
        dry_run: List what the queue would train, in order, and train nothing.
    """
    if queue:
        return _queue(results, first or results, budget, jobs, dry_run, execution, device)
    if budget is not None or first or jobs != 1 or dry_run:
        raise ValueError("--budget, --first, --jobs and --dry-run belong to --queue: add it.")
    stored = runs.stored()
    for name in results:
        if name not in stored:
            raise catalogue.no_such("stored result", name, stored)
    for name in results or stored:
        print(f"{name}:", file=sys.stderr)
        carry_out(
            stored[name]["recipe"],
            stored[name]["settings"],
            out=Path("runs") / name,
            execution=execution,
            device=device,
            record=True,
            stored=name,
            as_json=False,
        )


def _queue(
    only: tuple[str, ...],
    first: tuple[str, ...],
    budget: str | None,
    jobs: int,
    dry_run: bool,
    execution: str,
    device: str,
) -> None:
    """Train rows in turn until the budget ends."""
    end = time.monotonic() + (math.inf if budget is None else parse_duration(budget))
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: give 1 or more.")
    rows = runs.remaining(first, only=only)
    if dry_run:
        return _print_table(rows)
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = FileLock(FOLDER / "queue.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another queue is training in {FOLDER}: wait until it ends, or stop it."
        ) from None
    with lock:
        arguments = first, only, end, execution, device
        if jobs == 1:
            return _work(*arguments)
        context = multiprocessing.get_context("spawn")
        logs = [FOLDER / f"job-{number}.log" for number in range(1, jobs + 1)]
        workers = [
            context.Process(target=_work, args=(*arguments, log), daemon=True) for log in logs
        ]
        print(f"{jobs} jobs; their progress: {', '.join(map(str, logs))}", file=sys.stderr)
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def _work(
    first: Sequence[str],
    only: Sequence[str],
    end: float,
    execution: str,
    device: str,
    log: Path | None = None,
) -> None:
    """Train one row after another until `end`, a time of `time.monotonic`."""
    if log is not None:
        sys.stdout = sys.stderr = log.open("a", buffering=1)
    torch.set_num_threads(1)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(LOWEST_PRIORITY)
    parent, failed = multiprocessing.parent_process(), set[str]()

    def over() -> bool:
        return time.monotonic() >= end or (parent is not None and not parent.is_alive())

    while not over():
        rows = [row for row in runs.remaining(first, only=only) if row.name not in failed]
        with _first_free(rows) as row:
            if row is None:
                return print("Nothing is left to train.", file=sys.stderr)
            print(_heading(row, len(rows) - 1, end - time.monotonic()), file=sys.stderr)
            try:
                carry_out(
                    row.recipe,
                    row.settings,
                    out=row.folder,
                    execution=execution,
                    device=device,
                    record=True,
                    stored=row.name,
                    as_json=False,
                    stop=over,
                    longer_than=row.recorded,
                )
            except (ValueError, OSError, ImportError, ArithmeticError) as error:
                failed.add(row.name)
                print(f"{row.name} is skipped: {error}", file=sys.stderr)
    print("The budget is over. The same command goes on from here.", file=sys.stderr)


@contextmanager
def _first_free(rows: Sequence[runs.Row]) -> Iterator[runs.Row | None]:
    """Yield the first row that no other job trains; None if there is none."""
    for row in rows:
        lock = FileLock(FOLDER / f"{row.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with lock:
            yield row
        return
    yield None


def _heading(row: runs.Row, waiting: int, budget: float) -> str:
    steps = "the recipe's steps" if row.steps is None else f"{row.steps:,}"
    text = f"{row.name}: step {row.trained:,} of {steps}"
    if row.seconds_left is not None:
        text += f", about {format_duration(row.seconds_left)} left"
    if budget < math.inf:
        text += f"; {format_duration(budget)} left of the budget"
    return f"{text}; {waiting} results wait"


def _print_table(rows: Sequence[runs.Row]) -> None:
    def cells(row: runs.Row) -> tuple[str, ...]:
        gap = "nothing published" if row.gap is None else f"{row.gap:.1%}"
        next_steps = "the recipe's" if row.steps is None else f"{row.steps:,}"
        return (
            row.name,
            "not recorded" if row.gap == math.inf else gap,
            f"{row.recorded:,}",
            "" if row.fraction is None else f"{row.fraction:.2%}",
            next_steps + (f", {row.trained:,} done" if row.trained else ""),
            "" if row.seconds_left is None else format_duration(row.seconds_left),
        )

    table = [HEAD, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        columns = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in columns).rstrip())
    total = sum(row.seconds_left or 0.0 for row in rows)
    unmeasured = sum(row.seconds_left is None for row in rows)
    print(
        f"{len(rows)} results; {format_duration(total)} for those with a measured time", end=""
    )
    print(f", {unmeasured} have none." if unmeasured else ".")
