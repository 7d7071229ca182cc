"""Meta-Curvature against the Kronecker product written out, MAML, and finite differences."""

from collections.abc import Sequence
from functools import reduce

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import MAML, Examples, MetaCurvature, Task
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.learners.gradient.meta_curvature import modes, transform
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")

LR = 0.1
VECTORS, IMAGES = Blobs(), Blobs(shape=(1, 16, 16))


def batch(tasks: Blobs = VECTORS, size: int = 3) -> Task[Examples]:
    drawn = tasks.sample(size, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf.double(), drawn)


def support() -> Examples:
    return tree_map(lambda leaf: leaf[0], batch()).support


def net() -> MLP:
    torch.manual_seed(1)
    return MLP(8, 3, hidden=(5,), activation=nn.Tanh)


def conv() -> Conv4:
    torch.manual_seed(1)
    return use_batch_statistics(Conv4(3, channels=2, size=16))


def bent(learner: MetaCurvature) -> MetaCurvature:
    """With matrices that are far from identities, and not symmetric."""
    torch.manual_seed(2)
    for matrix in learner.curvature.parameters():
        matrix.data.add_(0.3 * torch.randn_like(matrix))
    return learner


def written_out(matrices: Sequence[Tensor]) -> Tensor:
    """The one matrix that multiplies a flattened gradient: entry by entry of a product."""
    return reduce(torch.kron, matrices)


def gradients(
    learner: nn.Module, tasks: Blobs = VECTORS, execution: Execution = "vmap"
) -> dict[str, Tensor]:
    learner.execution = execution  # pyright: ignore[reportArgumentType]
    params = dict(learner.named_parameters())
    found = torch.autograd.grad(learner(batch(tasks)).sum(), list(params.values()))
    return dict(zip(params, found, strict=True))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((), [1]),
        ((4,), [4]),
        ((4, 3), [4, 3]),
        ((4, 3, 5), [4, 3, 5]),
        ((4, 3, 2, 3), [4, 3, 6]),
        ((2, 3, 2, 2, 2), [2, 3, 8]),
    ],
    ids=str,
)
def test_transform_is_the_kronecker_product_times_the_flat_gradient(
    shape: tuple[int, ...], sizes: list[int]
):
    gradient = torch.randn(shape)
    matrices = [torch.randn(size, size) for size in sizes]
    assert list(modes(gradient).values()) == sizes
    expected = (written_out(matrices) @ gradient.flatten()).view(shape)
    torch.testing.assert_close(transform(gradient, matrices), expected)


def test_transform_of_a_matrix_is_a_product_from_both_sides():
    gradient, out, into = torch.randn(4, 3), torch.randn(4, 4), torch.randn(3, 3)
    torch.testing.assert_close(transform(gradient, [out, into]), out @ gradient @ into.mT)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapt_parameters", [None, ["head"]])
@pytest.mark.parametrize("steps", [1, 3])
def test_identities_make_it_maml(
    steps: int, adapt_parameters: list[str] | None, first_order: bool
):
    settings = {
        "lr": LR,
        "steps": steps,
        "first_order": first_order,
        "adapt_parameters": adapt_parameters,
    }
    maml, learner = MAML(net(), **settings), MetaCurvature(net(), **settings)
    torch.testing.assert_close(learner(batch()), maml(batch()))
    found = gradients(learner)
    for name, grad in gradients(maml).items():
        torch.testing.assert_close(found[name], grad)


def test_identities_make_it_maml_with_convolutions():
    maml, learner = MAML(conv(), lr=LR, steps=2), MetaCurvature(conv(), lr=LR, steps=2)
    torch.testing.assert_close(learner(batch(IMAGES)), maml(batch(IMAGES)))
    found = gradients(learner, IMAGES)
    for name, grad in gradients(maml, IMAGES).items():
        torch.testing.assert_close(found[name], grad)


