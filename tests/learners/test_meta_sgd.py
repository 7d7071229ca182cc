"""Meta-SGD against MAML, finite differences and a loop written by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import MAML, Examples, MetaSGD, Task
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")

LR = 0.1


def batch(size: int = 3) -> Task[Examples]:
    drawn = Blobs().sample(size, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf.double(), drawn)


def support(number: int = 0) -> Examples:
    return tree_map(lambda leaf: leaf[number], batch()).support


def net() -> MLP:
    torch.manual_seed(1)
    return MLP(8, 3, hidden=(5,), activation=nn.Tanh)


def in_head(name: str) -> bool:
    return name.startswith("head.")


def everywhere(name: str) -> bool:
    return True


def scattered(learner: MetaSGD) -> MetaSGD:
    """With rates that differ by entry, some of them negative."""
    for p in learner.rates.parameters():
        p.data.normal_(LR, LR)
    return learner


def gradients(learner: nn.Module, execution: Execution = "vmap") -> dict[str, Tensor]:
    learner.execution = execution  # pyright: ignore[reportArgumentType]
    params = dict(learner.named_parameters())
    found = torch.autograd.grad(learner(batch()).sum(), list(params.values()))
    return dict(zip(params, found, strict=True))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapt_parameters", [None, ["head"]])
@pytest.mark.parametrize("steps", [1, 3])
def test_rates_that_are_all_the_same_make_it_maml(
    steps: int, adapt_parameters: list[str] | None, first_order: bool
):
    maml = MAML(
        net(), lr=LR, steps=steps, first_order=first_order, adapt_parameters=adapt_parameters
    )
    learner = MetaSGD(
        net(),
        lr=(LR, LR),
        steps=steps,
        first_order=first_order,
        adapt_parameters=adapt_parameters,
    )
    torch.testing.assert_close(learner(batch()), maml(batch()))
    found = gradients(learner)
    for name, grad in gradients(maml).items():
        torch.testing.assert_close(found[name], grad)


def by_hand(
    learner: MetaSGD, adapt_parameters: Callable[[str], bool], *, steps: int, first_order: bool
) -> dict[str, Tensor]:
    """The meta-gradients as a loop over tasks and steps, by `autograd.grad` only."""
    params = dict(learner.net.named_parameters())
    rates = {
        name: learner.get_parameter(f"rates.{name}")
        for name in params
        if adapt_parameters(name)
    }
    total = torch.zeros(())
    for number in range(3):
        task = tree_map(lambda leaf, i=number: leaf[i], batch())
        fast = {name: params[name] for name in rates}
        for _ in range(steps):
            now = {**params, **fast}
            if first_order:
                now = {name: p.detach().requires_grad_() for name, p in now.items()}
            logits = functional_call(learner.net, now, (task.support.x,))
            support_loss = nn.functional.cross_entropy(logits, task.support.y)
            grads = torch.autograd.grad(
                support_loss, [now[name] for name in rates], create_graph=not first_order
            )
            steps_taken = zip(fast.items(), grads, strict=True)
            fast = {name: p - rates[name] * grad for (name, p), grad in steps_taken}
        logits = functional_call(learner.net, {**params, **fast}, (task.query.x,))
        total = total + nn.functional.cross_entropy(logits, task.query.y)
    wanted = {f"net.{name}": p for name, p in params.items()}
    wanted |= {f"rates.{name}": p for name, p in rates.items()}
    return dict(zip(wanted, torch.autograd.grad(total, list(wanted.values())), strict=True))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapt_parameters", [everywhere, in_head])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradients_are_those_of_a_loop_by_hand(
    steps: int, adapt_parameters: Callable[[str], bool], first_order: bool, execution: Execution
):
    learner = MetaSGD(
        net(), steps=steps, first_order=first_order, adapt_parameters=adapt_parameters
    )
    scattered(learner)
    expected = by_hand(learner, adapt_parameters, steps=steps, first_order=first_order)
    torch.testing.assert_close(gradients(learner, execution), expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_a_rate_after_one_step_is_minus_the_product_of_the_two_slopes():
    # d L(θ - α ∘ s) / dα = -s ∘ ∇L(φ), to first order and to second alike
    learner = MetaSGD(net(), lr=(LR, LR))
    task = tree_map(lambda leaf: leaf[0], batch())

    def grads(at: dict[str, Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        at = {name: p.detach().requires_grad_() for name, p in at.items()}
        loss = nn.functional.cross_entropy(functional_call(learner.net, at, (x,)), y)
        return list(torch.autograd.grad(loss, list(at.values())))

    before = grads(learner.initial_params(), task.support.x, task.support.y)
    after = grads(learner.adapt(task.support), task.query.x, task.query.y)
    expected = [-s * q for s, q in zip(before, after, strict=True)]
    found = torch.autograd.grad(learner.loss(task), list(learner.rates.parameters()))
    torch.testing.assert_close(list(found), expected)


@pytest.mark.parametrize("adapt_parameters", [None, ["head"]])
def test_meta_gradients_are_those_of_finite_differences(adapt_parameters: list[str] | None):
    learner = scattered(MetaSGD(net(), steps=2, adapt_parameters=adapt_parameters))
    params = dict(learner.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(params, values, strict=True)), (batch(2),))

    assert torch.autograd.gradcheck(loss, tuple(params.values()))


def test_rates_have_the_names_and_shapes_of_what_adapts():
    learner = MetaSGD(net(), adapt_parameters=["body"])
    shapes = {name: p.shape for name, p in learner.rates.named_parameters()}
    expected = {name: p.shape for name, p in net().body.named_parameters(prefix="body")}
    assert shapes == expected == {name: p.shape for name, p in learner.initial_params().items()}
    assert set(learner.adapt(support())) == set(expected)


def test_rates_start_at_one_value_of_the_range():
    firsts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        learner = MetaSGD(nn.Linear(8, 3), lr=(0.3, 0.5))
        (first,) = {rate for p in learner.rates.parameters() for rate in p.flatten().tolist()}
        firsts.add(first)
    assert len(firsts) == 20 and 0.3 < min(firsts) < 0.35 and 0.45 < max(firsts) < 0.5


def test_names_that_containers_have_methods_of_are_names_like_others():
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys = nn.Parameter(torch.ones(8, 3))
            self.values = nn.ParameterDict({"items/pop": torch.ones(3)})

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.keys + self.values["items/pop"]

    learner = MetaSGD(Memory())
    assert set(learner.adapt(support())) == {"keys", "values.items/pop"}


def test_adapting_goes_on_from_a_state():
    one, two = MetaSGD(net(), steps=1), MetaSGD(net(), steps=2)
    for learner in one, two:
        torch.manual_seed(2)
        scattered(learner)
    torch.testing.assert_close(one.adapt(support(), one.adapt(support())), two.adapt(support()))


def test_a_rate_of_zero_freezes_and_a_negative_one_ascends():
    learner = MetaSGD(nn.Linear(8, 3), lr=(0.0, 0.0))
    learner.rates.get_parameter("bias").data.fill_(-0.1)
    state = learner.adapt(support())
    torch.testing.assert_close(state["weight"], learner.net.get_parameter("weight"))

    def support_loss(fast: dict[str, Tensor]) -> float:
        return learner.criterion(learner.predict(fast, support().x), support()).item()

    assert support_loss(state) > support_loss(learner.initial_params()) and math.isfinite(
        support_loss(state)
    )


def test_nothing_to_adapt_is_an_error():
    with pytest.raises(ValueError, match="Did you mean 'head'"):
        MetaSGD(net(), adapt_parameters=["heads"])
