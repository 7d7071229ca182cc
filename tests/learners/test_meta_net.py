"""MetaNet against loops over examples and queries, and autograd."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, MetaNet, Task
from quickstudy.core.tree import leaves, tree_map
from quickstudy.learners.memory.meta_net import MetaNetState, preprocess
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task() -> Task[Examples]:
    return tree_map(lambda leaf: leaf[0], Blobs().sample(1, torch.Generator().manual_seed(0)))


def meta_net() -> MetaNet:
    return MetaNet(nn.Linear(8, 6), nn.Linear(8, 6), 6, 3, hidden=5, units=4)


def loss(logits: Tensor, y: Tensor) -> Tensor:
    return -(y * logits.log_softmax(-1)).sum()


def test_slopes_are_those_of_each_example() -> None:
    learner, support = meta_net(), task().support
    given = learner.base(support.x).detach()
    found = learner.example_grads(learner.logits, learner.slow_weights(), given, support)
    for i, (h, y) in enumerate(zip(given, support.y, strict=True)):
        hidden = learner.first(h).relu()
        expected = torch.autograd.grad(loss(learner.second(hidden), y), learner.slow_weights())
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine[i], theirs)
    assert not any(grad.requires_grad for grad in found)  # constants to the meta-gradient


def test_what_is_written_is_made_of_the_gradient_of_that_example() -> None:
    learner, support = meta_net(), task().support
    state = learner.adapt(support)
    lstm = nn.LSTM(2, 4)  # the same cell, of torch
    lstm.weight_ih_l0.data, lstm.weight_hh_l0.data = learner.d.gates.weight.split([2, 4], 1)
    lstm.bias_ih_l0.data, lstm.bias_hh_l0.data = learner.d.gates.bias, torch.zeros(16)
    seen = learner.represent(support.x)
    gradients = []
    for x, y in zip(seen, support.y, strict=True):
        guess = learner.classify(learner.key(x).relu())
        (gradient,) = torch.autograd.grad(loss(guess, y), learner.key.weight, retain_graph=True)
        gradients.append(preprocess(gradient).flatten(0, 1))
    with torch.no_grad():
        encoded, _ = lstm(torch.stack(gradients))
        representation = learner.d_output(encoded[-1])[:, 0].view(5, 6)
    torch.testing.assert_close(state.representation, representation)
    for i, (x, y) in enumerate(zip(support.x, support.y, strict=True)):
        r = learner.key.weight @ seen[i] + representation @ seen[i]
        torch.testing.assert_close(state.keys[i], r)
        logits = learner.second(learner.first(learner.base(x)).relu())
        grads = torch.autograd.grad(loss(logits, y), learner.slow_weights())
        for written, grad in zip(state.layers, grads, strict=True):
            for entry, g in zip(written[i].flatten(), grad.flatten(), strict=True):
                torch.testing.assert_close(entry, learner.m(preprocess(g))[0])


def test_padding_anywhere_is_not_read() -> None:
    learner, (support, query) = meta_net(), task()
    padding = Examples(torch.randn(2, 8), torch.eye(3)[:2], torch.zeros(2))
    parts = zip(support, padding, strict=True)
    padded = Examples(*(torch.cat([a[:2], b[:1], a[2:], b[1:]]) for a, b in parts))
    state, expected = learner.adapt(padded), learner.adapt(support)
    torch.testing.assert_close(state.representation, expected.representation)
    torch.testing.assert_close(
        learner.predict(state, query.x), learner.predict(expected, query.x)
    )


def by_hand(learner: MetaNet, x: Tensor, fast: tuple[Tensor, Tensor]) -> Tensor:
    """The base learner with these fast weights, on one query."""
    h = learner.base(x)
    hidden = (learner.first.weight @ h).relu() + (fast[0] @ h).relu()
    return learner.second.weight @ hidden + fast[1] @ hidden


def test_a_query_reads_weights_of_its_own() -> None:
    learner, (support, query) = meta_net(), task()
    state = learner.adapt(support)
    together = learner.predict(state, query.x)
    for x, logits in zip(query.x, together, strict=True):
        seen = learner.represent(x)
        r = learner.key.weight @ seen + state.representation @ seen
        p = torch.stack([F.cosine_similarity(key, r, dim=0) for key in state.keys]).softmax(0)
        read = tree_map(
            lambda each, p=p: sum(a * w for a, w in zip(p, each, strict=True)), state.layers
        )
        torch.testing.assert_close(logits, by_hand(learner, x, read))


def sharp(a: Tensor, b: Tensor) -> Tensor:
    """All attention goes to the third memory."""
    return 1e4 * (torch.arange(len(b)) == 2).to(a).expand(len(a), -1)


def test_one_hot_attention_reads_the_weights_of_that_example() -> None:
    learner, (support, query) = meta_net(), task()
    learner.similarity = sharp
    state = learner.adapt(support)
    third = tree_map(lambda each: each[2], state.layers)
    expected = torch.stack([by_hand(learner, x, third) for x in query.x])
    torch.testing.assert_close(learner.predict(state, query.x), expected)
    shown = learner.attention_weights(Task(support, query))["memory"]
    one_hot, third = torch.eye(6), torch.eye(6)[[2]].expand(len(query.x), -1)
    torch.testing.assert_close(shown, torch.cat([one_hot, third]))


def test_without_fast_weights_it_is_the_slow_net() -> None:
    learner, (support, query) = meta_net(), task()
    state = learner.adapt(support)
    nothing: MetaNetState = tree_map(torch.zeros_like, state)
    slow = nn.Sequential(learner.base, learner.first, nn.ReLU(), learner.second)
    torch.testing.assert_close(learner.predict(nothing, query.x), slow(query.x))
    assert not torch.allclose(learner.predict(state, query.x), slow(query.x))


def test_later_examples_are_read_too() -> None:
    learner, (support, _) = meta_net(), task()
    first, later = (support.take(part) for part in (slice(4), slice(4, 6)))
    state = learner.adapt(later, learner.adapt(first))
    before, whole = learner.adapt(first), learner.adapt(support)
    torch.testing.assert_close(state.representation, before.representation)
    torch.testing.assert_close(state.layers, whole.layers)  # which no other example changes
    assert [len(part) for part in leaves(state)[1:]] == [6, 6, 6, 6]


def test_gradients_are_told_by_size_and_sign() -> None:
    e = math.exp(-7)
    grads = torch.tensor([0.0, 0.5 * e, -0.5 * e, math.exp(-3.5), -1.0])
    expected = torch.tensor([[-1, 0], [-1, 0.5], [-1, -0.5], [-0.5, 1], [0, -1]])
    torch.testing.assert_close(preprocess(grads), expected)
