r"""GDumb: a greedy sampler and a dumb learner (Prabhu, Torr & Dokania, 2020, ECCV, "GDumb: a
simple approach that questions our progress in continual learning").

A memory of M places is filled with what comes. An example of class c enters if

$$|M_c| < M / |Y|$$

where Y are the classes seen so far. If no place is empty, it replaces a random example of the
largest class. To predict, a net is trained from its initial weights on the memory alone. (So a
memory that is full and balanced takes new classes only, however the old ones change.)

Differs from the paper: the learning rate falls by one cosine, without restarts; no CutMix, no
weight decay, no early stopping. The net is trained anew after every experience, since a
prediction may be needed then. No training builds on another.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import HasMemorySize
from quickstudy.core.counter_rng import uniform
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Examples
from quickstudy.learners.lifelong.net_learner import NetLearner
from quickstudy.learners.lifelong.replay_buffer import (
    empty_buffer,
    sgd_step,
    shuffled_minibatches,
)

EMPTY_FIRST = 2.0  # the priority of the first empty place, above all uniform numbers


class BalancedMemory(NamedTuple):
    """A sample of a stream with equally many examples of every class, as far as possible.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> learner = qs.GDumb(torch.nn.Linear(2, 2), memory_size=4, epochs=1)
        >>> learner.adapt(support).memory.offered
        tensor([1, 1])
    """

    examples: Examples  # (M, ...)  weight 0: an empty place
    offered: Tensor  # (C,)  int64: the number of examples of each class so far


class GDumbState(NamedTuple):
    """Parameters, and the memory they were trained on.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.GDumb(torch.nn.Linear(2, 2), memory_size=4, epochs=1).adapt(support)
        >>> list(state.params), state.memory.examples.weight
        (['weight', 'bias'], tensor([1., 1., 0., 0.]))
    """

    params: Params
    memory: BalancedMemory


class GDumb(NetLearner[GDumbState], HasMemorySize):
    """A net trained from its initial weights on a balanced memory of a stream of classes.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the learning rate of the first step.
        last: the learning rate at the end of the cosine.
        batch_size: examples of a step.
        memory_size: M.
        epochs: passes over the memory, each in an order of its own.
        adapt_parameters: which parameters are learned; see `select_parameters`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> y = torch.eye(2)[[0, 0, 0, 0, 0, 1, 1]]
        >>> learner = qs.GDumb(torch.nn.Linear(2, 2), memory_size=4, epochs=1)
        >>> state = learner.adapt(qs.Examples(y, y, torch.ones(7)))
        >>> state.memory.examples.y.sum(0), state.memory.offered
        (tensor([2., 2.]), tensor([5, 2]))
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.05,
        last: float = 0.0005,
        batch_size: int = 16,
        memory_size: int = 200,
        epochs: int = 30,
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
        self.last, self.memory_size = last, memory_size

    def adapt(self, support: Examples, state: GDumbState | None = None) -> GDumbState:
        """Return the memory of all experiences, and the parameters after training on it."""
        memory = empty_memory(support, self.memory_size) if state is None else state.memory
        memory = greedy(memory, support)
        params = self.initial_params()
        steps = self.epochs * math.ceil(self.memory_size / self.batch_size)
        batches = shuffled_minibatches(memory.examples, self.batch_size, self.epochs)
        for step, batch in enumerate(batches):
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            lr = self.last + (self.lr - self.last) * cosine
            params = sgd_step(partial(self.batch_loss, batch), params, lr)
        return GDumbState(params, memory)


def empty_memory(like: Examples, memory_size: int) -> BalancedMemory:
    """Return a memory with M = `memory_size` empty places for examples of these shapes.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> examples = Examples(torch.ones(1, 5), torch.ones(1, 3), torch.ones(1))
        >>> memory = empty_memory(examples, 4)
        >>> memory.examples.x.shape, memory.offered
        (torch.Size([4, 5]), tensor([0, 0, 0]))
    """
    offered = like.y.new_zeros(like.y.shape[-1], dtype=torch.int64)
    return BalancedMemory(empty_buffer(like, memory_size).examples, offered)


def greedy(memory: BalancedMemory, new: Examples) -> BalancedMemory:
    """Offer labelled examples to the memory, in order (algorithm 1).

    As a loop over lists: an example is rejected if its class has its share of the places. It
    takes the first empty place, or else that of the largest class with the greatest random
    number.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> y = torch.eye(3)[[0, 0, 0, 1, 2]]
        >>> examples = Examples(y, y, torch.ones(5))
        >>> greedy(empty_memory(examples, 3), examples).examples.y.sum(0)
        tensor([1., 1., 1.])
    """
    stored, offered = memory
    memory_size, device = len(stored.weight), stored.weight.device
    classes, places = (torch.arange(n, device=device) for n in (len(offered), memory_size))
    labels = torch.where(stored.weight > 0, stored.y.argmax(-1), -1)  # (M,)  -1: empty
    source = places  # (M,)  the index among stored and new examples that is in each place
    for number, (label, weight) in enumerate(zip(new.y.argmax(-1), new.weight, strict=True)):
        one_hot = classes == label
        offered = offered + (one_hot & (weight > 0))
        counts = (labels[:, None] == classes).sum(0)  # (C,)
        share = memory_size / (offered > 0).sum()  # infinite before the first example
        wanted = (weight > 0) & ((counts * one_hot).sum() < share)
        # Priorities of 4 places with labels [0, -1, 1, -1], class 0 the largest:
        # [uniform, 2 - 1/4, -1, 2 - 3/4]; the first empty place has the highest.
        priority = uniform(offered.sum(), memory_size).masked_fill(
            labels != counts.argmax(), -1
        )
        place = torch.where(labels < 0, EMPTY_FIRST - places / memory_size, priority).argmax()
        taken = wanted & (places == place)
        labels = torch.where(taken, label, labels)
        source = torch.where(taken, memory_size + number, source)
    return BalancedMemory(Examples.cat(stored, new).take(source), offered)
