"""The base of learners that change the parameters of one net by descent over mini-batches."""

from typing import Any, TypeVar

from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Examples
from quickstudy.learner import Learner

State = TypeVar("State")


class NetLearner(Learner[State]):
    """A net that learns a stream; its state is its parameters, or has them as `params`.

    Abstract: a subclass defines `adapt`.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the learning rate.
        batch_size: examples of a mini-batch.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.FineTuning(torch.nn.Linear(4, 3))
        >>> isinstance(learner, NetLearner)
        True
        >>> {name: tuple(p.shape) for name, p in learner.initial_params().items()}
        {'weight': (3, 4), 'bias': (3,)}
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch_size: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.batch_size, self.epochs = net, lr, batch_size, epochs
        self.adapt_parameters = adapt_parameters

    def initial_params(self) -> Params:
        """Return the parameters before the first experience."""
        return select_parameters(self.net, self.adapt_parameters)

    def logits(self, params: Params, x: Tensor) -> Tensor:
        """Return the outputs (N, C) of the net with these parameters."""
        return functional_call(self.net, params, (x,))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        """Return logits (Q, C) of all classes."""
        return self.logits(state if isinstance(state, dict) else state.params, x)

    def batch_loss(self, examples: Examples, params: Params) -> Tensor:
        """Return the criterion of the net with these parameters."""
        return self.criterion(self.logits(params, examples.x), examples)
