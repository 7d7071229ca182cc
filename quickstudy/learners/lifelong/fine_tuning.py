r"""Fine-tuning: gradient descent on the newest data, which forgets the older.

$$\theta \leftarrow \theta - \alpha \nabla_\theta L(\theta; B)$$

for one mini-batch B of a stream after another (McCloskey & Cohen, 1989, observed how it
forgets). It is the lower bound for learners of streams. The upper bound is `Joint`, which keeps
all examples and trains anew on them after each experience.

Differs from the literature: nothing. Examples are learned in the order in which they come, the
same in every epoch.

See also: Avalanche calls this strategy `Naive`.
"""

from functools import partial

from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd_step


class FineTuning(NetLearner[Params], TakesDenseTargets):
    """Stochastic gradient descent over a stream; the state is the parameters.

    Meta-trained with a loss on the past, it learns initial parameters that forget less.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch_size: examples in B.
        epochs: passes over each experience.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> first = qs.Examples(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.ones(1))
        >>> second = qs.Examples(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.ones(1))
        >>> learner = qs.FineTuning(torch.nn.Linear(1, 2), lr=1.0, epochs=20)
        >>> state = learner.adapt(first)
        >>> learner.predict(state, first.x).argmax(-1)
        tensor([0])
        >>> learner.predict(learner.adapt(second, state), first.x).argmax(-1)
        tensor([1])
    """

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Return the parameters after an experience."""
        params = self.initial_params() if state is None else state
        for batch in list(minibatches(support, self.batch_size)) * self.epochs:
            params = sgd_step(partial(self.batch_loss, batch), params, self.lr)
        return params
