"""ProtoMAML against prototypical networks, a loop written by hand and finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from quickstudy import Examples, Learner, ProtoMAML, PrototypicalNetwork, Task
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

LR = 0.03

pytestmark = pytest.mark.usefixtures("double")


def batch(size: int = 3, ways: int = 3) -> Task[Examples]:
    drawn = Blobs(ways=ways).sample(size, torch.Generator().manual_seed(0))
    return tree_map(torch.Tensor.double, drawn)


def task(ways: int = 3) -> Task[Examples]:
    return tree_map(lambda leaf: leaf[0], batch(1, ways))


def embed() -> MLP:
    torch.manual_seed(1)
    return MLP(8, 4, hidden=(5,), activation=nn.Tanh)


def logits(learner: Learner[Any], task: Task[Examples]) -> Tensor:
    return learner.predict(learner.adapt(task.support), task.query.x)


def gradients(learner: nn.Module, tasks: Task[Examples]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(learner(tasks).sum(), list(learner.parameters()))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"lr": 0.0, "steps": 2}])
def test_without_a_step_it_is_a_prototypical_network(settings: dict[str, Any]):
    learner, other = ProtoMAML(embed(), **settings), PrototypicalNetwork(embed())
    gap = logits(learner, task()) - logits(other, task())  # |f(x)|², the same for all classes
    torch.testing.assert_close(gap, gap[:, :1].expand(-1, 3))
    torch.testing.assert_close(gap[:, 0], learner.embed(task().query.x).square().sum(-1))
    torch.testing.assert_close(learner(batch()), other(batch()))
    torch.testing.assert_close(gradients(learner, batch()), gradients(other, batch()))


def by_hand(embed: nn.Module, *, steps: int, first_order: bool) -> tuple[Tensor, ...]:
    """ProtoMAML's meta-gradient as a loop over tasks, classes and steps, by `autograd.grad`."""
    learned = dict(embed.named_parameters())
    total = torch.zeros(())
    for i in range(3):
        support, query = tree_map(lambda leaf, i=i: leaf[i], batch())
        label = support.y.argmax(-1)
        means = [embed(support.x[label == c]).mean(0) for c in range(3)]
        fast = [*learned.values()]
        fast += [torch.stack([2 * m for m in means]), torch.stack([-(m @ m) for m in means])]
        for _ in range(steps):
            # copies: the slope of the body does not go through the head, which came of it
            here = [p.detach().requires_grad_() if first_order else p + 0 for p in fast]
            body = dict(zip(learned, here, strict=False))
            predicted = functional_call(embed, body, (support.x,)) @ here[-2].T + here[-1]
            inner_loss = F.cross_entropy(predicted, support.y)
            grads = torch.autograd.grad(inner_loss, here, create_graph=not first_order)
            fast = [p - LR * grad for p, grad in zip(fast, grads, strict=True)]
        body = dict(zip(learned, fast, strict=False))
        predicted = functional_call(embed, body, (query.x,)) @ fast[-2].T + fast[-1]
        total = total + F.cross_entropy(predicted, query.y)
    return torch.autograd.grad(total, list(learned.values()))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_is_that_of_a_loop_by_hand(
    steps: int, first_order: bool, execution: Execution
):
    learner = ProtoMAML(embed(), lr=LR, steps=steps, first_order=first_order)
    learner.execution = execution
    expected = by_hand(learner.embed, steps=steps, first_order=first_order)
    torch.testing.assert_close(gradients(learner, batch()), expected, rtol=1e-9, atol=1e-11)


def test_the_orders_and_the_prototypical_network_differ():
    # or the tests above would say little
    second, first, none = (
        gradients(ProtoMAML(embed(), lr=LR, steps=steps, first_order=order), batch())
        for steps, order in ((2, False), (2, True), (0, False))
    )
    for a, b, c in zip(second, first, none, strict=True):
        assert not torch.allclose(a, b, rtol=1e-2) and not torch.allclose(b, c, rtol=1e-2)


def test_meta_gradient_is_that_of_finite_differences():
    learner = ProtoMAML(embed(), lr=LR, steps=2)
    params = dict(learner.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(params, values, strict=True)), (batch(1),))

    assert torch.autograd.gradcheck(loss, tuple(params.values()))


