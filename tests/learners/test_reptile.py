"""Reptile against loops by hand, its own expansion, and the gradient of the joint loss."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy import Examples, Reptile, Task, evaluate
from quickstudy.core.criteria import cross_entropy
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.inner_loop import steepest_descent
from quickstudy.learners.gradient.reptile import epoch_order
from quickstudy.nets.backbones import MLP, use_batch_statistics
from quickstudy.testing.learners import (
    Blobs,
    Case,
    a_metric_improves,
    evaluation_leaves_no_trace,
    one_seed_gives_the_same_numbers,
)

pytestmark = pytest.mark.usefixtures("double")
LR = 0.01


def batch(size: int = 3) -> Task[Examples]:
    return Blobs().sample(size, torch.Generator().manual_seed(0))


def one(task: int = 0) -> Task[Examples]:
    return tree_map(lambda leaf: leaf[task], batch())


def net() -> MLP:
    return MLP(8, 3, hidden=(5,), activation=nn.Tanh)


def normed() -> nn.Module:
    layers = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    return use_batch_statistics(nn.Sequential(*layers))


def adapted(net: nn.Module, batches: list[Examples], adam: bool = True) -> nn.Module:
    """A copy of `net`, trained on `batches` by an optimizer of torch's."""
    copied = copy.deepcopy(net)
    if adam:
        steps = torch.optim.Adam(copied.parameters(), lr=LR, betas=(0.0, 0.999))
    else:
        steps = torch.optim.SGD(copied.parameters(), lr=LR)
    for x, y, _ in batches:
        steps.zero_grad()
        nn.functional.cross_entropy(copied(x), y).backward()
        steps.step()
    return copied


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_a_step_of_sgd_moves_the_start_towards_the_mean_of_loops_by_hand(
    adam: bool, execution: Execution, rate: float
):
    # at a rate of 1 this is model averaging: the start becomes the mean of the adapted models
    learner = Reptile(
        net(), lr=LR, batch_size=None, optimizer=None if adam else steepest_descent
    )
    learner.execution = execution
    models = [adapted(learner.net, [one(i).support] * 5, adam) for i in range(3)]
    ends = zip(*(model.parameters() for model in models), strict=True)
    means = [torch.stack(same).mean(0) for same in ends]
    starts = [p.detach().clone() for p in learner.parameters()]

    losses = learner(batch())
    losses.mean().backward()
    torch.optim.SGD(learner.parameters(), rate).step()
    for p, start, mean in zip(learner.parameters(), starts, means, strict=True):
        torch.testing.assert_close(p.detach(), start + rate * (mean - start))
    for i, model in enumerate(models):
        expected = nn.functional.cross_entropy(model(one(i).query.x), one(i).query.y)
        torch.testing.assert_close(losses[i], expected)


def test_mini_batches_are_those_of_a_loop_by_hand():
    learner, support = Reptile(net(), lr=LR, steps=7, batch_size=2), one().support
    torch.manual_seed(5)
    rows = epoch_order(support.weight, 14).view(7, 2)
    batches = [support.take(row) for row in rows]
    expected = adapted(learner.net, batches)
    torch.manual_seed(5)
    found = learner.adapt(support).params
    torch.testing.assert_close(found, dict(expected.named_parameters()))


def test_every_pass_is_through_all_real_examples():
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1, 1])
    drawn = vmap(epoch_order, in_dims=(0, None), randomness="different")(
        weight.expand(40, -1), 12
    )
    assert drawn.shape == (40, 12)
    for start in (0, 5):
        block = drawn[:, start : start + 5].sort(-1).values
        assert (block == torch.tensor([0, 2, 3, 5, 6])).all()
    assert len({tuple(row) for row in drawn[:, :5].tolist()}) > 20, "tasks share an order"
    assert (drawn[:, :5] != drawn[:, 5:10]).any(1).sum() > 20, "epoch_order share an order"
    first = torch.bincount(drawn[:, 0], minlength=7)
    assert (first > 0).tolist() == (weight > 0).tolist(), "some example never comes first"


def test_padding_is_not_adapted_to():
    support = one().support
    nothing = support._replace(weight=0 * support.weight)
    padded = Examples.cat(nothing, support)
    wild = padded._replace(x=torch.where(padded.weight[:, None] > 0, padded.x, 1e3))
    learner = Reptile(net(), lr=LR, steps=6, batch_size=2)
    torch.manual_seed(1)
    found = learner.adapt(padded)
    torch.manual_seed(1)
    torch.testing.assert_close(learner.adapt(wild), found)
    unmoved = learner.adapt(nothing).params
    torch.testing.assert_close(unmoved, dict(learner.net.named_parameters()))


