"""The one abstraction: a learner."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Generic, TypeVar, final

from torch import Tensor, nn

from quickstudy.core.functional import Criterion, cross_entropy
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

    Four attributes declare facts about a learner:

    - `transductive`: predictions depend on the other queries by design. Dependence caused by
      batch statistics need not be declared; `evaluate` measures it.
    - `outputs`: the number of columns of every prediction. None: as many as the support set's
      `y` has, or as many as the criterion finds in the predictions.
    - `class_axes`: the axis of classes of the state's tensors, by name, such as
      `{"prototypes.sums": 0}`. Zeros there stand for a class without examples, so estimators
      can add classes to a state. None: the number of classes is fixed.
    - `independent_classes`: an example changes the state along `class_axes` for its own class
      only, so `LifelongClassifier` updates that class alone. All those axes must be the first.

    Capabilities beyond `adapt` and `predict` are declared by the base classes in
    `quickstudy.capabilities`.

    Examples:
        >>> import quickstudy as qs
        >>> qs.PrototypicalNetwork.class_axes
        {'sums': 0, 'sizes': 0}
        >>> qs.TIM.transductive
        True
    """

    execution: Execution = "vmap"
    chunk: int | None = None
    threads: int = 1
    transductive: bool = False
    outputs: int | None = None
    class_axes: Mapping[str, int] | None = None
    independent_classes: bool = False

    def __init__(self, criterion: Criterion = cross_entropy):
        super().__init__()
        self.criterion = criterion

    @property
    def classifies(self) -> bool:
        """Whether predictions are logits of classes, so that `evaluate` reports accuracy.

        True if the criterion is `cross_entropy`, `partial` arguments aside, or a function with
        an attribute `classifies` that is true. Override it by `classifies = True`.
        """
        criterion = self.criterion
        while isinstance(criterion, partial):
            criterion = criterion.func
        return criterion is cross_entropy or getattr(criterion, "classifies", False)

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