def test_a_state_is_the_adapted_embedding_and_a_head():
    learner = ProtoMAML(embed(), lr=LR)
    state = learner.adapt(task(5).support)
    assert set(state.params) == {"W", "b", *(name for name, _ in learner.named_parameters())}
    assert state.params["W"].shape == (5, 4) and state.params["b"].shape == (5,)
    for name, p in learner.prototypical_start(task(5).support).params.items():
        assert not torch.allclose(state.params[name], p), name


@pytest.mark.parametrize("ways", [2, 3, 7])
def test_the_number_of_classes_is_that_of_the_task(ways: int):
    learner = ProtoMAML(embed(), lr=LR)
    assert logits(learner, task(ways)).shape == (4 * ways, ways)
    assert learner(batch(2, ways)).isfinite().all()


def test_adapting_improves_the_fit():
    learner = ProtoMAML(embed(), lr=LR)
    support = task().support
    states = learner.prototypical_start(support), learner.adapt(support)
    before, after = (learner.criterion(learner.predict(s, support.x), support) for s in states)
    assert after < before


def test_adapting_goes_on_from_a_state():
    support = task().support
    two, four = (ProtoMAML(embed(), lr=LR, steps=steps) for steps in (2, 4))
    found, expected = two.adapt(support, two.adapt(support)), four.adapt(support)
    torch.testing.assert_close(found.params, expected.params)
    torch.testing.assert_close(found.sizes, 2 * expected.sizes)


def test_weights_are_numbers_of_examples():
    support = task().support
    learner = ProtoMAML(embed(), lr=LR)
    weight = torch.arange(6.0)  # one of them is padding
    repeated = Examples(*(leaf.repeat_interleave(weight.long(), 0) for leaf in support))
    torch.testing.assert_close(
        learner.adapt(support._replace(weight=weight)), learner.adapt(repeated)
    )


def parts(known: int = 2) -> tuple[Examples, Examples]:
    """The examples of the first `known` classes of three, and the others."""
    support = task().support
    first = support.y[:, :known].sum(-1) == 1
    return tree_map(lambda leaf: leaf[first], support), tree_map(
        lambda leaf: leaf[~first], support
    )


def test_an_absent_class_has_probability_zero_and_counts_for_nothing():
    support, query = parts()[0], task().query
    narrow_query = tree_map(lambda leaf: leaf[query.y[:, 2] == 0], query)
    losses, grads = [], []
    for width in (2, 3):
        learner = ProtoMAML(embed(), lr=LR)
        few, many = (part._replace(y=part.y[:, :width]) for part in (support, narrow_query))
        predicted = learner.predict(learner.adapt(few), many.x).softmax(-1)
        assert (predicted[:, 2:] == 0).all()
        losses.append(learner.loss(Task(few, many)))
        grads.append(torch.autograd.grad(losses[-1], list(learner.parameters())))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*grads)


def test_a_class_that_comes_later_starts_from_its_prototype():
    first, later = parts()
    learner = ProtoMAML(embed(), lr=LR)
    before = learner.adapt(first)
    start = learner.prototypical_start(later, before)
    body = {name.removeprefix("embed."): p for name, p in before.params.items()}
    embed_params = {name: body[name] for name, _ in learner.embed.named_parameters()}
    mean = functional_call(learner.embed, embed_params, (later.x,)).mean(0)
    torch.testing.assert_close(start.params["W"][2], 2 * mean)
    torch.testing.assert_close(start.params["b"][2], -(mean @ mean))
    for name in embed_params:
        assert torch.equal(start.params[f"embed.{name}"], before.params[f"embed.{name}"])
    assert torch.equal(start.params["W"][:2], before.params["W"][:2])
    after = learner.adapt(later, before)
    torch.testing.assert_close(after.sizes, torch.full((3,), 2.0))
    assert all(leaf.isfinite().all() for leaf in after.params.values())


def test_frozen_parameters_are_not_adapted():
    frozen = embed()
    frozen.head.bias.requires_grad_(False)
    learner = ProtoMAML(frozen, lr=LR)
    assert "embed.head.bias" not in learner.adapt(task().support).params


def test_an_embedding_with_names_of_the_head():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Parameter(torch.randn(8, 4))
            self.b = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.W + self.b

    state = ProtoMAML(Named()).adapt(task().support)
    assert state.params["embed.W"].shape == (8, 4) and state.params["W"].shape == (3, 4)
