"""Meta-training as a generator: the caller owns the loop."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from quickstudy.core.task import TaskBatch, TaskDistribution, batches, seeds
from quickstudy.core.tree import tree_map
from quickstudy.core.workers import on_cores
from quickstudy.execution.choosing import choose
from quickstudy.execution.errors import fitting
from quickstudy.execution.options import intra_op_of
from quickstudy.learner import Learner
from quickstudy.training.multi_epoch import MultiEpoch


class Step(NamedTuple):
    """The result of one step of meta-training.

    Examples:
        >>> Step(1, torch.tensor([0.5, 1.5])).loss.mean()
        tensor(1.)
    """

    number: int  # counts from 1
    loss: Tensor  # (T,)  the loss of every task of the batch, before the first step on it


def train(
    learner: nn.Module,
    tasks: TaskDistribution,
    optimizer: Optimizer,
    *,
    steps: int,
    meta_batch_size: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
    clip: float | None = None,
    precision: torch.dtype | None = None,
    device: torch.device | str | None = None,
    execution: Literal["auto"] | None = None,
) -> Iterator[Step]:
    """Yield after every step of meta-training.

    Log, evaluate, schedule, save and stop in the `for` that drives this. Tasks and torch's
    global random state are functions of (seed, rank, step), and schedules of learners
    (`set_step`) are functions of the step. So a run that stopped after step n continues, to the
    bit, with `start=n`. After each optimizer step, `Learner.after_step` updates running
    averages of parameters, which checkpoints hold.

    Args:
        learner: a `Learner`, or one inside DDP, FSDP or `torch.compile`.
        meta_batch_size: tasks in a step (per process).
        clip: largest norm of the meta-gradient.
        precision: a dtype, such as `torch.bfloat16`, to autocast the forward pass to. PyTorch
            then leaves linear layers and convolutions as they are that run under `vmap` and no
            inner gradient (pytorch/pytorch#105442); with `execution="loop"` it casts them too.
        device: where tasks are sent (None: where the learner is).
        execution: "auto" times ways to execute the learner first, sets the fastest, and prints
            a line about it (`quickstudy.execution.choose`). None: by the learner's attributes.

    On a CPU, a worker computes the steps, and each of its operations uses one core (or
    `learner.intra_op`), so that a busy neighbour does not hold them up. `learner.threads`
    spreads tasks over cores.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(nn.Linear(8, 2))
        >>> optimizer = torch.optim.Adam(learner.parameters())
        >>> [s.number for s in train(learner, Blobs(), optimizer, steps=2, meta_batch_size=4)]
        [1, 2]
    """
    where = torch.device(device) if device is not None else next(learner.parameters()).device
    stream = batches(tasks, meta_batch_size, steps=steps, start=start, seed=seed, rank=rank)
    parts = (
        min(optimizer.minibatches, meta_batch_size) if isinstance(optimizer, MultiEpoch) else 1
    )
    learners = [module for module in learner.modules() if isinstance(module, Learner)]

    def draw() -> TaskBatch:
        return tree_map(lambda leaf: leaf.to(where, non_blocking=True), next(stream))

    def take_step(number: int, batch: TaskBatch | None) -> Step:
        batch = draw() if batch is None else batch
        for module in learners:
            module.set_step(number - 1)
        _, noise = seeds(seed, rank, number)
        seen: list[Tensor] = []

        def closure() -> Tensor:
            torch.manual_seed(noise)  # again if the optimizer calls again
            turn = len(seen) % parts
            part = tree_map(lambda leaf: leaf.tensor_split(parts)[turn], batch)
            optimizer.zero_grad()
            with torch.autocast(where.type, precision) if precision else nullcontext():
                losses = learner(part)
            loss = losses.mean()
            with fitting(learner, part):
                loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(learner.parameters(), clip)
            seen.append(losses.detach())
            return loss

        optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for module in learners:
            module.after_step()
        return Step(number, torch.cat(seen[:parts]))

    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    in_worker = where.type == "cpu" and not distributed
    first: TaskBatch | None = None
    if execution == "auto" and start < steps:
        first = on_cores(draw) if in_worker else draw()
        choose(learner, first, steps - start, precision)
    intra_op = intra_op_of(learner)
    for number in range(start + 1, steps + 1):
        step = partial(take_step, number, first if number == start + 1 else None)
        yield on_cores(step, intra_op) if in_worker else step()
