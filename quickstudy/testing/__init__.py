"""Test suites for what you write yourself: learners and task distributions.

One file per abstraction. It has a tuple of checks and a `check_...` that runs them all. A check
is a function that raises an AssertionError of one sentence; its docstring names the remedy.
"""

from quickstudy.testing.learners import CHECKS, Blobs, Case, Lines, Trait, check_learner
from quickstudy.testing.tasks import TASK_CHECKS, TaskCase, TaskTrait, check_tasks

__all__ = [
    "CHECKS",
    "TASK_CHECKS",
    "Blobs",
    "Case",
    "Lines",
    "TaskCase",
    "TaskTrait",
    "Trait",
    "check_learner",
    "check_tasks",
]
