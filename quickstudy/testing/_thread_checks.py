"""The checks of `check_learner` that run a learner in several threads at once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.threads import seeded
from quickstudy.core.tree import leaves, unstack
from quickstudy.evaluation.protocol import evaluating
from quickstudy.testing._checks import require

THREADS = 4
REPEATS = 3  # of each task in each thread


def threads_change_nothing(case: Any) -> None:
    """Threads that evaluate one learner, left in training mode, predict what one thread does,
    and leave parameters, buffers and modes as they were. Write nothing to `self`, to a module
    or to a buffer in `adapt` and `predict`, and keep no state in a global variable."""
    learner = case.exact().train()
    modes = [module.training for module in learner.modules()]
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    tasks = unstack(case.batch(THREADS))

    def predictions(task: Any, seed: int | None = 0) -> list[Tensor]:
        alone = nullcontext() if seed is None else seeded(seed)
        with evaluating(learner) as copy, alone:
            return leaves(copy.predict(copy.adapt(task.support), task.query.x))

    def repeated(task: Any) -> list[list[Tensor]]:
        return [predictions(task, seed) for _ in range(REPEATS)]

    expected = [predictions(task) for task in tasks]
    with evaluating(learner), seeded(0):
        random = torch.get_rng_state()
        predictions(tasks[0], seed=None)
        # a learner that draws random numbers has the threads wait for each other
        seed = None if torch.get_rng_state().equal(random) else 0
    with ThreadPoolExecutor(THREADS) as pool:
        for right, answers in zip(expected, pool.map(repeated, tasks), strict=True):
            pairs = [pair for answer in answers for pair in zip(answer, right, strict=True)]
            require(
                all(
                    torch.allclose(a, b, rtol=1e-7, atol=1e-9, equal_nan=True) for a, b in pairs
                ),
                f"a thread beside {THREADS - 1} others predicts otherwise than alone",
            )
    changed = [name for name, x in learner.state_dict().items() if not x.equal(before[name])]
    require(not changed, f"{', '.join(changed)} changed")
    require([m.training for m in learner.modules()] == modes, "a module's mode changed")
