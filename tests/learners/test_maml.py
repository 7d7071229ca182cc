"""MAML against closed forms, finite differences and a loop written by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import MAML, Examples, Task, anil, boil, fomaml
from quickstudy.core.criteria import cross_entropy, squared_error
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.inner_loop.descent import descend
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

LR = 0.1


class Point(nn.Module):
    """A net that says the same of every input: its parameter (D,)."""

    def __init__(self, at: Tensor):
        super().__init__()
        self.at = nn.Parameter(at)

    def forward(self, x: Tensor) -> Tensor:
        return self.at.expand(len(x), -1)


def bowl(curvature: Tensor) -> Callable[[Tensor, Examples], Tensor]:
    """The criterion ½ (p - y)ᵀ A (p - y), a mean over examples of weight 1."""

    def criterion(prediction: Tensor, examples: Examples) -> Tensor:
        gap = prediction - examples.y
        return 0.5 * torch.einsum("nd,de,ne->n", gap, curvature, gap).mean()

    return criterion


def at(point: Tensor) -> Examples:
    return Examples(torch.zeros(1, 1).double(), point[None], torch.ones(1).double())


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_meta_gradient_on_a_quadratic_is_the_closed_form(steps: int, first_order: bool):
    # φ - s = Mᵏ (θ - s) with M = I - αA; so the loss ½ (φ - q)ᵀ A (φ - q) has the
    # gradient Mᵏ A (φ - q), or A (φ - q) to first order
    root = torch.randn(3, 3).double()
    curvature = root @ root.T / 3
    theta, support, query = torch.randn(3, 3).double()
    learner = MAML(
        Point(theta.clone()),
        lr=LR,
        steps=steps,
        first_order=first_order,
        criterion=bowl(curvature),
    )
    power = torch.linalg.matrix_power(torch.eye(3).double() - LR * curvature, steps)
    phi = support + power @ (theta - support)
    slope = curvature @ (phi - query)

    torch.testing.assert_close(learner.adapt(at(support))["at"], phi)
    loss = learner.loss(Task(at(support), at(query)))
    torch.testing.assert_close(loss, 0.5 * (phi - query) @ slope)
    (found,) = torch.autograd.grad(loss, list(learner.parameters()))
    torch.testing.assert_close(found, slope if first_order else power @ slope)


def batch(size: int = 3) -> Task[Examples]:
    drawn = Blobs().sample(size, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf.double(), drawn)


def net(activation: type[nn.Module] = nn.Tanh) -> MLP:
    torch.manual_seed(1)
    return MLP(8, 3, hidden=(5,), activation=activation).double()


def gradients(learner: MAML, execution: Execution = "vmap") -> dict[str, Tensor]:
    learner.execution = execution
    found = torch.autograd.grad(learner(batch()).sum(), list(learner.net.parameters()))
    return dict(zip(dict(learner.net.named_parameters()), found, strict=True))


def by_hand(
    net: nn.Module, adapt_parameters: Callable[[str], bool], *, steps: int, first_order: bool
) -> dict[str, Tensor]:
    """MAML's meta-gradient as a loop over tasks and steps, by `autograd.grad` only."""
    params = dict(net.named_parameters())
    total = torch.zeros(()).double()
    for i in range(3):
        task = tree_map(lambda leaf, i=i: leaf[i], batch())
        fast = {name: p for name, p in params.items() if adapt_parameters(name)}
        for _ in range(steps):
            # to first order everything that the slope is made of counts as a constant, the
            # parameters that are not adapted too
            now = {name: p.detach() if first_order else p for name, p in params.items()}
            start = {
                n: p.detach().requires_grad_() if first_order else p for n, p in fast.items()
            }
            logits = functional_call(net, {**now, **start}, (task.support.x,))
            inner_loss = nn.functional.cross_entropy(logits, task.support.y)
            slopes = torch.autograd.grad(
                inner_loss, [*start.values()], create_graph=not first_order
            )
            fast = {
                name: p - LR * slope
                for (name, p), slope in zip(fast.items(), slopes, strict=True)
            }
        logits = functional_call(net, {**params, **fast}, (task.query.x,))
        total = total + nn.functional.cross_entropy(logits, task.query.y)
    return dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))


def everything(name: str) -> bool:
    return True


def head(name: str) -> bool:
    return name.startswith("head.")


