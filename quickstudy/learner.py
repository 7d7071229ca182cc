"""The base class of all learners."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Generic, TypeVar, final

from torch import Tensor, nn

from quickstudy.capabilities import LendsParameters
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.execution.batching import Execution
from quickstudy.execution.losses import losses_over_tasks

State = TypeVar("State")


class Learner(nn.Module, ABC, Generic[State]):
    """A learning algorithm, itself learned.

    Meta-training learns its parameters. Its methods are functions of one task: they read the
    parameters, change nothing, and return what they learned as a state. `forward` turns `loss`
    into a function of a batch of tasks.

    `State` is any nest of tuples and dictionaries of tensors. Four attributes set how a batch
    is executed, and change no result: `execution` ("vmap" or "loop"), `chunk` (how many tasks
    are in memory at once, with all that their gradient needs; None: all), `threads` (of a CPU,
    which share the tasks of a batch; dropout and the like then draw in no fixed order) and
    `intra_op` (the cores that each operation of `train` uses; more than one suits a step of one
    large task on an idle machine). `quickstudy.plan` measures which is fastest, and which fits.

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
        >>> import torch
        >>> class Mean(Learner[Tensor]):
        ...     def adapt(self, support, state=None):
        ...         return support.y.mean(0)
        ...
        ...     def predict(self, state, x):
        ...         return state.expand(len(x), -1)
        >>> learner = Mean()
        >>> support = torch.tensor([[1.0], [3.0]])
        >>> from quickstudy.core.task import Examples
        >>> learner.predict(learner.adapt(Examples(support, support, support[:, 0])), support)
        tensor([[2.],
                [2.]])
    """

    execution: Execution = "vmap"
    chunk: int | None = None
    threads: int = 1
    intra_op: int = 1
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
        an attribute `classifies` that is true. A learner may override it.
        """
        criterion = self.criterion
        while isinstance(criterion, partial):
            criterion = criterion.func
        return criterion is cross_entropy or getattr(criterion, "classifies", False)

    @abstractmethod
    def adapt(self, support: Any, state: State | None = None) -> State:
        """Return the state after `support`, starting from `state` (None: from nothing)."""

    @abstractmethod
    def predict(self, state: State, x: Tensor) -> Any:
        """Predict for inputs `x` (Q, *features): logits (Q, C), or what `criterion` takes."""

    def loss(self, task: Task[Any]) -> Tensor:
        """Return the scalar whose gradient improves the parameters."""
        return self.criterion(self.predict(self.adapt(task.support), task.query.x), task.query)

    def set_step(self, done: int) -> None:
        """Set what changes in the course of training to its value after `done` meta-steps.

        `train` calls this before every step, so that a resumed run has the same values. By
        default nothing changes. Nothing that `predict` depends on may change.
        """

    def after_step(self) -> None:
        """Update running averages of parameters, such as target networks.

        `train` calls this after every optimizer step. By default nothing changes.
        """

    @final
    def forward(self, tasks: TaskBatch) -> Tensor:
        """Return the loss of every task (T,). DDP, FSDP and compile wrap this."""
        return losses_over_tasks(self, tasks)


class ParameterLearner(Learner[State], LendsParameters):
    """The base of learners whose state is the parameters of one net, or has them as `params`.

    Abstract: a subclass defines `adapt`.

    Args:
        net: any module of one input.
        adapt_parameters: which parameters are adapted; see `select_parameters`.

    Raises:
        ValueError: no parameter is left to adapt.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.FineTuning(torch.nn.Linear(4, 3))
        >>> isinstance(learner, ParameterLearner)
        True
        >>> {name: tuple(p.shape) for name, p in learner.initial_params().items()}
        {'weight': (3, 4), 'bias': (3,)}
    """

    def __init__(
        self,
        net: nn.Module,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.adapt_parameters = net, adapt_parameters
        select_parameters(net, adapt_parameters)  # raises if there are none

    def initial_params(self) -> Params:
        """Return the parameters before adaptation, by name: those that are not frozen now."""
        return select_parameters(self.net, self.adapt_parameters)

    def lent_parameters(self) -> tuple[nn.Module, Params]:
        """Return the net and the parameters that adaptation changes."""
        return self.net, self.initial_params()

    def logits(self, params: Params, x: Tensor) -> Tensor:
        """Return the outputs of the net with these parameters."""
        return functional_call(self.net, params, (x,))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        """Return the outputs of the adapted net for `x`."""
        return self.logits(state if isinstance(state, dict) else state.params, x)

    def batch_loss(self, examples: Examples, params: Params) -> Tensor:
        """Return the criterion of the net with these parameters."""
        return self.criterion(self.logits(params, examples.x), examples)
