"""ProMP against its three parts written out, and the rule that adapts its penalty."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.core.tree import unstack
from quickstudy.learners.policies.maml_rl import MAMLRL
from quickstudy.learners.policies.promp import adapt_penalty, promp
from quickstudy.rl.advantages import ratio_surrogate
from tests.worlds import Sides, gained


def acted(**options: Any) -> tuple[MAMLRL, Any]:
    torch.manual_seed(0)
    learner = promp(Sides(), qs.nets.policy_net(Sides(), hidden=(6,)), **options)
    rollouts = qs.tasks.Rollouts(Sides(), learner, episodes=5)
    return learner, rollouts.sample(3, Generator().manual_seed(0))


@pytest.mark.usefixtures("double")
def test_the_loss_is_the_clipped_objective_and_a_penalty_for_having_moved() -> None:
    learner, task = acted(clip=0.1, penalty=0.7, normalise=False)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.5 * torch.randn_like(p)

    def policy(dist_params: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(dist_params[..., :1], dist_params[..., 1:].exp())

    for single, found in zip(unstack(task), learner(task), strict=True):
        dist_params = learner.predict(learner.adapt(single.support), single.query.observation)
        action = single.query.action
        rho = policy(dist_params).log_prob(action) - policy(single.query.extras).log_prob(
            action
        )
        rho = rho.exp()[..., 0]
        # all see the same, so values are the mean return, shrunk a little by the penalty
        advantage = single.query.reward - single.query.reward.mean() / (1 + 1e-5 / 3)
        gain = torch.minimum(rho * advantage, rho.clamp(0.9, 1.1) * advantage).mean()
        begun = policy(learner.predict(learner.initial_state(), single.support.observation))
        moved = torch.distributions.kl_divergence(policy(single.support.extras), begun).mean()
        assert moved > 0.01 and (rho - 1).abs().max() > 0.1
        torch.testing.assert_close(found, -gain + 0.7 * moved)


@pytest.mark.usefixtures("double")
def test_a_greater_penalty_moves_the_policy_less() -> None:
    far = []
    for penalty in (0.0, 1.0, 10.0):
        learner, task = acted(penalty=penalty)
        optimizer = torch.optim.SGD(learner.parameters(), 0.01)
        for _ in range(20):
            optimizer.zero_grad()
            learner(task).mean().backward()
            optimizer.step()
        moved = qs.execution.over_tasks(
            lambda single, it=learner: it.policy_shift(it.initial_state(), single.support)
        )(task)
        far.append(moved.mean().item())
    assert far[0] > 1.5 * far[1] > 3 * far[2] > 0


@pytest.mark.usefixtures("double")
def test_without_clip_and_penalty_it_is_maml_with_low_variance_curvature() -> None:
    learner, task = acted(clip=float("inf"), penalty=0.0)
    other = MAMLRL(Sides(), learner.net, surrogate=ratio_surrogate)
    grads = [torch.autograd.grad(it(task).sum(), [*it.parameters()]) for it in (learner, other)]
    torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("double")
def test_the_inner_step_weighs_what_has_become_likelier_since_the_policy_acted() -> None:
    learner, task = acted(normalise=False)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.5 * torch.randn_like(p)
    single = unstack(task)[0].support
    start, _ = learner.initial_state()

    def policy(dist_params: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(dist_params[..., :1], dist_params[..., 1:].exp())

    dist_params = learner.predict((start, ()), single.observation)
    rho = policy(dist_params).log_prob(single.action) - policy(single.extras).log_prob(
        single.action
    )
    advantage = single.reward - single.reward.mean() / (1 + 1e-5 / 3)
    gain = (rho.exp()[..., 0] * advantage).mean()
    grads = torch.autograd.grad(gain, list(start.values()))
    for p, grad, found in zip(
        start.values(), grads, learner.adapt(single)[0].values(), strict=True
    ):
        torch.testing.assert_close(found, p + 0.1 * grad)


@pytest.mark.parametrize(("lr", "factor"), [(0.0, 0.5), (0.3, 2.0)])
def test_the_penalty_follows_how_far_a_step_moves(lr: float, factor: float) -> None:
    learner, _ = acted()
    rollouts = qs.tasks.Rollouts(Sides(), learner, episodes=5)
    optimizer = qs.training.MultiEpoch(torch.optim.SGD(learner.parameters(), lr), 3)
    adapt_penalty(learner, optimizer)
    for _ in qs.train(learner, rollouts, optimizer, steps=2, meta_batch_size=4):
        pass
    assert learner.penalty is not None
    assert learner.penalty.item() == pytest.approx(5e-4 * factor**2)


def test_within_its_bounds_the_penalty_stays() -> None:
    learner, task = acted()
    optimizer = qs.training.MultiEpoch(torch.optim.SGD(learner.parameters(), 0.1), 1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        (loss := learner(task).mean()).backward()
        return loss

    optimizer.step(closure)
    far = qs.execution.over_tasks(
        lambda single: learner.policy_shift(learner.initial_state(), single.support)
    )(task).mean()
    learner, task = acted()
    optimizer = qs.training.MultiEpoch(torch.optim.SGD(learner.parameters(), 0.1), 1)
    adapt_penalty(learner, optimizer, target=1.2 * far.item())
    optimizer.step(closure)
    assert learner.penalty is not None and learner.penalty.item() == pytest.approx(5e-4)


def test_the_penalty_is_saved_with_the_weights(tmp_path: Path) -> None:
    learner, _ = acted(penalty=0.25)
    qs.save(tmp_path, learner)
    other, _ = acted()
    qs.load(tmp_path, other)
    assert other.penalty is not None and other.penalty.item() == 0.25
    with pytest.raises(ValueError, match="no penalty to adapt"):
        adapt_penalty(MAMLRL(Sides(), learner.net), torch.optim.SGD(learner.parameters()))


def test_it_learns_a_policy_that_one_step_takes_to_either_side() -> None:
    def outside(learner: MAMLRL) -> qs.training.MultiEpoch:
        return qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.02), 5)

    for gain, before in gained(promp, outside, 15):
        assert gain.mean - gain.interval > 0.3, gain
        assert abs(before) < 0.5
