"""Trials of odd inputs: what holds, what is refused, and what fails.

A trial is a function of (seed, number). It *holds* if a property is true that was computed
independently, or if the input is refused by a `ValueError` or `TypeError` of quickstudy or of a
library that validates for it. It *fails* if the property is broken, or by any other error.
"""

import argparse
import datetime
import json
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch

import quickstudy
from quickstudy.core.stateless import CHECKPOINTING

FIGURES = Path(__file__).with_name("figures.json")
PACKAGE = str(Path(quickstudy.__file__).parent)
VALIDATORS = ("/sklearn/", "/numpy/", "/pandas/", "/scipy/", "/torch/nn/functional.py")


class Broken(AssertionError):
    """A property that should be true is not."""


class NotApplicable(Exception):
    """A property does not apply to the input that was drawn: another one is drawn."""


class Trial(NamedTuple):
    """What is tried: a property, the input in words, and the code."""

    property: str
    about: str
    run: Callable[[], object]


class Failure(NamedTuple):
    """A trial that failed, and why."""

    number: int
    trial: Trial
    reason: str


@dataclass
class Tally:
    """The numbers of a harness."""

    held: Counter[str] = field(default_factory=Counter)  # by property, refusals included
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.held.total() + len(self.failures)

    def line(self) -> str:
        """The last line of a harness."""
        return f"tried {self.tried} / held {self.held.total()} / failed {len(self.failures)}"


def require(condition: bool, sentence: str) -> None:
    """Raise `Broken` with the sentence unless the condition is true."""
    if not condition:
        raise Broken(sentence)


def applies(condition: bool) -> None:
    """Raise `NotApplicable` unless the condition is true."""
    if not condition:
        raise NotApplicable


def must_refuse(what: str) -> NoReturn:
    """Raise `Broken`, as an input was accepted that has no right answer."""
    raise Broken(f"accepted {what}")


def tally(
    draw: Callable[[np.random.Generator], Trial], numbers: Sequence[int], seed: int
) -> Tally:
    """Run the trials of these numbers."""
    result = Tally()
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial, error = tried(draw, rng, number)
        if error is None:
            result.held[trial.property] += 1
        elif is_refusal(error):
            result.held[trial.property] += 1
            result.refused[trial.property] += 1
        else:
            result.failures.append(Failure(number, trial, described(error)))
    return result


def tried(
    draw: Callable[[np.random.Generator], Trial], rng: np.random.Generator, number: int
) -> tuple[Trial, Exception | None]:
    """Draw trials until a property applies to its input; run that one."""
    while True:
        trial = draw(rng)
        torch.manual_seed(number)
        try:
            trial.run()
        except NotApplicable:
            continue
        except Exception as error:
            return trial, error
        return trial, None


def is_refusal(error: Exception) -> bool:
    """Whether an error was raised on purpose, by quickstudy or by a validator it called."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    through = any(frame.filename.startswith(PACKAGE) for frame in frames)
    raised_here = last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise")
    validated = any(place in last.filename for place in VALIDATORS)
    sentence = len(str(error).split()) > 3
    if isinstance(error, RuntimeError) and CHECKPOINTING in str(error):
        return True  # PyTorch raises the sentence that it was given
    return (
        isinstance(error, ValueError | TypeError)
        and through
        and sentence
        and (raised_here or validated)
    )


def described(error: Exception) -> str:
    """The error in one line, with the innermost place in quickstudy."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, Broken):
        return text
    places = [
        f"{frame.filename.removeprefix(PACKAGE + '/')}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(PACKAGE) and frame.name != "__torch_function__"
    ]
    return f"{text} ({places[-1] if places else 'outside of quickstudy'})"


def main(name: str, draw: Callable[[np.random.Generator], Trial]) -> None:
    """The command line of a harness; exits with 1 if a trial failed."""
    parser = argparse.ArgumentParser(description=f"Trials of {name}.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=2000, help="number of trials")
    parser.add_argument("--only", type=int, help="one trial by its number, with its traceback")
    parser.add_argument("--record", action="store_true", help="write the figures for the docs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only is not None:
        trial, error = tried(draw, np.random.default_rng([args.seed, args.only]), args.only)
        print(f"{trial.property}: {trial.about}")
        if error is not None:
            raise error
        return
    start = time.perf_counter()
    result = tally(draw, range(args.n), args.seed)
    for number, trial, reason in result.failures:
        print(f"{number}  {trial.property}: {trial.about}\n      {reason}")
    if args.record:
        record(name, result, args.seed, time.perf_counter() - start)
    print(result.line())
    sys.exit(bool(result.failures))


def record(name: str, result: Tally, seed: int, seconds: float) -> None:
    """Write the figures of one harness to the file that `docs/reliability.py` reads."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    failed = Counter(failure.trial.property for failure in result.failures)
    figures[name] = {
        "tried": result.tried,
        "held": result.held.total(),
        "failed": len(result.failures),
        "seed": seed,
        "seconds": round(seconds),
        "version": quickstudy.__version__,
        "torch": torch.__version__.split("+")[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "properties": {
            key: {
                "held": result.held[key],
                "refused": result.refused[key],
                "failed": failed[key],
            }
            for key in sorted(result.held | failed)
        },
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
