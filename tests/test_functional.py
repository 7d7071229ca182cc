"""The functions that learners are written with, against PyTorch's and by hand."""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional as F

from quickstudy import Examples, accuracy, cross_entropy, squared_error
from quickstudy.core import gaussian_nll, log_likelihood, squared_distance, with_gradient
from quickstudy.core.criteria import weighted_mean
from quickstudy.core.gradients import gradient
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.inner_loop.descent import descend

Sizes = st.integers(1, 6)


class Gaussian(NamedTuple):
    mean: Tensor
    scale: Tensor


def labelled(n: int, c: int) -> tuple[Tensor, Tensor, Examples]:
    """Logits (N, C), labels (N,) and the examples that have them."""
    label = torch.randint(c, (n,))
    y = torch.eye(c).double()[label]
    return (
        torch.randn(n, c).double(),
        label,
        Examples(torch.zeros(n), y, torch.ones(n).double()),
    )


def values(n: int, c: int) -> Examples:
    return Examples(torch.zeros(n), torch.randn(n, c).double(), torch.rand(n).double())


@settings(max_examples=30, deadline=None)
@given(n=Sizes, c=Sizes)
def test_cross_entropy_is_that_of_pytorch(n: int, c: int):
    logits, label, examples = labelled(n, c)
    torch.testing.assert_close(cross_entropy(logits, examples), F.cross_entropy(logits, label))


def test_cross_entropy_counts_an_example_by_its_weight():
    logits, label, examples = labelled(5, 3)
    weight = torch.tensor([0, 1, 2, 0, 3]).double()
    times = weight.long()
    expected = F.cross_entropy(
        logits.repeat_interleave(times, 0), label.repeat_interleave(times, 0)
    )
    torch.testing.assert_close(
        cross_entropy(logits, examples._replace(weight=weight)), expected
    )
    nothing = examples._replace(weight=0 * weight)
    assert cross_entropy(logits, nothing) == 0


def test_cross_entropy_takes_soft_labels():
    logits, _, examples = labelled(5, 3)
    soft = torch.rand(5, 3).double().softmax(-1)
    expected = F.cross_entropy(logits, soft)
    torch.testing.assert_close(cross_entropy(logits, examples._replace(y=soft)), expected)


def test_cross_entropy_where_a_class_is_impossible():
    logits, label, examples = labelled(4, 3)
    label = torch.tensor([0, 1, 0, 2])
    examples = examples._replace(y=torch.eye(3).double()[label])
    logits = logits.masked_fill(torch.tensor([False, False, True]), -torch.inf).requires_grad_()
    assert cross_entropy(logits, examples) == torch.inf

    padded = examples._replace(weight=torch.tensor([1, 1, 1, 0]).double())
    loss = cross_entropy(logits, padded)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:3, :2], label[:3]))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all() and (grad[:, 2] == 0).all() and (grad[3] == 0).all()


@settings(max_examples=30, deadline=None)
@given(n=Sizes, c=Sizes)
def test_squared_error_sums_over_dimensions_and_averages_over_examples(n: int, c: int):
    examples = values(n, c)
    prediction = torch.randn(n, c).double()
    per_example = ((prediction - examples.y) ** 2).sum(-1)
    expected = (per_example * examples.weight).sum() / examples.weight.sum()
    torch.testing.assert_close(squared_error(prediction, examples), expected)
    even = examples._replace(weight=torch.ones(n).double())
    mse = F.mse_loss(prediction, examples.y) * c
    torch.testing.assert_close(squared_error(prediction, even), mse)


def test_gaussian_nll_is_that_of_a_distribution():
    examples = values(5, 2)
    prediction = Gaussian(torch.randn(5, 2).double(), torch.rand(5, 2).double() + 0.1)
    log_density = torch.distributions.Normal(*prediction).log_prob(examples.y).sum(-1)
    expected = -(log_density * examples.weight).sum() / examples.weight.sum()
    torch.testing.assert_close(gaussian_nll(prediction, examples), expected)
    torch.testing.assert_close(log_likelihood(prediction, examples), -expected)


def test_accuracy_counts_hits_by_weight():
    logits = torch.tensor([[2.0, 1], [0, 1], [3, 1], [0, 1]])
    y = torch.eye(2)[torch.tensor([0, 1, 1, 0])]
    examples = Examples(torch.zeros(4), y, torch.tensor([1.0, 1, 1, 0]))
    assert accuracy(logits, examples).item() == pytest.approx(2 / 3)
    assert accuracy(logits.double(), examples).dtype == torch.float64


