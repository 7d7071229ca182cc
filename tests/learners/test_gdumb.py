"""The greedy memory against a loop over lists, and training against joint training."""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quickstudy import Examples, GDumb, Joint
from quickstudy.core.counter_rng import uniform
from quickstudy.learners.lifelong.gdumb import greedy, nothing
from quickstudy.learners.lifelong.replay_buffer import shuffled
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


def labelled(labels: list[int], classes: int) -> Examples:
    """Examples of these classes, whose only feature is their number, from 0."""
    x = torch.arange(len(labels)).float()[:, None]
    y = F.one_hot(torch.tensor(labels), classes).float()
    return Examples(x, y, torch.ones(len(x)))


@pytest.mark.parametrize("seed", range(6))
def test_classes_are_balanced_to_within_one_in_any_order(seed: int):
    """If each has enough examples, whether or not places divide evenly among classes."""
    draw = random.Random(seed)
    classes, slots = draw.randint(2, 5), draw.randint(5, 12)
    enough = math.ceil(slots / classes)
    labels = [c for c in range(classes) for _ in range(enough + draw.randint(0, 9))]
    if seed % 2:
        draw.shuffle(labels)
    memory = greedy(nothing(labelled(labels, classes), slots), labelled(labels, classes))
    assert memory.examples.weight.sum() == slots
    counts = memory.examples.y.sum(0)
    assert counts.max() - counts.min() <= 1
    assert memory.offered.tolist() == [labels.count(c) for c in range(classes)]
    numbers = memory.examples.x[:, 0].long().tolist()
    assert len(set(numbers)) == slots
    assert [labels[n] for n in numbers] == memory.examples.y.argmax(1).tolist()


def test_a_rare_class_keeps_all_that_it_has():
    labels = [0] * 20 + [1] * 2 + [2] * 20
    memory = greedy(nothing(labelled(labels, 3), 10), labelled(labels, 3))
    assert memory.examples.y.sum(0).tolist() == [4, 2, 4]


@pytest.mark.parametrize("cut", [0, 7, 40])
def test_the_memory_is_that_of_a_loop(cut: int):
    draw = random.Random(0)
    labels = [draw.choice([0, 0, 0, 1, 1, 2]) for _ in range(40)]
    places: list[int | None] = [None] * 7
    seen: set[int] = set()
    for number, label in enumerate(labels):
        seen.add(label)
        counts = [sum(p is not None and labels[p] == c for p in places) for c in range(3)]
        if counts[label] < 7 / len(seen):
            if None in places:
                places[places.index(None)] = number
            else:
                largest = counts.index(max(counts))
                chance = uniform(torch.tensor(number + 1), 7).tolist()
                mine = [i for i, p in enumerate(places) if p is not None]
                mine = [i for i in mine if labels[places[i] or 0] == largest]
                places[max(mine, key=chance.__getitem__)] = number
    stream = labelled(labels, 3)
    memory = nothing(stream, 7)
    for part in (slice(cut), slice(cut, None)):
        memory = greedy(memory, stream.take(part))
    assert memory.examples.x[:, 0].tolist() == places


def examples() -> Examples:
    tasks = Blobs(shots=4).sample(1, torch.Generator().manual_seed(0)).support
    return Examples(*(leaf[0].double() for leaf in tasks))


def net() -> nn.Module:
    torch.manual_seed(0)
    return MLP(8, 3, hidden=(7,), activation=nn.Tanh)


@pytest.mark.usefixtures("double")
def test_with_a_place_for_everything_it_is_joint_training():
    whole = examples()
    first, second = (whole.take(part) for part in (slice(5), slice(5, None)))
    dumb = GDumb(net(), lr=0.1, last=0.1, batch=5, slots=17, epochs=3)
    joint = Joint(net(), lr=0.1, batch=5, epochs=3)
    found = dumb.adapt(second, dumb.adapt(first)).params
    for name, value in joint.adapt(second, joint.adapt(first)).params.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.usefixtures("double")
def test_the_rate_falls_as_pytorchs_cosine():
    known, module = examples(), net()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * 3, eta_min=0.02)
    for epoch in range(4):
        mixed = shuffled(known, torch.tensor(epoch))
        for x, y in zip(mixed.x.split(5), mixed.y.split(5), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            falls.step()
    found = GDumb(net(), lr=0.1, last=0.02, batch=5, slots=12, epochs=4).adapt(known).params
    for name, value in module.named_parameters():
        torch.testing.assert_close(found[name], value)
