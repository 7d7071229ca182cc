"""VariBAD: beliefs and the ELBO against loops written out, who learns by what, and learning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments import Environment, HiddenGoal, Pendulum, normal
from quickstudy.rl.ppo import PPOSettings, ppo
from quickstudy.rl.trials import flatten_episodes
from tests.worlds import OneArmPays, Uneven


def acted(environment: Environment, episodes: int, **options: Any) -> tuple[qs.VariBAD, Any]:
    """A learner, and a batch of 3 trials of it."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"latent": 2, "hidden": 6, "policy": [5], "decoder": [7, 4]}
    learner = qs.VariBAD(environment, **{**sizes, **options})
    rollouts = qs.tasks.Rollouts(environment, learner, episodes=episodes, trial=True)
    return learner, rollouts.sample(3, Generator().manual_seed(0))


def naive(learner: qs.VariBAD, seen: Any) -> list[dict[str, Any]]:
    """Of one task, a row for each real step: what was done there, and the belief, read by
    torch's cell a step at a time."""
    cell = torch.nn.GRUCell(learner.memory.input_size, learner.memory.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(learner.memory, f"{name}_l0"))
    hidden, action = torch.zeros(cell.hidden_size), torch.zeros_like(seen.action[0, 0])
    reward, done, rows = torch.tensor(0.0), torch.tensor(0.0), []
    for episode in unstack(seen):
        for step in unstack(episode):
            if step.weight == 0:
                continue
            features = [step.observation, action, reward[None], done[None]]
            hidden = cell(torch.cat(features)[None], hidden[None])[0]
            mean, log_std = learner.belief(hidden).chunk(2)
            belief = Normal(mean, log_std.exp())
            rows.append({"step": step, "hidden": hidden, "belief": belief})
            action, reward, done = step.action, step.reward, torch.tensor(0.0)
        done = torch.tensor(1.0)
    return rows


def decode(decoder: Any, *parts: Tensor) -> Tensor:
    """One m and one step, by layers of torch."""
    hidden = decoder.first(torch.cat(parts)).relu()
    return decoder.rest(hidden)


def naive_elbo(learner: qs.VariBAD, seen: Any, ts: list[int] | None = None) -> Tensor:
    """A mean over t, in parts of a number of steps, by two loops."""
    rows, terms, divergences = naive(learner, seen), [], []
    before = Normal(torch.zeros(2), torch.ones(2))
    for t, row in enumerate(rows):
        belief = row["belief"]
        divergences.append(kl_divergence(belief, before).sum())
        before = belief
        if ts is not None and t not in ts:
            continue
        noise = row["step"].extras.noise[:-1]
        m = belief.mean + belief.stddev * normal(noise)
        error = torch.tensor(0.0)
        for other in rows:
            o, a, r, then = (getattr(other["step"], name) for name in WHAT)
            error = error + (decode(learner.rewards, m, o, a, then)[0] - r) ** 2
            if learner.observations is not None:
                error = error + (decode(learner.observations, m, o, a) - then).square().sum()
        terms.append(error)
    total = torch.stack(terms).mean() + learner.kl * torch.stack(divergences).mean()
    return -total / len(rows)


WHAT = ("observation", "action", "reward", "next_observation")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("environment", [OneArmPays(), Uneven(), Pendulum(horizon=3)])
def test_acting_is_reading_the_trial_at_once_is_a_loop(environment: Any) -> None:
    learner, task = acted(environment, 4)
    for single in unstack(task.query):
        rows = naive(learner, single)
        n, seen = len(rows), flatten_episodes(single)
        for row, step in zip(rows, unstack(seen), strict=False):
            belief = torch.cat([row["belief"].mean, row["belief"].stddev.log()])
            torch.testing.assert_close(step.extras.belief, belief)
            dist_params = learner.policy(torch.cat([step.observation, belief]))
            torch.testing.assert_close(step.extras.record.dist_params, dist_params[:-1])
            torch.testing.assert_close(step.extras.record.normalized_value, dist_params[-1])
        dist_params, normalized_value = learner.predict(learner.initial_state(), single)
        torch.testing.assert_close(dist_params[:n], seen.extras.record.dist_params[:n])
        torch.testing.assert_close(
            normalized_value[:n], seen.extras.record.normalized_value[:n]
        )
        torch.testing.assert_close(learner.adapt(single)[1], rows[-1]["hidden"])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("observations", [False, True])