def test_weighted_mean_of_nothing_is_zero_and_has_a_gradient():
    x = torch.randn(3, requires_grad=True)
    mean = weighted_mean(x, torch.zeros(3))
    mean.backward()
    assert mean == 0 and x.grad is not None and (x.grad == 0).all()


def test_squared_distance_is_that_of_cdist():
    a, b = torch.randn(4, 3).double(), torch.randn(5, 3).double()
    torch.testing.assert_close(squared_distance(a, b), torch.cdist(a, b) ** 2)
    assert (squared_distance(a, a).diagonal() == 0).all()


def test_with_gradient_has_the_value_and_the_slopes():
    p = torch.randn(3, requires_grad=True)
    q = torch.randn((), requires_grad=True)
    grads = {"p": torch.randn(3), "q": torch.randn(())}
    value = with_gradient((p * q).sum(), {"p": p, "q": q}, grads)
    assert value.item() == (p * q).sum().item()
    found = torch.autograd.grad(2 * value, [p, q])
    torch.testing.assert_close(list(found), [2 * grads["p"], 2 * grads["q"]])


def test_descend_leaves_its_start_alone_and_needs_no_graph():
    start = {"w": torch.ones(2)}
    with torch.no_grad():
        end = descend(lambda params: params["w"].square().sum(), start, lr=0.25, steps=3)
    torch.testing.assert_close(end["w"], torch.full((2,), 0.125))  # a half at every step
    assert (start["w"] == 1).all() and end["w"].grad_fn is None


class Pair(NamedTuple):
    a: Tensor
    b: dict[str, Tensor]


def tree(offset: float = 0) -> tuple[Pair, Tensor]:
    leaf = torch.arange(6.0).view(2, 3) + offset
    return Pair(leaf, {"x": leaf + 10, "y": leaf + 20}), leaf + 30


def test_tree_map_keeps_structure_and_types():
    both = tree_map(torch.add, tree(), tree(100))
    pair, last = both
    assert isinstance(both, tuple) and isinstance(pair, Pair) and list(pair.b) == ["x", "y"]
    torch.testing.assert_close(last, 2 * tree()[1] + 100)
    torch.testing.assert_close(pair.b["y"], 2 * tree()[0].b["y"] + 100)


def test_tree_map_refuses_trees_of_different_shape():
    with pytest.raises(ValueError):
        tree_map(torch.add, tree(), (*tree(), torch.ones(1)))
    with pytest.raises(KeyError):
        tree_map(torch.add, {"x": torch.ones(1)}, {"y": torch.ones(1)})


def test_leaves_are_in_order():
    assert [leaf[0, 0].item() for leaf in leaves(tree())] == [0, 10, 20, 30]
    assert leaves(()) == []


def test_unstack_undoes_stack():
    parts = unstack(tree())
    assert len(parts) == 2 and isinstance(parts[0][0], Pair)
    again = tree_map(lambda *each: torch.stack(each), *parts)
    torch.testing.assert_close(again, tree())


@pytest.mark.parametrize("criterion", [cross_entropy, accuracy, squared_error])
def test_predictions_of_another_shape_are_refused(criterion: Any):
    examples = Examples(torch.zeros(6, 2), torch.zeros(6, 4), torch.ones(6))
    for shape in (6, 3), (6,), (5, 4), (1, 4):  # the last would broadcast without an error
        with pytest.raises(ValueError, match="as many outputs as the tasks have ways"):
            criterion(torch.zeros(shape), examples)


def test_a_gradient_is_of_each_parameter_by_itself() -> None:
    a = torch.tensor(3.0, requires_grad=True)
    params = {"a": a, "b": a.square()}  # b depends on a, and is held while a moves
    grads = gradient(lambda p: p["a"] * p["b"])(params)
    assert grads["a"] == 9 and grads["b"] == 3
    assert torch.autograd.grad(grads["a"] * grads["b"], a)[0] == 27  # of a^2 * a


def test_a_gradient_is_zero_where_nothing_is_looked_at_and_needs_no_graph() -> None:
    with torch.no_grad():
        grads = gradient(lambda p: p["a"] * 2)({"a": torch.ones(()), "b": torch.ones(3)})
    assert grads["a"] == 2 and not grads["b"].any() and not grads["a"].requires_grad