def body(name: str) -> bool:
    return name.startswith("body.")


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("variant", "adapt_parameters"), [(MAML, everything), (anil, head), (boil, body)]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_is_that_of_a_loop_by_hand(
    steps: int,
    variant: Callable[..., MAML],
    adapt_parameters: Callable[[str], bool],
    first_order: bool,
    execution: Execution,
):
    learner = variant(net(), lr=LR, steps=steps, first_order=first_order)
    expected = by_hand(learner.net, adapt_parameters, steps=steps, first_order=first_order)
    torch.testing.assert_close(gradients(learner, execution), expected, rtol=1e-9, atol=1e-11)


def test_the_two_orders_differ():
    # or the test above would say little; of ANIL's body and BOIL's head, which are not
    # adapted, too
    for variant in MAML, anil, boil:
        second = gradients(variant(net(), lr=LR, steps=2))
        first = gradients(variant(net(), lr=LR, steps=2, first_order=True))
        for name in second:
            assert not torch.allclose(second[name], first[name], rtol=1e-3), name


@pytest.mark.parametrize("variant", [MAML, anil, boil])
def test_meta_gradient_is_that_of_finite_differences(variant: Callable[..., MAML]):
    learner = variant(net(), lr=LR, steps=2)
    params = dict(learner.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(params, values, strict=True)), (batch(2),))

    assert torch.autograd.gradcheck(loss, tuple(params.values()))


def test_fomaml_is_maml_of_first_order():
    expected = gradients(MAML(net(), lr=LR, first_order=True))
    torch.testing.assert_close(gradients(fomaml(net(), lr=LR)), expected)


def test_anil_adapts_the_head_only():
    learner = anil(net(), lr=LR)
    state = learner.adapt(tree_map(lambda leaf: leaf[0], batch()).support)
    assert set(state) == {"head.weight", "head.bias"}
    other = anil(nn.ModuleDict({"body": net(), "body_2": net()}), head="body")
    assert all(name.startswith("body.") for name in other.initial_params())


def test_boil_adapts_all_but_the_head():
    learner = boil(net(), lr=LR)
    state = learner.adapt(tree_map(lambda leaf: leaf[0], batch()).support)
    assert set(state) == {"body.0.weight", "body.0.bias"}


