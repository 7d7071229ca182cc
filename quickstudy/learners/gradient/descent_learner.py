"""What learners share whose adaptation changes the parameters of one net by descent."""

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import DescendsInSteps, HasInitialParams, TakesDenseTargets
from quickstudy.core.criteria import Criterion
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.learner import Learner


class DescentLearner(Learner[Params], DescendsInSteps, HasInitialParams, TakesDenseTargets):
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
        super().__init__(criterion)
        self.net, self.steps = net, steps
        self.names = frozenset(select_parameters(net, adapt_parameters))

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """Return the outputs of the adapted network for `x`."""
        return functional_call(self.net, state, (x,))

    def initial_params(self) -> Params:
        """Return the parameters that adaptation changes, by name."""
        return {name: p for name, p in self.net.named_parameters() if name in self.names}

    def batch_loss(self, examples: Examples, params: Params) -> Tensor:
        """Return the criterion of the net with these parameters."""
        return self.criterion(self.predict(params, examples.x), examples)