def by_hand(learner: MetaCurvature, tasks: Blobs) -> dict[str, Tensor]:
    """The meta-gradients as a loop over tasks and steps, by `autograd.grad` and by the
    matrices of the parameters' size."""
    params = dict(learner.net.named_parameters())
    large, matrices = {}, {}
    for name in learner.initial_params():
        by_mode = dict(learner.curvature.get_submodule(name).named_parameters())
        matrices |= {f"curvature.{name}.{mode}": matrix for mode, matrix in by_mode.items()}
        large[name] = written_out([by_mode[m] for m in ("out", "in", "filter") if m in by_mode])
    total = torch.zeros(())
    for number in range(3):
        task = tree_map(lambda leaf, i=number: leaf[i], batch(tasks))
        fast: dict[str, Tensor] = {name: params[name] for name in large}
        for _ in range(learner.steps):
            now: dict[str, Tensor] = {**params, **fast}
            if learner.first_order:
                now = {name: p.detach().requires_grad_() for name, p in now.items()}
            logits = functional_call(learner.net, now, (task.support.x,))
            inner_loss = nn.functional.cross_entropy(logits, task.support.y)
            wanted = [now[name] for name in fast]
            grads = torch.autograd.grad(
                inner_loss, wanted, create_graph=not learner.first_order
            )
            fast = {
                name: p - learner.lr * (large[name] @ grad.flatten()).view(p.shape)
                for (name, p), grad in zip(fast.items(), grads, strict=True)
            }
        logits = functional_call(learner.net, {**params, **fast}, (task.query.x,))
        total = total + nn.functional.cross_entropy(logits, task.query.y)
    wanted = {f"net.{name}": p for name, p in params.items()} | matrices
    return dict(zip(wanted, torch.autograd.grad(total, list(wanted.values())), strict=True))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapt_parameters", [None, ["head"]])
def test_meta_gradients_are_those_of_the_large_matrix(
    adapt_parameters: list[str] | None, first_order: bool, execution: Execution
):
    learner = bent(
        MetaCurvature(
            net(), lr=LR, steps=2, first_order=first_order, adapt_parameters=adapt_parameters
        )
    )
    expected = by_hand(learner, VECTORS)
    found = gradients(learner, execution=execution)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_meta_gradients_are_those_of_the_large_matrix_with_convolutions():
    learner = bent(MetaCurvature(conv(), lr=LR, steps=1))
    expected = by_hand(learner, IMAGES)
    torch.testing.assert_close(gradients(learner, IMAGES), expected, rtol=1e-7, atol=1e-9)


def test_meta_gradients_are_those_of_finite_differences():
    learner = bent(MetaCurvature(net(), lr=LR, steps=2, adapt_parameters=["head"]))
    params = dict(learner.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        return functional_call(
            learner, dict(zip(params, values, strict=True)), (batch(size=2),)
        )

    assert torch.autograd.gradcheck(loss, tuple(params.values()))


@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_reaches_every_matrix(first_order: bool):
    learner = MetaCurvature(conv(), lr=LR, steps=1, first_order=first_order)
    matrices = dict(learner.curvature.named_parameters())
    assert len(matrices) == 4 * 3 + 2 + 4 + 1 + 2 * 4  # weights, biases, normalisation
    found = gradients(learner, IMAGES)
    # a bias before batch normalisation changes nothing, so neither does its curvature
    idle = {
        f"{index}.bias" for index, part in enumerate(conv().body) if isinstance(part, nn.Conv2d)
    }
    for name in matrices:
        reached = found[f"curvature.{name}"].abs().max() > 1e-9
        assert reached != any(part in name for part in idle), name


def test_matrices_are_called_by_parameter_and_mode():
    learner = MetaCurvature(
        nn.Sequential(nn.Conv2d(2, 3, (2, 5)), nn.Flatten(), nn.Linear(6, 4))
    )
    shapes = {name: tuple(p.shape) for name, p in learner.curvature.named_parameters()}
    assert shapes == {
        "0.weight.out": (3, 3),
        "0.weight.in": (2, 2),
        "0.weight.filter": (10, 10),
        "0.bias.out": (3, 3),
        "2.weight.out": (4, 4),
        "2.weight.in": (6, 6),
        "2.bias.out": (4, 4),
    }


def test_a_square_that_adapts_in_one_step():
    # of a linear model with inputs X, the curvature of the squared error is XᵀX / N: with its
    # inverse as the matrix of the input's mode, one step of 1/2 from anywhere is least squares
    x, y = torch.randn(10, 4), torch.randn(10, 2)
    learner = MetaCurvature(
        nn.Linear(4, 2, bias=False),
        lr=0.5,
        steps=1,
        criterion=lambda prediction, examples: (
            (prediction - examples.y).square().sum(-1).mean()
        ),
    )
    into = learner.curvature.get_parameter("weight.in")
    into.data = torch.linalg.inv(x.mT @ x / len(x))
    state = learner.adapt(Examples(x, y, torch.ones(10)))
    torch.testing.assert_close(state["weight"].mT, torch.linalg.lstsq(x, y).solution)


def test_adapting_goes_on_from_a_state():
    one, two = (bent(MetaCurvature(net(), lr=LR, steps=steps)) for steps in (1, 2))
    torch.testing.assert_close(one.adapt(support(), one.adapt(support())), two.adapt(support()))


def test_nothing_to_adapt_is_an_error():
    with pytest.raises(ValueError, match="Did you mean 'head'"):
        MetaCurvature(net(), adapt_parameters=["heads"])
