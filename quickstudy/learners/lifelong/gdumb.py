r"""GDumb: a greedy sampler and a dumb learner (Prabhu, Torr & Dokania, 2020, ECCV, "GDumb: a
simple approach that questions our progress in continual learning").

A memory of M places is filled with what comes. An example of class c is taken if

$$|M_c| < M / |Y|$$

where Y are the classes seen so far; if no place is empty, it takes that of a random example of
the class that has most. To answer, a net is trained from its start on the memory alone. (So a
memory that is full and balanced takes nothing but new classes, however the old ones change.)

Differs from the paper: the rate falls by one cosine, without restarts; no CutMix, no weight
decay, no early stopping. The net is trained anew after every experience, since it may be asked
then; no training builds on another.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import HasMemorySize
from quickstudy.core.counter_rng import uniform
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
)
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches, sgd, shuffled, together


class Balanced(NamedTuple):
    """As many examples of every class as can be."""

    examples: Examples  # (M, ...)  weight 0: an empty place
    offered: Tensor  # (C,)  int64: how many of each class have come


class Greedy(NamedTuple):
    """A memory, and the weights it leads to."""

    params: Params
    memory: Balanced


class GDumb(Learner[Greedy], HasMemorySize):
    """A net trained from its start on a balanced memory of a stream of classes.

    Args:
        net: any module, (N, *features) -> (N, C).
        lr: the rate of the first step.
        last: to which it falls by a cosine.
        batch: examples of a step.
        slots: M.
        epochs: passes over the memory, each in an order of its own.
        adapts: which parameters are learned; see `select_parameters`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.05,
        last: float = 0.0005,
        batch: int = 16,
        slots: int = 200,
        epochs: int = 30,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net, self.lr, self.last, self.adapt_parameters = net, lr, last, adapt_parameters
        self.batch, self.memory_size, self.epochs = batch, slots, epochs

    def adapt(self, support: Examples, state: Greedy | None = None) -> Greedy:
        """The memory of this and all before, and the weights that it leads to."""
        memory = nothing(support, self.memory_size) if state is None else state.memory
        memory = greedy(memory, support)
        params = select_parameters(self.net, self.adapt_parameters)
        steps = self.epochs * math.ceil(self.memory_size / self.batch)
        number = 0
        for epoch in range(self.epochs):
            key = torch.tensor(epoch, device=support.x.device)
            for some in minibatches(shuffled(memory.examples, key), self.batch):
                high = (1 + math.cos(math.pi * number / steps)) / 2
                lr = self.last + (self.lr - self.last) * high
                params = sgd(partial(self.cost, some), params, lr)
                number += 1
        return Greedy(params, memory)

    def predict(self, state: Greedy, x: Tensor) -> Tensor:
        """Logits (Q, C) of all classes."""
        return functional_call(self.net, state.params, (x,))

    def cost(self, examples: Examples, params: Params) -> Tensor:
        """L of these weights."""
        return self.criterion(functional_call(self.net, params, (examples.x,)), examples)


def nothing(like: Examples, slots: int) -> Balanced:
    """A memory of M = `slots` places for examples of these shapes."""
    places = Examples(*(leaf.new_zeros(slots, *leaf.shape[1:]) for leaf in like))
    return Balanced(places, like.y.new_zeros(like.y.shape[-1], dtype=torch.int64))


def greedy(memory: Balanced, new: Examples) -> Balanced:
    """The memory after it was offered labelled examples, in order (algorithm 1)."""
    kept, offered = memory
    slots, device = len(kept.weight), kept.weight.device
    classes, places = (torch.arange(n, device=device) for n in (len(offered), slots))
    holds = torch.where(kept.weight > 0, kept.y.argmax(-1), -1)  # (M,)  a class; -1: nothing
    source = places  # (M,)  which of the examples kept and new is in a place
    for number, (label, weight) in enumerate(zip(new.y.argmax(-1), new.weight, strict=True)):
        own = classes == label
        offered = offered + (own & (weight > 0))
        counts = (holds[:, None] == classes).sum(0)  # (C,)
        share = slots / (offered > 0).sum()  # infinite, and of no use, before all examples
        wanted = (weight > 0) & ((counts * own).sum() < share)
        # the first place that is empty; if none is, any of the largest class
        chance = uniform(offered.sum(), slots).masked_fill(holds != counts.argmax(), -1)
        place = torch.where(holds < 0, 2 - places / slots, chance).argmax()
        taken = wanted & (places == place)
        holds = torch.where(taken, label, holds)
        source = torch.where(taken, slots + number, source)
    return Balanced(Examples(*(leaf[source] for leaf in together(kept, new))), offered)
