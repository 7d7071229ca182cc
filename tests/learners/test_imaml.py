"""iMAML against linear solves, explicit Hessians and differentiating through the descent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import IMAML, MAML, Examples, Task
from quickstudy.core.criteria import cross_entropy
from quickstudy.core.linear import conjugate_gradients
from quickstudy.core.parameters import Params
from quickstudy.core.tree import tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")
PAPER: dict[str, Any] = {"cg_damping": 0.0, "strength_damping": 0.0}  # its own equation
CONVERGED: dict[str, Any] = {"lr": 0.15, "steps": 90, "strength": 2.0}


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
    return Examples(torch.zeros(1, 1), point[None], torch.ones(1))


def positive(size: int) -> Tensor:
    root = torch.randn(size, size)
    return root @ root.T / size


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_on_a_quadratic_it_is_the_linear_solve(strength: float):
    # A (φ - s) + λ (φ - θ) = 0, so dφ/dθ = λ (A + λI)⁻¹, and the loss ½ (φ - q)ᵀ A (φ - q)
    # has the gradient λ (A + λI)⁻¹ A (φ - q)
    curvature = positive(4)
    theta, support, query = torch.randn(3, 4)
    learner = IMAML(
        Point(theta.clone()),
        lr=0.2,
        steps=250,
        strength=strength,
        cg_steps=4,
        criterion=bowl(curvature),
        **PAPER,
    )
    system = curvature + strength * torch.eye(4)
    phi = torch.linalg.solve(system, curvature @ support + strength * theta)
    grad = curvature @ (phi - query)
    torch.testing.assert_close(learner.adapt(at(support))["at"], phi)
    loss = learner.loss(Task(at(support), at(query)))
    torch.testing.assert_close(loss, 0.5 * (phi - query) @ grad)
    (found,) = torch.autograd.grad(loss, list(learner.parameters()))
    torch.testing.assert_close(found, strength * torch.linalg.solve(system, grad))


def task() -> Task[Examples]:
    drawn = Blobs(shots=3).sample(1, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf[0], drawn)


def net() -> MLP:
    torch.manual_seed(1)
    return MLP(8, 3, hidden=(3,), activation=nn.Tanh)


def gradients(learner: IMAML) -> Params:
    found = torch.autograd.grad(learner.loss(task()), list(learner.net.parameters()))
    return dict(zip(dict(learner.net.named_parameters()), found, strict=True))


@pytest.mark.parametrize("damped", [False, True])
def test_it_is_the_solve_with_the_explicit_hessian(damped: bool):
    learner = IMAML(net(), cg_steps=60, **CONVERGED, **({} if damped else PAPER))
    params = learner.adapt(task().support)
    shapes = {name: p.shape for name, p in params.items()}

    def loss(flat: Tensor, examples: Examples) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        point = {n: part.view(shapes[n]) for n, part in zip(shapes, parts, strict=True)}
        logits = functional_call(learner.net, point, (examples.x,))
        return nn.functional.cross_entropy(logits, examples.y)

    flat = torch.cat([p.flatten() for p in params.values()]).requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda p: loss(p, task().support), flat)
    assert isinstance(hessian, Tensor)
    (grad,) = torch.autograd.grad(loss(flat, task().query), flat)
    one, strength = (2, 12) if damped else (1, 2)  # the damping of the released code
    expected = torch.linalg.solve(one * torch.eye(len(flat)) + hessian / strength, grad)
    found = torch.cat([grad.flatten() for grad in gradients(learner).values()])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("head_only", [False, True])
def test_at_the_minimum_it_is_differentiating_through_the_descent(head_only: bool):
    # by a loop by hand: of the parameters that are not adapted, too
    def adapt_parameters(name: str) -> bool:
        return name.startswith("head.") or not head_only

    learner = IMAML(net(), cg_steps=60, adapt_parameters=adapt_parameters, **CONVERGED, **PAPER)
    params = dict(learner.net.named_parameters())
    fast = {name: p for name, p in params.items() if adapt_parameters(name)}
    for _ in range(CONVERGED["steps"]):
        logits = functional_call(learner.net, {**params, **fast}, (task().support.x,))
        pull = torch.stack([(p - params[name]).square().sum() for name, p in fast.items()])
        inner_loss = (
            nn.functional.cross_entropy(logits, task().support.y) + pull.sum()
        )  # λ/2 = 1
        grads = torch.autograd.grad(inner_loss, [*fast.values()], create_graph=True)
        fast = {n: p - 0.15 * s for (n, p), s in zip(fast.items(), grads, strict=True)}
    logits = functional_call(learner.net, {**params, **fast}, (task().query.x,))
    loss = nn.functional.cross_entropy(logits, task().query.y)
    expected = torch.autograd.grad(loss, list(params.values()))
    torch.testing.assert_close(learner.loss(task()), loss)
    torch.testing.assert_close(list(gradients(learner).values()), list(expected))


def test_strong_pull_is_no_adaptation():
    strength = 1e9
    learner = IMAML(net(), lr=1 / strength, strength=strength, cg_damping=0)
    start = dict(learner.net.named_parameters())
    torch.testing.assert_close(learner.adapt(task().support), start)
    plain = cross_entropy(learner.net(task().query.x), task().query)
    expected = torch.autograd.grad(plain, list(start.values()))
    torch.testing.assert_close(learner.loss(task()), plain)
    torch.testing.assert_close(list(gradients(learner).values()), list(expected))


def test_without_pull_it_adapts_as_maml():
    model = net()
    free, maml = IMAML(model, strength=0, steps=5), MAML(model, lr=0.1, steps=5)
    support = task().support
    torch.testing.assert_close(free.adapt(support), maml.adapt(support))
    four, two = IMAML(model, steps=4), IMAML(model, steps=2)
    torch.testing.assert_close(two.adapt(support, two.adapt(support)), four.adapt(support))


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_conjugate_gradients_are_best_in_the_space_they_have_seen(steps: int):
    # after k steps: the x in span(b, Ab, …, Aᵏ⁻¹b) that is nearest to A⁻¹b in the norm of A
    matrix, target = positive(8) + 0.1 * torch.eye(8), torch.randn(8)

    def times(v: Params) -> Params:
        flat = matrix @ torch.cat([v["a"], v["b"].flatten()])
        return {"a": flat[:2], "b": flat[2:].view(2, 3)}

    found = conjugate_gradients(times, {"a": target[:2], "b": target[2:].view(2, 3)}, steps)
    seen = [target / target.norm()]
    for _ in range(min(steps, 8) - 1):
        new = matrix @ seen[-1]
        for _ in range(2):  # twice is enough
            new = new - sum((v @ new) * v for v in seen)
        seen.append(new / new.norm())
    space = torch.stack(seen, 1)  # (8, k)
    best = space @ torch.linalg.solve(space.T @ matrix @ space, space.T @ target)
    torch.testing.assert_close(torch.cat([found["a"], found["b"].flatten()]), best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_gradients_stay_once_they_have_arrived(dtype: torch.dtype):
    scale = torch.arange(1, 4).to(dtype)
    for target in (torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)):
        found = conjugate_gradients(lambda v: {"a": scale * v["a"]}, {"a": target}, 200)
        torch.testing.assert_close(found["a"], target / scale)


def test_a_state_keeps_no_graph():
    learner = IMAML(net(), adapt_parameters=lambda name: "head" in name)
    state = learner.adapt(task().support, learner.adapt(task().support))
    assert set(state) == {"head.weight", "head.bias"}
    assert not any(p.requires_grad for p in state.values())


def test_nothing_to_adapt_is_an_error():
    with pytest.raises(ValueError, match=r"no trainable parameter.*The net has: body.0.weight"):
        IMAML(net(), adapt_parameters=lambda name: False)


def test_conjugate_gradients_stop_where_curvature_is_not_positive(double: None) -> None:
    scale = torch.tensor([2.0, -1.0])
    target = {"a": torch.tensor([1.0, 1.0])}
    found = conjugate_gradients(lambda v: {"a": scale * v["a"]}, target, steps=9)
    # the first step, 2 / 1 along the target, leaves curvature -8 along the second direction
    torch.testing.assert_close(found["a"], torch.tensor([2.0, 2.0]))
