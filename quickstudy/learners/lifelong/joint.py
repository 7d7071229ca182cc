r"""Joint training: all of a stream at once, the upper bound for learners of streams.

It forgets nothing because it discards nothing: after each experience, descent restarts from the
initial parameters, on all examples so far in random order. Time and memory grow with the
stream, so this is a bound and no practical method.
"""

from functools import partial
from typing import NamedTuple

from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import append
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import sgd_step, shuffled_minibatches


class JointState(NamedTuple):
    """Parameters, and all examples they were trained on.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.Joint(torch.nn.Linear(2, 2)).adapt(support)
        >>> list(state.params), state.examples.x.shape
        (['weight', 'bias'], torch.Size([2, 2]))
    """

    params: Params
    examples: Examples


class Joint(NetLearner[JointState], TakesDenseTargets):
    """Descent from the initial parameters on all examples so far.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the learning rate.
        batch_size: examples of a step.
        epochs: passes over all examples, each in an order of its own.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.Joint(torch.nn.Linear(4, 4), lr=1.0, epochs=20)
        >>> state = None
        >>> for experience in (slice(2), slice(2, 4)):
        ...     state = learner.adapt(examples.take(experience), state)
        >>> learner.predict(state, examples.x).argmax(-1)
        tensor([0, 1, 2, 3])
    """

    def adapt(self, support: Examples, state: JointState | None = None) -> JointState:
        """Return all examples so far, and the parameters after training on them."""
        examples = append(state and state.examples, support)
        params = self.initial_params()
        for batch in shuffled_minibatches(examples, self.batch_size, self.epochs):
            params = sgd_step(partial(self.batch_loss, batch), params, self.lr)
        return JointState(params, examples)
