"""Runs: recipes, what they train and measure, and how results compare.

`recipes` has what a recipe is and where recipes are found. `runs` starts and reopens a run,
`meta_training` trains it, and `results` measures its benchmarks. `compare_runs` compares
finished runs, and `queue` lists what is left to train. `host` describes the machine. A
recipe is a file in `recipes/` with a function `recipe(*, ...) -> Experiment`.
"""

from quickstudy.runs.compare_runs import Comparison, Entry, compare, table
from quickstudy.runs.host import hardware
from quickstudy.runs.meta_training import Status, best_validation, go, validation_metrics
from quickstudy.runs.queue import Row, largest_gap, remaining
from quickstudy.runs.recipes import (
    Benchmark,
    Experiment,
    find,
    folders,
    names,
    paper_steps,
    published,
    result_name,
    settings_applied,
    settings_of,
)
from quickstudy.runs.results import finish, measure, result, store, stored, stream_file
from quickstudy.runs.runs import Run, reopen, start

__all__ = [
    "Benchmark",
    "Comparison",
    "Entry",
    "Experiment",
    "Row",
    "Run",
    "Status",
    "best_validation",
    "compare",
    "find",
    "finish",
    "folders",
    "go",
    "hardware",
    "largest_gap",
    "measure",
    "names",
    "paper_steps",
    "published",
    "remaining",
    "reopen",
    "result",
    "result_name",
    "settings_applied",
    "settings_of",
    "start",
    "store",
    "stored",
    "stream_file",
    "table",
    "validation_metrics",
]
