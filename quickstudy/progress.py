"""What a person watches meanwhile: on stderr, and only when that is a terminal."""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from quickstudy.recipe import Run, Status

PATIENCE = 2.0  # seconds without a bar
MEMORY = 0.97  # weight of the past in the loss shown, per step


def show(run: Run, statuses: Iterator[Status]) -> None:
    """Carries out `recipe.go(run)`, showing how far it is.

    A terminal has a bar, the smoothed loss, the last validation, tasks per second, and the
    time left; elsewhere each validation is a line. Closes `statuses` however it ends, so that
    an interrupted run is saved by then.
    """
    try:
        if int(os.environ.get("RANK", 0)) > 0:
            for _ in statuses:
                pass
        elif sys.stderr.isatty():
            _live(run, statuses)
        else:
            _lines(run, statuses)
    finally:
        if isinstance(statuses, Generator):
            statuses.close()


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many of `total` are done; there is a bar if that takes
    longer than two seconds."""
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


def said(metric: str, mean: float, interval: float | None = None) -> str:
    """A number as people read it: an accuracy in percent, others to four digits."""
    share = metric == "accuracy"
    scale, form = (100, ".2f") if share else (1, "#.4g")
    text = f"{mean * scale:{form}}"
    if interval is not None and interval == interval:  # one task has no interval: NaN
        width = f"{interval * scale:{'.2f' if share else '.2g'}}"
        text += f" ± {width}"
    return f"{text} %" if share else text


def clock(seconds: float) -> str:
    """75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _live(run: Run, statuses: Iterator[Status]) -> None:
    fields = TextColumn("loss {task.fields[loss]:.3f}{task.fields[rest]}")
    total, weight, validation, begun = 0.0, 0.0, "", time.monotonic()
    with _progress(fields, transient=False) as progress:
        steps, name = run.experiment.steps, run.folder.name
        task = progress.add_task(name, total=steps, completed=run.start, loss=0.0, rest="")
        for status in statuses:
            total, weight = MEMORY * total + status.loss, MEMORY * weight + 1
            if status.validation is not None:
                validation = f" · validation {_best(status)}"
            # by the clock on the wall, which runs on through validations
            pace = (time.monotonic() - begun) / (status.step - run.start)
            speed = f" · {status.tasks / status.seconds:.0f} tasks/s"
            left = f" · {clock(pace * (steps - status.step))} left"
            rest = validation + speed + (left if status.step < steps else "")
            progress.update(task, completed=status.step, loss=total / weight, rest=rest)


def _lines(run: Run, statuses: Iterator[Status]) -> None:
    losses: list[float] = []
    for status in statuses:
        losses.append(status.loss)
        if status.validation is not None:
            line = (
                f"{run.folder.name}: step {status.step} of {run.experiment.steps}, "
                f"loss {sum(losses) / len(losses):.4f}, validation {_best(status)}, "
                f"{status.tasks / status.seconds:.0f} tasks/s"
            )
            print(line, file=sys.stderr, flush=True)
            losses.clear()


def _best(status: Status) -> str:
    """The validation's first metric, by which the checkpoint is chosen."""
    report = status.validation
    assert report is not None
    first = next(iter(report.values))
    return f"{first} {said(first, report.mean(first), report.interval(first))}"


def _progress(*columns: TextColumn, transient: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        console=Console(stderr=True),
        transient=transient,
    )
