"""How a function of one task is executed over a batch of tasks."""

from quickstudy.execution.batching import over_tasks
from quickstudy.execution.planning import ExecutionOption, Plan, diagnose, plan

__all__ = ["ExecutionOption", "Plan", "diagnose", "over_tasks", "plan"]
