"""Heads that are solved: all tasks of a batch at once, against one task after the other.

64 tasks of 5 ways with 6 queries of each, as MetaOptNet trains, whose embeddings are random
clouds in D dimensions. A learner (R2-D2, LR-D2, MetaOptNet) that embeds nothing fits its head
to each support set and has its loss on the queries; backward is, after that, the gradient with
respect to all embeddings. The rival is a Python loop over the tasks with the same head. There
are also loops, forward only, with scikit-learn's solver of the same problem and, for the
support vector machine, with a general one (SciPy's SLSQP on the dual), whose times on a few
tasks are scaled to all. One thread. Ways take turns, medians of the turns, of CPU time, which
other work on the machine disturbs least.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import LinearConstraint, minimize
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from benchmarks.common import write
from quickstudy import LRD2, R2D2, Examples, Learner, MetaOptNet, Task
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import unstack
from quickstudy.execution.batching import Execution
from quickstudy.learners.heads.r2d2 import FittedHead
from quickstudy.testing.learners import Blobs

TASKS, WAYS, QUERIES = 64, 5, 6
HOWS: tuple[Execution, ...] = ("vmap", "loop")
LEARNERS: dict[str, Learner[FittedHead]] = {
    "R2-D2": R2D2(nn.Identity()),
    "LR-D2": LRD2(nn.Identity()),
    "MetaOptNet": MetaOptNet(nn.Identity()),
}


def by_scikit_learn(name: str, support: Examples) -> np.ndarray:
    x, y = support.x.numpy(), support.y.numpy()
    if name == "R2-D2":
        return Ridge(50.0, fit_intercept=False).fit(x, y).coef_
    if name == "LR-D2":
        solver = LogisticRegression(C=1 / 50, fit_intercept=False)
        return np.concatenate([solver.fit(x, column).coef_ for column in y.T])
    solver = LinearSVC(C=0.1, multi_class="crammer_singer", fit_intercept=False)
    return solver.fit(x, y.argmax(1)).coef_


def by_slsqp(support: Examples) -> np.ndarray:
    """The dual of MetaOptNet's problem (its eq. 8), without using its structure."""
    x, y = support.x.double().numpy(), support.y.double().numpy()
    gram, sums = x @ x.T, np.kron(np.eye(len(y)), np.ones(y.shape[1]))

    def dual(alpha: np.ndarray) -> tuple[Any, np.ndarray]:
        scores = gram @ alpha.reshape(y.shape)
        value = alpha @ scores.ravel() / 2 - alpha @ y.ravel()
        return value, (scores - y).ravel()

    found = minimize(
        dual,
        np.zeros(y.size),
        jac=True,
        method="SLSQP",
        bounds=[(None, upper) for upper in 0.1 * y.ravel()],
        constraints=LinearConstraint(sums, 0, 0),
    )
    return found.x.reshape(y.shape).T @ x


def forward(learner: Learner[FittedHead], batch: TaskBatch, execution: Execution) -> Tensor:
    learner.execution = execution
    with torch.no_grad():
        return learner(batch)


def backward(learner: Learner[FittedHead], batch: TaskBatch, execution: Execution) -> Tensor:
    learner.execution = execution
    inputs = Task(*(part._replace(x=part.x.detach().requires_grad_()) for part in batch))
    losses = learner(inputs)
    return torch.cat(torch.autograd.grad(losses.sum(), [part.x for part in inputs]), 1)


def milliseconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return 1000 * (time.process_time() - begun)


def medians(ways: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    for work in ways.values():
        work()
    spent = [{name: milliseconds(work) for name, work in ways.items()} for _ in range(turns)]
    return {name: statistics.median(turn[name] for turn in spent) for name in ways}


def others(name: str, support: Examples) -> dict[str, float]:
    """Milliseconds of solvers that are no part of torch, for as many tasks as `support` has."""
    tasks, few = unstack(support), 8

    def scikit_learn() -> None:
        for task in tasks[:few]:
            by_scikit_learn(name, task)

    found = {"scikit-learn, ms": medians({"": scikit_learn}, 5)[""] * len(tasks) / few}
    if name == "MetaOptNet":
        found["SLSQP, ms"] = milliseconds(partial(by_slsqp, tasks[0])) * len(tasks)
    return {key: round(value) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, apart = [], 0.0
    for (name, learner), shots, width in product(LEARNERS.items(), (1, 5), (64, 640)):
        drawn = Blobs(ways=WAYS, shots=shots, queries=QUERIES, shape=(width,))
        batch = drawn.sample(TASKS, torch.Generator().manual_seed(0))
        row: dict[str, Any] = {"head": name, "shots": shots, "D": width}
        for suffix, work in {"": forward, " and backward": backward}.items():
            ways = {execution: partial(work, learner, batch, execution) for execution in HOWS}
            a, b = (way() for way in ways.values())
            apart = max(apart, ((a - b).norm() / b.norm()).item())
            ms = medians(ways, options.turns)
            row |= {f"forward{suffix}, ms": round(ms["vmap"], 1)}
            row |= {f"loop{suffix}, ms": round(ms["loop"], 1)}
            row |= {f"x loop{suffix}": round(ms["loop"] / ms["vmap"], 1)}
        rows.append({**row, "SLSQP, ms": "", **others(name, batch.support)})
    title = f"losses of {TASKS} {WAYS}-way tasks by heads that are solved, one thread"
    off = {"largest relative difference of vmap and loop": apart}
    write("heads", title, rows, options.out, **off)


if __name__ == "__main__":
    main()