class Whole(nn.Module):
    """A net that is all body or all head."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.body = parts.get("body", nn.Identity())
        self.head = parts.get("head", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(("variant", "part"), [(anil, "head"), (boil, "body")])
def test_where_the_adapted_part_is_the_net_it_is_maml(variant: Callable[..., MAML], part: str):
    whole = Whole(**{part: net()})
    expected = gradients(MAML(net(), lr=LR))
    found = torch.autograd.grad(variant(whole, lr=LR)(batch()).sum(), list(whole.parameters()))
    torch.testing.assert_close(list(found), list(expected.values()))


def test_a_single_parameter_of_the_head_adapts_by_its_gradient():
    learner, task = MAML(net(), lr=LR, steps=1, adapt_parameters=["head.bias"]), batch()
    support = task.support.take(0)
    logits = learner.net(support.x)
    grad = ((logits.softmax(-1) - support.y) * support.weight[:, None]).sum(0)
    expected = learner.net.get_parameter("head.bias") - LR * grad / support.weight.sum()
    torch.testing.assert_close(learner.adapt(support)["head.bias"], expected)


def test_what_adapts_is_said_by_names_of_modules_and_parameters():
    learner = MAML(net(), adapt_parameters=["body.0.bias", "head"])
    assert set(learner.initial_params()) == {"body.0.bias", "head.weight", "head.bias"}
    assert set(MAML(net(), adapt_parameters="body").initial_params()) == {
        "body.0.weight",
        "body.0.bias",
    }
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert set(MAML(tied, adapt_parameters=["1"]).initial_params()) == {"0.weight", "1.bias"}
    assert set(boil(tied, head="1").initial_params()) == {"0.bias"}


def test_no_step_is_plain_training():
    learner = MAML(net(), lr=LR, steps=0)
    tasks = batch()
    plain = torch.stack(
        [
            cross_entropy(learner.net(x), Examples(x, y, weight))
            for x, y, weight in zip(*tasks.query, strict=True)
        ]
    )
    torch.testing.assert_close(learner(tasks), plain)


def test_adapting_goes_on_from_a_state():
    support = tree_map(lambda leaf: leaf[0], batch()).support
    two, four = (MAML(net(), lr=LR, steps=steps) for steps in (2, 4))
    torch.testing.assert_close(two.adapt(support, two.adapt(support)), four.adapt(support))


def test_padding_does_not_shorten_the_inner_step():
    support = tree_map(lambda leaf: leaf[0], batch()).support
    twice = Examples.cat(support, support)
    padded = twice._replace(weight=torch.cat([support.weight, 0 * support.weight]))
    learner = MAML(net(), lr=LR)
    torch.testing.assert_close(learner.adapt(padded), learner.adapt(support))


def test_frozen_parameters_are_not_adapted():
    frozen = net()
    frozen.head.bias.requires_grad_(False)
    learner = MAML(frozen, lr=LR)
    assert "head.bias" not in learner.adapt(tree_map(lambda leaf: leaf[0], batch()).support)


def test_nothing_to_adapt_is_an_error():
    with pytest.raises(ValueError, match=r"no trainable parameter.*The net has: body.0.weight"):
        MAML(net(), adapt_parameters=lambda name: "tail" in name)


@pytest.mark.parametrize("variant", [anil, boil])
def test_a_name_that_the_net_has_not_is_an_error_that_says_the_nearest(
    variant: Callable[..., MAML],
):
    with pytest.raises(ValueError, match=r"no module or parameter 'haed'. .* mean 'head'"):
        variant(net(), head="haed")


def test_a_rate_of_its_own_for_every_parameter():
    theta = {"a": torch.ones(2), "b": torch.ones(3)}
    rates = {"a": torch.tensor([0.5, 0.25]), "b": torch.zeros(3)}

    def loss(params: dict[str, Tensor]) -> Tensor:
        return sum((p.sum() for p in params.values()), torch.zeros(()))

    found = descend(loss, theta, lr=rates, steps=2)
    torch.testing.assert_close(found, {"a": torch.tensor([0.0, 0.5]), "b": torch.ones(3)})


def test_adapting_helps_from_a_common_start():
    # a regression to a constant: after enough steps the net says the support's mean
    targets = itertools.starmap(torch.full, [((4, 1), 3.0), ((4, 1), -2.0)])
    for y in targets:
        support = Examples(torch.zeros(4, 1), y, torch.ones(4))
        learner = MAML(Point(torch.zeros(1)), lr=0.2, steps=50, criterion=squared_error)
        state = learner.adapt(support)
        torch.testing.assert_close(learner.predict(state, support.x), y)


class Counted(nn.Module):
    """A body that counts its calls, and a head; `again` makes the head not the end."""

    def __init__(self, again: bool = False):
        super().__init__()
        self.body, self.head, self.again, self.calls = (
            nn.Linear(8, 8),
            nn.Linear(8, 3),
            again,
            0,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.head(self.body(x).tanh())
        return y + self.head(x) if self.again else y


@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_what_comes_before_the_adapted_part_is_computed_once(
    execution: Execution, double: None
):
    tasks = Blobs().sample(3, torch.Generator().manual_seed(0))
    tasks = tree_map(torch.Tensor.double, tasks)
    slopes = []
    for again in (False, True):
        torch.manual_seed(0)
        net = Counted()
        learner = anil(net, lr=LR, steps=4)
        learner.execution = execution
        if again:  # every step by the whole net: the hook does not see the end of it
            net.forward = lambda x, net=net: Counted.forward(net, x) + 0  # pyright: ignore
        net.calls = 0
        losses = learner(tasks)
        batches = 1 if execution == "vmap" else 3
        assert net.calls == batches * (1 + again * 4 + 1)  # support, and query
        slopes.append(torch.autograd.grad(losses.sum(), list(net.parameters())))
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_a_head_that_is_not_the_end_is_adapted_all_the_same(double: None):
    net = Counted(again=True)
    task = tree_map(torch.Tensor.double, Blobs().sample(1, torch.Generator()))
    task = tree_map(lambda leaf: leaf[0], task)
    found = anil(net, lr=LR, steps=2).adapt(task.support)
    params: dict[str, Tensor] = dict(net.named_parameters())
    for _ in range(2):
        error = cross_entropy(functional_call(net, params, (task.support.x,)), task.support)
        heads = [params["head.weight"], params["head.bias"]]
        for name, slope in zip(found, torch.autograd.grad(error, heads), strict=True):
            params[name] = params[name] - LR * slope
    for name, p in found.items():
        torch.testing.assert_close(p, params[name], rtol=1e-10, atol=1e-12)
