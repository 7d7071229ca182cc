"""Trust regions against natural gradients in closed form."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import quickstudy as qs
from quickstudy.environments import BernoulliBandit, action_distribution
from quickstudy.learners.policies.maml_rl import MAMLRL
from quickstudy.training.trust_region import TRPO
from tests.worlds import Sides, gained


class Bent(qs.Actor):
    """A loss and a divergence, both quadratic in the parameters; tasks are what to add."""

    def __init__(self, curvature: Tensor, grad: Tensor):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(grad)))
        self.unused = nn.Parameter(torch.ones(2))
        self.curvature, self.slope, self.bend = curvature, grad, 0.0

    def initial_state(self) -> Any: ...

    def act(self, state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any: ...

    def adapt(self, support: Any, state: Any = None) -> Any: ...

    def predict(self, state: Any, x: Tensor) -> Any: ...

    def loss(self, task: Any) -> Tensor:
        return self.slope @ self.w + self.bend * self.w.square().sum() + task.query

    def kl_divergence(self, task: Any) -> Tensor:
        return self.w @ self.curvature @ self.w / 2 * (1 + task.support)


def stepped(learner: Bent, spread: float = 0.0, **options: Any) -> tuple[Tensor, list[float]]:
    """What one step moves the parameters by, and the losses on the way."""
    optimizer, losses = TRPO(learner, **options), []
    tasks = qs.Task(spread * torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 3.0]))

    def closure() -> Tensor:
        optimizer.zero_grad()
        (loss := learner(tasks).mean()).backward()
        losses.append(loss.item())
        return loss

    losses.append(optimizer.step(closure).item())
    return learner.w.detach(), losses


def matrices() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    root = torch.randn(5, 5)
    return root @ root.T + torch.eye(5), torch.randn(5)


@pytest.mark.usefixtures("double")
def test_a_step_is_the_natural_gradient_to_the_edge_of_the_region() -> None:
    curvature, grad = matrices()
    moved, losses = stepped(Bent(curvature, grad), damping=0.0)
    natural = torch.linalg.solve(curvature, grad)
    # the edge itself is within rounding: the first or the second length is taken
    expected = -natural * (0.02 / (grad @ natural)).sqrt()
    factor = (moved @ expected) / (expected @ expected)
    torch.testing.assert_close(moved, factor * expected)
    assert factor.item() == pytest.approx(1) or factor.item() == pytest.approx(0.8)
    assert losses == [2.0, 2.0]


@pytest.mark.usefixtures("double")
def test_the_fisher_information_is_a_mean_over_the_tasks_it_is_of() -> None:
    curvature, grad = matrices()
    options: Any = {"damping": 0.0, "backtrack": 0.999, "tries": 1000}
    whole, _ = stepped(Bent(curvature, grad), spread=0.5, **options)
    first, _ = stepped(Bent(curvature, grad), spread=0.5, fisher_tasks=1, **options)
    same, _ = stepped(Bent(curvature, grad), **options)
    torch.testing.assert_close(whole, same, rtol=2e-3, atol=0)
    # half as curved, so it would go √2 as far: but the line search looks at all
    torch.testing.assert_close(first, same, rtol=2e-3, atol=0)


@pytest.mark.usefixtures("double")
def test_damping_bends_to_the_plain_gradient() -> None:
    curvature, grad = matrices()
    moved, _ = stepped(Bent(curvature, grad), damping=1e6)
    cosine = nn.functional.cosine_similarity(moved, -grad, 0)
    assert cosine > 1 - 1e-6


@pytest.mark.usefixtures("double")
def test_a_step_that_helps_only_when_short_is_made_short() -> None:
    curvature, grad = matrices()
    learner = Bent(curvature, grad)
    learner.bend = 30.0
    moved, _ = stepped(learner, damping=0.0)
    assert 0 < moved @ curvature @ moved / 2 < 0.01 * 0.8**2
    assert learner.slope @ moved + 30 * moved.square().sum() < 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("bend", [1e9, float("nan")])
def test_a_bad_step_is_refused(bend: float) -> None:
    curvature, grad = matrices()
    learner = Bent(curvature, grad)
    if bend == bend:
        learner.bend = bend
    else:
        learner.curvature = curvature + bend
    moved, _ = stepped(learner)
    assert not moved.any()


@pytest.mark.usefixtures("double")
def test_nothing_to_gain_moves_nothing() -> None:
    curvature, grad = matrices()
    moved, _ = stepped(Bent(curvature, 0 * grad))
    assert not moved.any()


def test_of_a_policy_the_divergence_stays_within_its_bound() -> None:
    learner = MAMLRL(Sides(), qs.nets.policy_net(Sides(), hidden=(8,)))
    tasks = qs.tasks.Rollouts(Sides(), learner, episodes=10)
    batch = tasks.sample(20, Generator().manual_seed(0))
    optimizer = TRPO(learner, max_divergence=0.02)

    def closure() -> Tensor:
        optimizer.zero_grad()
        (loss := learner(batch).mean()).backward()
        return loss

    before = closure()
    optimizer.step(closure)
    far = qs.execution.over_tasks(learner.kl_divergence)(batch).mean()
    assert 0.01 < far <= 0.02 and learner(batch).mean() < before


def test_it_learns_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    for gain, before in gained(MAMLRL, TRPO, 15):
        assert gain.mean - gain.interval > 0.3, gain
        assert abs(before) < 0.5

    def parts() -> tuple[MAMLRL, qs.tasks.Rollouts, TRPO]:
        torch.manual_seed(0)
        learner = MAMLRL(Sides(), qs.nets.policy_net(Sides(), hidden=(8,)))
        return learner, qs.tasks.Rollouts(Sides(), learner, episodes=4), TRPO(learner)

    def go(made: tuple[MAMLRL, qs.tasks.Rollouts, TRPO], start: int = 0) -> None:
        for step in qs.train(*made, steps=4, meta_batch_size=3, start=start):
            if start == 0 and step.number == 2:
                qs.save(tmp_path, made[0], made[2])

    whole, again = parts(), parts()
    go(whole)
    qs.load(tmp_path, again[0], again[2])
    go(again, 2)
    for one, other in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_learner_without_a_divergence_is_refused() -> None:
    learner = qs.RL2(BernoulliBandit(2), hidden=4)
    trials = qs.tasks.Rollouts(BernoulliBandit(2), learner, episodes=2, trial=True)
    with pytest.raises(NotImplementedError, match="another optimizer than TRPO"):
        next(qs.train(learner, trials, TRPO(learner), steps=1, meta_batch_size=2))


@pytest.mark.usefixtures("double")
def test_divergences_are_those_of_torch() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 7, 6)
    kl = torch.distributions.kl_divergence
    categories = [torch.distributions.Categorical(logits=params) for params in (one, other)]
    found = action_distribution(BernoulliBandit(6)).kl_divergence(one, other)
    torch.testing.assert_close(found, kl(*categories))
    normals = [torch.distributions.Normal(s[:, :3], s[:, 3:].exp()) for s in (one, other)]
    learner = action_distribution(Sides())
    torch.testing.assert_close(learner.kl_divergence(one, other), kl(*normals).sum(-1))
