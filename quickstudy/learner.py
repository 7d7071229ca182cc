"""The one abstraction: a learner."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, final

from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.task import Task, TaskBatch
from quickstudy.execution.batching import Execution
from quickstudy.execution.losses import losses_over_tasks
from quickstudy.nets.exact_norm import make_exact

State = TypeVar("State")


class Learner(nn.Module, ABC, Generic[State]):
    """A learning algorithm, itself learned.

    Its parameters are what meta-training learns. Its methods are functions of one task:
    they read the parameters, change nothing, and keep what they learned in the state
    they return. `forward` turns `loss` into a function of a batch of tasks.

    `State` is any nest of tuples and dictionaries of tensors. How a batch is executed is
    said by three attributes, which change no result: `execution` ("vmap" or "loop"), `chunk`
    (how many tasks are in memory at once, with all that their gradient needs; None: all) and
    `threads` (of a CPU, that share the tasks of a batch among them; dropout and the like then
    draw in no fixed order).
    `quickstudy.plan` measures which is fastest, and which fits.

    `transductive` says whether `predict` learns from its queries: a transductive learner, of
    which a query alone asks too much. (That of a net which normalises by the batch at hand is
    measured by `evaluate`.)
    """

    execution: Execution = "vmap"
    chunk: int | None = None
    threads: int = 1
    transductive: bool = False

    def __init__(self, criterion: Criterion = cross_entropy):
        super().__init__()
        self.criterion = criterion

    def __setattr__(self, name: str, value: Any) -> None:
        # PyTorch's own normalisation layers have wrong second derivatives under vmap
        if isinstance(value, nn.Module):
            make_exact(value)
        super().__setattr__(name, value)

    @abstractmethod
    def adapt(self, support: Any, state: State | None = None) -> State:
        """What is known after `support`, having known `state` before (None: nothing)."""

    @abstractmethod
    def predict(self, state: State, x: Tensor) -> Any:
        """What `state` says of inputs `x` (Q, *features): logits (Q, C), or what
        `criterion` takes."""

    def loss(self, task: Task[Any]) -> Tensor:
        """The scalar whose gradient improves the parameters."""
        return self.criterion(self.predict(self.adapt(task.support), task.query.x), task.query)

    def set_step(self, done: int) -> None:
        """Sets what changes in the course of training to what it is after `done` meta-steps.

        `train` calls this before every step, so that a run that goes on sees what it would
        have seen. By default nothing changes. What `predict` depends on must not.
        """

    @final
    def forward(self, tasks: TaskBatch) -> Tensor:
        """The loss of every task (T,). This is what DDP, FSDP and compile wrap."""
        return losses_over_tasks(self, tasks)
