r"""Meta-experience replay (Riemer et al., 2019, arXiv:1810.11910, algorithm 1).

To learn an example without harm to others, the gradients of both should agree. Reptile favours
that: it moves only part of the way that a few steps on single examples lead. For every example
of a stream, s times, SGD goes through a batch of it and a sample of the memory, one example at
a time, from θ to W. After each batch the first update follows; after all s, with A the
parameters before them, the second:

$$\theta \leftarrow \theta + \beta \, (W - \theta), \qquad
  \theta \leftarrow A + \gamma \, (\theta - A)$$

Differs from the paper: as in the authors' code, the example itself comes first in each of its
batches, beside `replay_batch_size` examples of the memory (a reservoir).
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.core.tree import tree_map
from quickstudy.learners.lifelong.net_learner import ReplayLearner
from quickstudy.learners.lifelong.replay_buffer import (
    Buffer,
    empty_buffer,
    mask_if_empty,
    minibatches,
    reservoir,
    sample,
    sgd_step,
)


class MERState(NamedTuple):
    """Parameters, and a memory of the past.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.MER(torch.nn.Linear(2, 2), n_batches=1).adapt(support)
        >>> list(state.params), state.buffer.seen
        (['weight', 'bias'], tensor(2))
    """

    params: Params
    buffer: Buffer[Examples]


class MER(ReplayLearner[MERState]):
    """A net that learns a stream, an example at a time, by Reptile on it and on its past.

    An example costs `n_batches * (1 + replay_batch_size)` steps. The defaults are those
    published for rotated digits and a memory of 200.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: of SGD.
        beta: β, within a batch.
        gamma: γ, across the batches of an example.
        n_batches: s.
        replay_batch_size: examples of the memory in a batch.
        memory_size: places of the memory.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.MER(torch.nn.Linear(4, 4), lr=1.0, beta=0.5)
        >>> state = learner.adapt(examples)
        >>> learner.predict(state, examples.x).argmax(-1), state.buffer.seen
        (tensor([0, 1, 2, 3]), tensor(4))
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        beta: float = 0.01,
        gamma: float = 1.0,
        n_batches: int = 5,
        replay_batch_size: int = 10,
        memory_size: int = 200,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(
            net,
            lr=lr,
            batch_size=1,
            replay_batch_size=replay_batch_size,
            memory_size=memory_size,
            adapt_parameters=adapt_parameters,
            criterion=criterion,
        )
        self.beta, self.gamma, self.n_batches = beta, gamma, n_batches

    def adapt(self, support: Examples, state: MERState | None = None) -> MERState:
        """Return the parameters after an experience, and the memory with its examples."""
        params, buffer = state or MERState(
            self.initial_params(), empty_buffer(support, self.memory_size)
        )
        for new in minibatches(support, 1):
            before_batches = params
            for number in range(1, self.n_batches + 1):
                before_batch = params
                old = sample(buffer, self.replay_batch_size, salt=number)
                for example in minibatches(Examples.cat(new, mask_if_empty(old, new)), 1):
                    params = sgd_step(partial(self.batch_loss, example), params, self.lr)
                params = interpolate(before_batch, params, self.beta)
            params = interpolate(before_batches, params, self.gamma)
            buffer = reservoir(buffer, new)
        return MERState(params, buffer)


def interpolate(start: Params, end: Params, weight: float) -> Params:
    """Return `start + weight * (end - start)`: Reptile's update.

    Examples:
        >>> import torch
        >>> interpolate({"a": torch.tensor(1.0)}, {"a": torch.tensor(3.0)}, 0.25)
        {'a': tensor(1.5000)}
    """
    return tree_map(lambda a, b: torch.lerp(a, b, weight), start, end)