def test_one_step_of_sgd_is_the_gradient_of_the_joint_loss():
    learner = Reptile(net(), lr=LR, steps=1, batch_size=None, optimizer=steepest_descent)
    x, y, _ = batch().support
    joint = nn.functional.cross_entropy(learner.net(x).flatten(0, 1), y.flatten(0, 1))
    params = list(learner.parameters())
    expected = [LR * grad for grad in torch.autograd.grad(joint, params)]
    found = torch.autograd.grad(learner(batch()).mean(), params)
    torch.testing.assert_close(list(found), expected)


def test_two_steps_lower_the_slope_of_the_second_by_the_hessian():
    # section 5.1: what is moved by, over the rate, is g₁ + g₂ - lr H₂ g₁ + O(lr²)
    support, model = one().support, net()
    params = list(model.parameters())
    inner_loss = nn.functional.cross_entropy(model(support.x), support.y)
    grads = torch.autograd.grad(inner_loss, params, create_graph=True)
    curved = sum(((g * g.detach()).sum() for g in grads), torch.zeros(()))
    bend = torch.autograd.grad(curved, params)  # H g

    rate = 1e-5
    learner = Reptile(model, lr=rate, steps=2, batch_size=None, optimizer=steepest_descent)
    found = torch.autograd.grad(learner.loss(one()), params)
    for moved, grad, h in zip(found, grads, bend, strict=True):
        second = (2 * grad.detach() - moved / rate) / rate
        torch.testing.assert_close(second, h, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_inductive_predictions_are_made_one_by_one_among_the_support(execution: Execution):
    learner = Reptile(normed(), lr=LR, transductive=False)
    learner.execution = execution
    task = one()
    state = learner.adapt(task.support)
    expected = []
    for query in task.query.x:
        together = torch.cat([task.support.x, query[None]])
        expected.append(torch.func.functional_call(learner.net, state.params, (together,))[-1])
    torch.testing.assert_close(learner.predict(state, task.query.x), torch.stack(expected))
    losses = learner(batch())
    torch.testing.assert_close(losses[0], cross_entropy(torch.stack(expected), task.query))


@pytest.mark.parametrize("transductive", [True, False])
def test_the_report_says_which_it_was(transductive: bool):
    learner = Reptile(normed(), lr=LR)
    learner.transductive = transductive  # as the settings of a recipe's test do
    assert evaluate(learner, Blobs(), n_tasks=2).card["transductive"] == transductive


def test_without_batch_statistics_the_two_are_one():
    learner = Reptile(net(), lr=LR)
    expected = learner.predict(learner.adapt(one().support), one().query.x)
    learner.transductive = False
    found = learner.predict(learner.adapt(one().support), one().query.x)
    torch.testing.assert_close(found, expected)


def test_adapting_goes_on_from_a_state():
    two, four = (
        Reptile(normed(), steps=s, optimizer=steepest_descent, transductive=False)
        for s in (2, 4)
    )
    four.load_state_dict(two.state_dict())
    support = one().support
    twice = two.adapt(support, two.adapt(support))
    torch.testing.assert_close(twice.params, four.adapt(support).params)
    assert twice.support.shape == (12, 8)  # both sets are company for a query


def test_a_state_keeps_no_graph_and_no_inputs_that_it_does_not_need():
    state = Reptile(net()).adapt(one().support)
    assert not any(p.requires_grad for p in state.params.values())
    assert state.support.shape == (0, 8)


def test_frozen_parameters_are_not_adapted():
    frozen = net()
    frozen.head.bias.requires_grad_(False)
    assert "head.bias" not in Reptile(frozen).adapt(one().support).params
    with pytest.raises(ValueError, match=r"no trainable parameter.*The net has: body"):
        Reptile(frozen.requires_grad_(False))


@pytest.mark.parametrize(
    "check", [a_metric_improves, evaluation_leaves_no_trace, one_seed_gives_the_same_numbers]
)
def test_random_mini_batches_obey_the_checks(check: Callable[[Case], None]):
    torch.set_default_dtype(torch.float32)
    learner = Reptile(
        MLP(8, 3, hidden=(16,)), lr=0.05, steps=8, batch_size=4, optimizer=steepest_descent
    )
    check(Case(learner, Blobs(shots=5), steps=60))


def test_tasks_draw_batches_of_their_own():
    learner = Reptile(net(), lr=LR, steps=1, batch_size=1)
    same: Task[Examples] = tree_map(lambda leaf: leaf[:1].expand(8, *leaf.shape[1:]), batch())

    def gradient(weights: Tensor) -> Tensor:
        return torch.autograd.grad(learner(same) @ weights, list(learner.parameters()))[-1]

    assert not torch.allclose(gradient(torch.eye(8)[0]), gradient(torch.eye(8)[1:].mean(0)))
