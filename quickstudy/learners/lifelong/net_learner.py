"""The base of learners that change the parameters of one net by descent over mini-batches."""

from torch import nn

from quickstudy.capabilities import HasMemorySize, TakesDenseTargets
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection
from quickstudy.learner import ParameterLearner, State


class NetLearner(ParameterLearner[State]):
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
        super().__init__(net, adapt_parameters, criterion)
        self.lr, self.batch_size, self.epochs = lr, batch_size, epochs


class ReplayLearner(NetLearner[State], HasMemorySize, TakesDenseTargets):
    """A net that learns a stream and keeps a sample of its past as `buffer` of its state.

    Abstract: a subclass defines `adapt`.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the learning rate.
        batch_size: examples of a mini-batch.
        replay_batch_size: examples of a sample of the memory; None: as many as in a mini-batch.
        memory_size: places of the memory.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.ExperienceReplay(torch.nn.Linear(4, 3), batch_size=5)
        >>> isinstance(learner, ReplayLearner), learner.replay_batch_size
        (True, 5)
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch_size: int = 10,
        replay_batch_size: int | None = None,
        memory_size: int = 200,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.replay_batch_size = batch_size if replay_batch_size is None else replay_batch_size
        self.memory_size = memory_size