@pytest.mark.parametrize("environment", [Uneven(), Pendulum(horizon=3)])
def test_the_elbo_and_its_gradient_are_those_of_two_loops(
    environment: Any, observations: bool
) -> None:
    learner, task = acted(environment, 3, observations=observations, kl=0.3)
    for single in unstack(task.query):
        found, expected = learner._elbo(flatten_episodes(single)), naive_elbo(learner, single)
        torch.testing.assert_close(found, expected)
        params = [p for name, p in learner.named_parameters() if "policy" not in name]
        grads = (torch.autograd.grad(value, params) for value in (found, expected))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("double")
def test_of_some_steps_alone_m_is_decoded() -> None:
    learner, task = acted(Uneven(), 3, decoded=2)
    chosen = set()
    for single in unstack(task.query):
        seen = flatten_episodes(single)
        lots = (seen.extras.noise[:, -1] - 2 * (1 - seen.weight)).tolist()
        ts = sorted(range(len(lots)), key=lots.__getitem__)[-2:]
        torch.testing.assert_close(learner._elbo(seen), naive_elbo(learner, single, ts))
        chosen.add(tuple(ts))
    assert len(chosen) > 1


@pytest.mark.usefixtures("double")
def test_the_loss_is_of_ppo_by_the_beliefs_it_acted_by_and_of_the_elbo() -> None:
    learner, task = acted(Uneven(), 4)
    with torch.no_grad():
        for p in learner.parameters():  # as after a step, so that beliefs would be others now
            p.add_(0.1 * torch.randn_like(p))
    learner.kl = 0.3
    found = learner(task)
    for single, loss in zip(unstack(task.query), found, strict=True):
        seen, moments = flatten_episodes(single), single._replace(extras=single.extras.record)
        dist_params = learner.policy(torch.cat([seen.observation, seen.extras.belief], -1))
        settings = PPOSettings(0.95, 0.95, 0.05, 0.5, 0.1)
        args = (learner.actions, dist_params[:, :-1], dist_params[:, -1], moments)
        policy = ppo(*args, settings)
        torch.testing.assert_close(loss, policy - naive_elbo(learner, single))


