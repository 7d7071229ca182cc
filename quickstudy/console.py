"""Progress in the terminal, on stderr: bars, losses, and matrices of streams."""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from quickstudy.evaluation.formatting import format_duration, format_mean
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.runs import Run, Status

PATIENCE = 2.0  # seconds without a bar
PULSE = 300.0  # seconds without a line, where there is no terminal
MEMORY = 0.97  # weight of the past in the loss shown, per step
WIDE = 20  # experiences that fit a matrix in a terminal
LOW, HIGH = (235, 110, 100), (110, 200, 120)  # the colours of scores of 0 and 1


def show(run: Run, statuses: Iterator[Status]) -> None:
    """Exhaust `runs.go(run)` and show its progress.

    A terminal shows a bar, the smoothed loss, the last validation, tasks per second, and the
    time left. Elsewhere there is a line at each validation and every five minutes. `statuses`
    is closed in any case, so that an interrupted run is saved.

    Examples:
        >>> import contextlib, sys, tempfile
        >>> from quickstudy import runs
        >>> run = runs.start("sinusoid", {"steps": 0}, tempfile.mkdtemp())
        >>> show(run, runs.go(run))
        >>> run.checkpoints.latest().name
        'step-00000000'
    """
    try:
        if int(os.environ.get("RANK", 0)) > 0:
            for _ in statuses:
                pass
        elif sys.stderr.isatty() and run.experiment.steps:
            _live(run, statuses)
        else:
            _lines(run, statuses)
    finally:
        if isinstance(statuses, Generator):
            statuses.close()


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a callback that takes how many of `total` are done.

    A terminal shows a bar after two seconds.

    Examples:
        >>> with bar("tasks", total=2) as advance:
        ...     advance(1)
        ...     advance(2)
    """
    progress = _progress()
    task = progress.add_task(description, total=total)
    begun, started = time.monotonic(), False

    def advance(done: int) -> None:
        nonlocal started
        progress.update(task, completed=done)
        if not started and done < total and time.monotonic() - begun > PATIENCE:
            started = sys.stderr.isatty()
            if started:
                progress.start()

    try:
        yield advance
    finally:
        if started:
            progress.stop()


@contextmanager
def streaming() -> Iterator[Callable[[str, StreamReport], None]]:
    """Yield a callback `(row, report)` for `on_experience` of `runs.finish`.

    A terminal shows the matrix of the current stream. Elsewhere each experience is a line.

    Examples:
        >>> with streaming() as on_experience:
        ...     callable(on_experience)
        True
    """
    if not sys.stderr.isatty():
        yield lambda row, report: print(heading(row, report), file=sys.stderr, flush=True)
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        last = ""

        def show(row: str, report: StreamReport) -> None:
            nonlocal last
            if last not in ("", row):
                live.console.print(live.get_renderable())  # else it would be overwritten
            last = row
            live.update(matrix(row, report), refresh=True)

        yield show


def matrix(row: str, report: StreamReport) -> Group:
    """Return the coloured scores of the current streams: their mean, a row per experience.

    Of more than twenty experiences it shows the latest row only.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([[[0.5, 0.5], [0.9, 0.5], [0.8, 0.7]]])
        >>> seconds = torch.ones(1, 2)
        >>> group = matrix("all", StreamReport(scores, seconds, seconds, seconds))
        >>> [column.header for column in group.renderables[1].columns]
        ['after', '1', '2']
    """
    _, now, scores = _latest(report)
    tests = scores.shape[-1]
    scale = 100 if report.metric == "accuracy" else 1

    def cell(after: int, test: int) -> Text:
        value = float(scores[after, test])
        if value != value:
            return Text("")
        share = min(max(value, 0.0), 1.0)
        mix = (int(a + share * (b - a)) for a, b in zip(LOW, HIGH, strict=True))
        style = f"black on rgb({','.join(map(str, mix))})"
        return Text(f"{scale * value:.3g}", "dim" if test >= after else style)

    title = Text(heading(row, report))
    if tests > WIDE:
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
        cells = [cell(now, test) for test in range(now)]
        for at in range(0, now, WIDE):
            table.add_row(Text(f"{at + 1}", "dim"), *cells[at : at + WIDE])
        return Group(title, table)
    table = Table("after", *(str(test + 1) for test in range(tests)), box=None)
    for after in range(1, now + 1):
        table.add_row(str(after), *(cell(after, test) for test in range(tests)))
    return Group(title, table)


def heading(row: str, report: StreamReport) -> str:
    """Return the progress of the current streams in a line.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([[[0.5, 0.5], [0.9, 0.5], [0.8, 0.7]]])
        >>> seconds = torch.ones(1, 2)
        >>> heading("all", StreamReport(scores, seconds, seconds, seconds))
        'all: stream 1, experience 2 of 2, accuracy of all so far 75.00 %, of the last 70.00 %'
    """
    name, now, scores = _latest(report)
    text = f"{row}: {name}, experience {now} of {scores.shape[-1]}"
    if now and not scores[now, :now].isnan().all():
        mean, new = float(scores[now, :now].mean()), float(scores[now, now - 1])
        text += (
            f", {report.metric} of all so far {format_mean(report.metric, mean)}"
            f", of the last {format_mean(report.metric, new)}"
        )
    return text


def _latest(report: StreamReport) -> tuple[str, int, Tensor]:
    """The streams that are as far as the last one.

    Returns:
        Their name, the number of experiences learned, and the mean of their scores (E + 1, E).
    """
    learned = (~report.seconds.isnan()).sum(1)
    current = report.matrix[learned == learned[-1]]
    name = (
        f"mean of {len(current)} streams"
        if len(current) > 1
        else f"stream {len(report.matrix)}"
    )
    return name, int(learned[-1]), current.mean(0)


def _live(run: Run, statuses: Iterator[Status]) -> None:
    total, weight, validation, started = 0.0, 0.0, "", time.monotonic()
    with _progress(
        TextColumn("loss {task.fields[loss]:.3f}{task.fields[more]}"), transient=False
    ) as progress:
        steps, name = run.experiment.steps, run.folder.name
        task = progress.add_task(name, total=steps, completed=run.start, loss=0.0, more="")
        for status in statuses:
            total, weight = MEMORY * total + status.loss, MEMORY * weight + 1
            if status.validation is not None:
                validation = f" · validation {_best(status)}"
            # wall-clock time, which includes validations
            pace = (time.monotonic() - started) / (status.step - run.start)
            speed = f" · {status.tasks / status.seconds:.0f} tasks/s"
            left = f" · {format_duration(pace * (steps - status.step))} left"
            more = validation + speed + (left if status.step < steps else "")
            progress.update(task, completed=status.step, loss=total / weight, more=more)


def _lines(run: Run, statuses: Iterator[Status]) -> None:
    losses: list[float] = []
    steps, started = run.experiment.steps, time.monotonic()
    printed = started
    for status in statuses:
        losses.append(status.loss)
        now = time.monotonic()
        if status.validation is None and now - printed < PULSE:
            continue
        validation = "" if status.validation is None else f", validation {_best(status)}"
        left = (now - started) / (status.step - run.start) * (steps - status.step)
        print(
            f"{run.folder.name}: step {status.step} of {steps}, "
            f"loss {sum(losses) / len(losses):.4f}{validation}, "
            f"{status.tasks / status.seconds:.0f} tasks/s"
            + (f", {format_duration(left)} left" if left else ""),
            file=sys.stderr,
            flush=True,
        )
        printed = now
        losses.clear()


def _best(status: Status) -> str:
    """The first validation metric, which chooses the checkpoint; for a return after adaptation
    also the return before."""
    report = status.validation
    assert report is not None
    first = next(iter(report.values))
    text = f"{first} {format_mean(first, report.mean(first), report.interval(first))}"
    before = first.replace("after", "before")
    if before == first or before not in report.values:
        return text
    return f"{text} (before {format_mean(before, report.mean(before))})"


def _progress(*columns: TextColumn, transient: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        console=Console(stderr=True),
        transient=transient,
    )
