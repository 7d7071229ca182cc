"""MetaOptNet's support vector machine against liblinear's and against a general solver."""

import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from quickstudy import Examples, MetaOptNet, Task, meta_opt_net_ridge
from quickstudy.core.tree import tree_map
from quickstudy.learners.heads import svm
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def draw(n: int, d: int, c: int, *, apart: float = 1.0) -> Examples:
    y = torch.eye(c)[torch.arange(n) % c]
    return Examples(torch.randn(n, d) + apart * y @ torch.randn(c, d), y, torch.ones(n))


def primal(examples: Examples, W: Tensor, C: float) -> Tensor:
    """What is to be least: half the squared weights, plus C times the violated margins."""
    score, y = examples.x @ W, examples.y
    violated = (score + 1 - y).amax(1) - (score * y).sum(1)
    return W.square().sum() / 2 + C * (examples.weight * violated).sum()


@pytest.mark.parametrize("n, d, c, C", [(25, 64, 5, 0.1), (20, 3, 4, 0.1), (40, 8, 20, 1.0)])
def test_weights_are_those_of_liblinear(n: int, d: int, c: int, C: float):
    support = draw(n, d, c)
    other = LinearSVC(
        C=C, multi_class="crammer_singer", fit_intercept=False, tol=1e-9, max_iter=200_000
    ).fit(support.x.numpy(), support.y.argmax(1).numpy())
    W, expected = svm(support, C), torch.from_numpy(other.coef_).T
    torch.testing.assert_close(W, expected, rtol=1e-4, atol=1e-5)
    assert primal(support, W, C) <= primal(support, expected, C) + 1e-9


def test_the_dual_is_that_of_a_general_solver():
    support, C = draw(6, 4, 3)._replace(weight=torch.tensor([1.0, 2, 0.5, 1, 1, 3])), 0.3
    x, y = support.x.numpy(), support.y.numpy()
    gram, bound = x @ x.T, (C * support.weight[:, None] * support.y).numpy()

    def dual(alpha):  # eq. 8, to be least
        alpha = alpha.reshape(6, 3)
        return (alpha * (gram @ alpha)).sum() / 2 - (alpha * y).sum()

    def grad(alpha):
        return (gram @ alpha.reshape(6, 3) - y).ravel()

    sums = torch.eye(6).repeat_interleave(3, 1).numpy()
    found = minimize(
        dual,
        torch.zeros(18).numpy(),
        jac=grad,
        method="SLSQP",
        bounds=[(None, upper) for upper in bound.ravel()],
        constraints=LinearConstraint(sums, 0, 0),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    W = torch.from_numpy(x.T @ found.x.reshape(6, 3))
    torch.testing.assert_close(svm(support, C), W, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n, d, c", [(9, 12, 3), (8, 3, 4)])
def test_the_gradient_is_that_of_finite_differences(n: int, d: int, c: int):
    support = draw(n, d, c)
    x = support.x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: svm(support._replace(x=x)), x, fast_mode=True)


def test_a_gradient_of_the_loss_under_vmap_is_that_of_finite_differences():
    learner = MetaOptNet(nn.Linear(8, 5))
    batch = Blobs(ways=3, shots=2).sample(2, torch.Generator().manual_seed(3))
    batch = tree_map(Tensor.double, batch)
    named = dict(learner.named_parameters())
    assert set(named) == {"scale", "embed.weight", "embed.bias"}

    def losses(*values: Tensor) -> Tensor:
        given = dict(zip(named, values, strict=True))
        return torch.func.functional_call(learner, given, (batch,))

    assert torch.autograd.gradcheck(losses, tuple(named.values()), fast_mode=True)


def test_padding_and_weights_are_numbers_of_examples():
    support, times = draw(6, 4, 3), torch.tensor([1, 2, 0, 1, 3, 0])
    weighted = support._replace(weight=times.double())
    repeated = Examples(*(leaf.repeat_interleave(times, 0) for leaf in support))
    found = []
    for examples in (weighted, repeated):
        x = support.x.clone().requires_grad_()
        inputs = x if examples is weighted else x.repeat_interleave(times, 0)
        W = svm(examples._replace(x=inputs))
        found.append((W, *torch.autograd.grad(W.square().sum(), x)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert (found[0][1][times == 0] == 0).all()


def test_examples_without_weight_are_no_examples():
    W = svm(draw(6, 4, 3)._replace(weight=torch.zeros(6)))
    assert (W == 0).all()


@pytest.mark.parametrize("d, apart, size", [(640, 1.0, 1.0), (64, 0.0, 0.01), (2, 1.0, 30.0)])
def test_float32_is_enough(d: int, apart: float, size: float):
    exact = draw(25, d, 5, apart=apart)
    exact = exact._replace(x=size * torch.cat([exact.x[:20], exact.x[:5]]))  # repeated ones
    rounded = tree_map(Tensor.float, exact)
    x = rounded.x.requires_grad_()
    W = svm(rounded._replace(x=x))
    (grad,) = torch.autograd.grad(W.square().sum(), x)
    assert W.dtype == torch.float32 and grad.isfinite().all()
    best = primal(exact, svm(exact, steps=40), 0.1)
    assert primal(exact, W.detach().double(), 0.1) < 1.005 * best


def test_more_steps_change_nothing():
    support = draw(25, 64, 5)
    torch.testing.assert_close(svm(support), svm(support, steps=30), rtol=1e-6, atol=1e-9)


def test_ridge_is_a_base_learner_too():
    support, x = draw(6, 9, 3), torch.randn(4, 9)
    learner = meta_opt_net_ridge(nn.Flatten(), penalty=2.0)
    with torch.no_grad():
        learner.scale.fill_(3.0)
    gram = support.x @ support.x.T + 2 * torch.eye(6)
    expected = 3 * x @ support.x.T @ torch.linalg.solve(gram, support.y)
    torch.testing.assert_close(learner.predict(learner.adapt(support), x), expected)
    assert set(dict(learner.named_parameters())) == {"scale"}


def test_logits_are_scaled_scores_and_examples_may_come_later():
    support, query = draw(9, 4, 3), draw(5, 4, 3)
    learner = MetaOptNet(nn.Flatten())
    with torch.no_grad():
        learner.scale.fill_(3.0)
    halves = (support.take(rows) for rows in torch.arange(9).chunk(2))
    state = None
    for half in halves:
        state = learner.adapt(half, state)
    assert state is not None
    torch.testing.assert_close(learner.predict(state, query.x), 3 * query.x @ svm(support))
    task = Task(support, query)
    expected = nn.functional.cross_entropy(3 * query.x @ svm(support), query.y)
    torch.testing.assert_close(learner.loss(task), expected)
