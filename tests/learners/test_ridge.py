"""Ridge regression against scikit-learn's, and its moments against recomputation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import nn

from quickstudy.core.functional import leaves
from quickstudy.core.task import Examples, Task
from quickstudy.learners.heads.ridge import RidgeRegression


def draw(seed: int, n: int, d: int, c: int, shift: float = 0.0) -> Examples:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(n, d) + shift
    y = x @ normal(d, c) + 3 + 0.1 * normal(n, c)
    return Examples(x, y, torch.rand(n, generator=generator, dtype=torch.float64) + 0.1)


def plain(penalty: float) -> RidgeRegression:
    learner = RidgeRegression(nn.Flatten(), penalty=1.0).double()
    with torch.no_grad():  # to the last bit, which float32 would not give
        learner.log_penalty.copy_(torch.tensor(penalty, dtype=torch.float64).log())
    return learner


def oracle(support: Examples, penalty: float, x: torch.Tensor) -> torch.Tensor:
    ridge = Ridge(alpha=penalty)
    ridge.fit(support.x.numpy(), support.y.numpy(), sample_weight=support.weight.numpy())
    return torch.from_numpy(ridge.predict(x.numpy())).reshape(len(x), -1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    d=st.integers(1, 8),
    c=st.integers(1, 3),
    penalty=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_equals_scikit_learn(seed: int, n: int, d: int, c: int, penalty: float):
    support, learner = draw(seed, n, d, c), plain(penalty)
    x = draw(seed + 1, 4, d, c).x
    got = learner.predict(learner.adapt(support), x)
    torch.testing.assert_close(got, oracle(support, penalty, x), rtol=1e-8, atol=1e-8)


def test_more_examples_later_are_all_examples_at_once_even_far_from_the_origin():
    learner = plain(1.0)
    whole = draw(0, 30, 4, 2, shift=1e6)
    state = None
    for rows in torch.arange(30).split([1, 9, 20]):
        state = learner.adapt(whole.take(rows), state)
    assert state is not None
    for part, at_once in zip(leaves(state), leaves(learner.adapt(whole)), strict=True):
        torch.testing.assert_close(part, at_once, rtol=1e-7, atol=1e-7)
    x = draw(1, 5, 4, 2, shift=1e6).x
    torch.testing.assert_close(
        learner.predict(state, x), oracle(whole, 1.0, x), rtol=1e-9, atol=1e-6
    )


def test_examples_of_no_weight_count_for_nothing():
    learner, support = plain(1.0), draw(0, 6, 3, 1)
    padded = Examples(
        torch.cat([support.x, torch.full((2, 3), 9.0)]),
        torch.cat([support.y, torch.full((2, 1), -9.0)]),
        torch.cat([support.weight, torch.zeros(2)]),
    )
    x = draw(1, 4, 3, 1).x
    torch.testing.assert_close(
        learner.predict(learner.adapt(padded), x), learner.predict(learner.adapt(support), x)
    )
    nothing = learner.adapt(padded._replace(weight=torch.zeros(8, dtype=torch.float64)))
    assert (learner.predict(nothing, x) == 0).all()
    torch.testing.assert_close(  # and nothing known before is as no state at all
        learner.predict(learner.adapt(support, nothing), x),
        learner.predict(learner.adapt(support), x),
    )


def test_the_loss_has_the_gradient_of_finite_differences():
    learner = RidgeRegression(nn.Linear(3, 2), penalty=0.5).double()
    task = Task(draw(0, 5, 3, 1), draw(1, 4, 3, 1))
    named = dict(learner.named_parameters())
    assert set(named) == {"log_penalty", "embed.weight", "embed.bias"}

    def loss(*values: torch.Tensor) -> torch.Tensor:
        batch = Task(*(part.take(None) for part in task))
        given = dict(zip(named, values, strict=True))
        return torch.func.functional_call(learner, given, (batch,))[0]

    assert torch.autograd.gradcheck(loss, tuple(named.values()))


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_not_positive_is_refused(penalty: float):
    with pytest.raises(ValueError, match="positive number"):
        RidgeRegression(nn.Flatten(), penalty=penalty)
