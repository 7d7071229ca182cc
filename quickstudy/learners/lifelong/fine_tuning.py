r"""Fine-tuning: plain descent on what comes, the learner that forgets.

$$\theta \leftarrow \theta - \alpha \nabla_\theta L(\theta; B)$$

for one mini-batch B of a stream after another (McCloskey & Cohen, 1989, saw it forget). It is
what every learner of streams must beat; `Joint`, the other end, keeps all the examples and at
each experience begins anew with all of them.

Differs from the literature: nothing. Examples are learned in the order in which they come, in
every epoch the same.
"""

from functools import partial

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd


class FineTuning(Learner[Params]):
    """Stochastic gradient descent over a stream; the state is the weights.

    Meta-trained, by a loss that asks for the past, it learns a start that forgets less.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch: examples in B.
        epochs: how often each experience is gone through.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        batch: int = 10,
        epochs: int = 1,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.batch, self.epochs = net, lr, batch, epochs
        self.adapt_parameters = adapt_parameters

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """The weights after an experience."""
        params = select_parameters(self.net, self.adapt_parameters) if state is None else state
        for _ in range(self.epochs):
            for new in minibatches(support, self.batch):
                params = sgd(partial(self.cost, new), params, self.lr)
        return params

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)
