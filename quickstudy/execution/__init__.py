"""How a function of one task is executed over a batch of tasks.

`batching` turns the function into one of a batch, `losses` computes a learner's losses by it,
and `chunked` does so in parts that fit into memory (`ram`). `planning` measures the `options`,
with `fit_memory` for limits, and `choosing` those of a training that begins; `one_graph` is
what is compiled. `diagnosis` lists what matters in a net, `errors` has remedies. Nothing here
may change a result: the conformance suite compares every option with the loop.
"""

from quickstudy.execution.batching import over_tasks
from quickstudy.execution.choosing import choose
from quickstudy.execution.diagnosis import diagnose
from quickstudy.execution.options import ExecutionOption, compile_learner
from quickstudy.execution.planning import Plan, plan

__all__ = [
    "ExecutionOption",
    "Plan",
    "choose",
    "compile_learner",
    "diagnose",
    "over_tasks",
    "plan",
]
