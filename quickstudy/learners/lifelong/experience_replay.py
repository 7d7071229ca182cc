r"""Experience replay (Ratcliff, 1990; Chaudhry et al., 2019, arXiv:1902.10486).

Each step learns a mini-batch B of a stream together with as many examples R of the past. These
are drawn from a memory that holds a random sample of it (Vitter's reservoir):

$$\theta \leftarrow \theta - \alpha \nabla_\theta L(\theta; B \cup R)$$

Differs from the paper: nothing. Examples are learned in the order in which they come, so that a
stream may be cut anywhere. All epochs have the same order.
"""

from functools import partial
from typing import NamedTuple

from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import ReplayLearner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    mask_if_empty,
    reservoir,
    salted_minibatches,
    sample,
    sgd_step,
)


class ExperienceReplayState(NamedTuple):
    """Parameters, and a memory of the past.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.ExperienceReplay(torch.nn.Linear(2, 2)).adapt(support)
        >>> list(state.params), state.buffer.seen
        (['weight', 'bias'], tensor(2))
    """

    params: Params
    buffer: Buffer[Examples]


class ExperienceReplay(ReplayLearner[ExperienceReplayState]):
    """A net that learns a stream and rehearses its past.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: α.
        batch_size: examples in B.
        replay_batch_size: examples in R; None: as many as in B.
        memory_size: M, places of the memory.
        epochs: passes over each experience; the first stores the examples.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.ExperienceReplay(torch.nn.Linear(4, 4), lr=1.0, epochs=20)
        >>> state = None
        >>> for experience in (slice(2), slice(2, 4)):
        ...     state = learner.adapt(examples.take(experience), state)
        >>> learner.predict(state, examples.x).argmax(-1)
        tensor([0, 1, 2, 3])
        >>> state.buffer.seen
        tensor(4)
    """

    def adapt(
        self, support: Examples, state: ExperienceReplayState | None = None
    ) -> ExperienceReplayState:
        """Return the parameters after an experience, and the memory with its examples."""
        params, buffer = state or ExperienceReplayState(
            self.initial_params(), empty_buffer(support, self.memory_size)
        )
        for new, salt in salted_minibatches(support, self.batch_size, self.epochs):
            old = sample(buffer, self.replay_batch_size, salt=salt)
            both = Examples.cat(new, mask_if_empty(old, new))
            params = sgd_step(partial(self.batch_loss, both), params, self.lr)
            if salt == 1:
                buffer = reservoir(buffer, new)
        return ExperienceReplayState(params, buffer)
