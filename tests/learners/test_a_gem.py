"""The projection against a solver of quadratic programmes, the steps against a loop."""

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from quickstudy import AGEM, Examples, FineTuning
from quickstudy.learners.lifelong.a_gem import project
from quickstudy.learners.lifelong.replay_buffer import sample
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def experiences(count: int = 2) -> list[Examples]:
    tasks = Blobs(shots=4).sample(count, torch.Generator().manual_seed(0)).support
    return [Examples(*(leaf[i].double() for leaf in tasks)) for i in range(count)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return MLP(8, 3, hidden=(7,), activation=nn.Tanh)


@pytest.mark.parametrize("seed", range(4))
def test_the_projection_is_the_nearest_that_is_allowed(seed: int):
    torch.manual_seed(seed)
    g, r = ({"a": torch.randn(2, 2), "b": torch.randn(3)} for _ in range(2))
    flat, against = (torch.cat([t["a"].flatten(), t["b"]]) for t in (g, r))
    found = project(g, r)
    got = torch.cat([found["a"].flatten(), found["b"]])
    best = minimize(
        lambda z: ((z - flat.numpy()) ** 2).sum() / 2,
        flat.numpy(),
        jac=lambda z: z - flat.numpy(),
        constraints={"type": "ineq", "fun": lambda z: z @ against.numpy()},
        method="SLSQP",
        tol=1e-14,
    )
    torch.testing.assert_close(got, torch.tensor(best.x), atol=1e-6, rtol=1e-6)
    assert got @ against > -1e-12
    if flat @ against >= 0:
        assert torch.equal(got, flat)
    else:
        torch.testing.assert_close(got @ against, torch.tensor(0.0))


def test_without_a_past_it_is_fine_tuning():
    first, _ = experiences()
    learned = AGEM(net(), batch_size=5, epochs=2).adapt(first).params
    for name, value in FineTuning(net(), batch_size=5, epochs=2).adapt(first).items():
        torch.testing.assert_close(learned[name], value, rtol=0, atol=0)


def test_without_a_conflict_it_is_fine_tuning():
    """The memory holds what comes again: one batch, of which a small step lowers the loss."""
    first, _ = experiences()
    guarded, plain = (
        AGEM(net(), batch_size=12, lr=0.01),
        FineTuning(net(), batch_size=12, lr=0.01),
    )
    again = guarded.adapt(first, guarded.adapt(first)).params
    for name, value in plain.adapt(first, plain.adapt(first)).items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_steps_are_those_of_a_loop():
    first, second = experiences()
    opposed = second._replace(x=first.x, y=first.y.roll(1, 1))  # all conflicts
    learner = AGEM(net(), batch_size=5, lr=0.3, replay_batch_size=6, memory_size=7)
    state = learner.adapt(first)
    module, conflicts = net(), 0
    module.load_state_dict(state.params)

    def grads(examples: Examples) -> Tensor:
        loss = nn.functional.cross_entropy(module(examples.x), examples.y)
        return torch.cat(
            [p.flatten() for p in torch.autograd.grad(loss, list(module.parameters()))]
        )

    for salt, (x, y) in enumerate(zip(opposed.x.split(5), opposed.y.split(5), strict=True), 1):
        old = sample(state.buffer, 6, salt=salt)
        g, r = grads(Examples(x, y, torch.ones(len(x)))), grads(old)
        if g @ r < 0:
            conflicts += 1
            g = g - (g @ r) / (r @ r) * r
        vector = nn.utils.parameters_to_vector(module.parameters()) - 0.3 * g
        nn.utils.vector_to_parameters(vector.detach(), module.parameters())
    assert conflicts
    learned = learner.adapt(opposed, state)
    for name, value in module.named_parameters():
        torch.testing.assert_close(learned.params[name], value)
    assert learned.buffer.seen == len(first.x) + len(second.x)