@pytest.mark.usefixtures("double")
def test_neither_loss_has_a_gradient_in_the_others_nets() -> None:
    learner, task = acted(Uneven(), 4, observations=True)
    single, named = unstack(task.query)[0], dict(learner.named_parameters())
    dist_params, normalized_value = learner.predict(learner.initial_state(), single)
    acting = dist_params.square().sum() + normalized_value.square().sum()
    for value, theirs in ((acting, True), (learner._elbo(flatten_episodes(single)), False)):
        grads = torch.autograd.grad(
            value, list(named.values()), allow_unused=True, retain_graph=True
        )
        for name, grad in zip(named, grads, strict=True):
            assert (grad is not None) == (name.startswith("policy") == theirs), name
    # and of the loss as a whole, what the policy learns by is PPO, whatever the decoders say
    weights = [p for name, p in named.items() if name.startswith("policy")]
    before = torch.autograd.grad(learner(task).sum(), weights)
    with torch.no_grad():
        learner.rewards.first.bias.add_(1)
    learner.kl = 3.0
    for a, b in zip(before, torch.autograd.grad(learner(task).sum(), weights), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decoded", [None, 2])
def test_padding_changes_nothing_and_a_loop_finds_what_vmap_does(decoded: int | None) -> None:
    learner, task = acted(Uneven(), 4, observations=True, decoded=decoded)
    assert not task.query.weight.all()

    def junk(leaf: Tensor) -> Tensor:
        real = task.query.weight.view(*task.query.weight.shape, *[1] * (leaf.ndim - 3)) > 0
        return torch.where(real, leaf, torch.rand_like(leaf))

    kept = {"reward": task.query.reward, "weight": task.query.weight}
    changed = tree_map(junk, task.query)._replace(**kept)
    changed = qs.Task(changed, changed)
    found = learner(task)
    torch.testing.assert_close(learner(changed), found)
    learner.execution = "loop"
    torch.testing.assert_close(learner(task), found)
    for a, b in zip(unstack(task.query), unstack(changed.query), strict=True):
        torch.testing.assert_close(learner.adapt(a)[1], learner.adapt(b)[1])


@pytest.mark.usefixtures("double")
def test_adapting_in_parts_is_adapting_at_once() -> None:
    learner, task = acted(Uneven(), 4)
    for single in unstack(task.query):
        first, then = (tree_map(lambda x, s=s: x[s], single) for s in (slice(2), slice(2, 4)))
        parts = learner.adapt(then, learner.adapt(first))
        torch.testing.assert_close(parts[1], learner.adapt(single)[1])


def test_learns_to_try_the_arms_and_to_stay_and_then_is_sure() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        learner = qs.VariBAD(OneArmPays(), latent=2, hidden=16, entropy_coef=0.01, clip=0.2)
        rollouts = qs.tasks.Rollouts(OneArmPays(), learner, episodes=4, trial=True)
        before = qs.evaluation.evaluate_rollouts(
            learner, rollouts, n_tasks=300, meta_batch_size=300
        )
        optimizer = qs.training.MultiEpoch(
            torch.optim.Adam(learner.parameters(), 0.01), 4, minibatches=4
        )
        for _ in qs.train(
            learner, rollouts, optimizer, steps=14, meta_batch_size=64, seed=seed
        ):
            pass
        after = qs.evaluation.evaluate_rollouts(
            learner, rollouts, n_tasks=300, meta_batch_size=300
        )
        assert after.mean("total reward") <= 3.5 + after.interval("total reward")
        gain = after.paired_difference(before)
        assert gain.mean - gain.interval > 0.5, gain
        # one pull tells what all pay: without that knowledge errors are 0.25
        task = rollouts.sample(300, Generator().manual_seed(seed)).query
        elbo = torch.stack(
            [learner._elbo(flatten_episodes(single)) for single in unstack(task)]
        )
        assert elbo.mean() > -0.1


def test_the_recipe_is_carried_out_and_resumes_to_the_bit(tmp_path: Path) -> None:
    settings = {"steps": 3, "meta_batch_size": 4, "episodes": 1}

    def run(folder: str, stop: int, learner: str = "varibad") -> runs.Run:
        run = runs.start("rl_grid", {**settings, "learner": learner}, tmp_path / folder)
        run.experiment.n_validation_tasks = 4
        statuses = runs.go(run)
        for status in statuses:
            if status.step == stop:
                break
        statuses.close()  # pyright: ignore[reportAttributeAccessIssue]
        return run

    whole, _, parts = run("whole", 3), run("parts", 1), run("parts", 3)
    pairs = (run.experiment.learner.parameters() for run in (whole, parts))
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    for done in (parts, run("other", 1, "rl2")):
        measured = runs.finish(done, n_tasks=5)["measured"]["new goals"]
        assert -1.51 < measured["return of episode 1"]["mean"] <= 15


def test_the_grid_by_hand() -> None:
    grid, noise = HiddenGoal(3), torch.zeros(1)
    goals = grid.tasks(500, Generator().manual_seed(0))
    assert set(goals.tolist()) == {2, 5, 6, 7, 8}
    goal = torch.tensor(5)
    state, seen = grid.reset(goal, noise)
    assert seen.tolist() == [1] + [0] * 8
    stay, up, down, left, right = torch.eye(5).unbind()
    found = []
    for action in (stay, up, left, down, right, right, right, stay, down):
        state, seen, reward, done = grid.step(goal, state, action, noise)
        assert not done and seen[state] == 1 == seen.sum()
        found.append((int(state), round(reward.item(), 1)))
    cells = [(0, -0.1)] * 3 + [(3, -0.1), (4, -0.1), (5, 1), (5, 1), (5, 1), (8, -0.1)]
    assert found == cells
    best = grid.best_return(goal)  # 2 steps on the way, and 13 on the goal
    torch.testing.assert_close(best, torch.tensor(13 - 0.2))
