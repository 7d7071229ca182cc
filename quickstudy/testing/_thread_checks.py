"""The checks of `check_learner` that run a learner in several threads at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.tree import leaves, unstack
from quickstudy.evaluation.protocol import evaluating
from quickstudy.testing._checks import require

THREADS = 4
REPEATS = 5  # of each task in each thread


def threads_change_nothing(case: Any) -> None:
    """Threads that evaluate one learner, left in training mode, predict what one thread does,
    and leave parameters, buffers and modes as they were. Write nothing to `self`, to a module
    or to a buffer in `adapt` and `predict`, and keep no state in a global variable."""
    learner = case.exact().train()
    modes = [module.training for module in learner.modules()]
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    tasks = unstack(case.batch(THREADS))

    def predictions(task: Any) -> list[Tensor]:
        with evaluating(learner) as copy:
            return leaves(copy.predict(copy.adapt(task.support), task.query.x))

    expected = [predictions(task) for task in tasks]
    for number, answers in enumerate(_in_threads(predictions, tasks)):
        pairs = [zip(answer, expected[number], strict=True) for answer in answers]
        require(
            all(torch.allclose(a, b, rtol=1e-7, atol=1e-9) for pair in pairs for a, b in pair),
            f"a thread beside {THREADS - 1} others predicts otherwise than alone",
        )
    changed = [name for name, x in learner.state_dict().items() if not x.equal(before[name])]
    require(not changed, f"{', '.join(changed)} changed")
    require([m.training for m in learner.modules()] == modes, "a module's mode changed")


def _in_threads(fn: Callable[[Any], Any], arguments: list[Any]) -> list[list[Any]]:
    """Return the results of repeated calls, each argument in a thread of its own."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(
            pool.map(lambda argument: [fn(argument) for _ in range(REPEATS)], arguments)
        )
