"""What learners share whose adaptation changes the parameters of one net by descent."""

from torch import nn

from quickstudy.capabilities import DescendsInSteps, HasInitialParams, TakesDenseTargets
from quickstudy.core.criteria import Criterion
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.learner import ParameterLearner


class DescentLearner(
    ParameterLearner[Params], DescendsInSteps, HasInitialParams, TakesDenseTargets
):
    """The state of a task is the adapted parameters, by name.

    Args:
        net: any module of one input. Adaptation starts from its parameters.
        steps: number of inner steps.
        adapt_parameters: the parameters that adaptation changes; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 2), adapt_parameters=["head"])
        >>> isinstance(learner, DescentLearner), sorted(learner.initial_params())
        (True, ['head.bias', 'head.weight'])
    """

    def __init__(
        self,
        net: nn.Module,
        steps: int,
        adapt_parameters: ParameterSelection,
        criterion: Criterion,
    ):
        super().__init__(net, adapt_parameters, criterion)
        self.steps = steps
