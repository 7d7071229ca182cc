"""The SNAIL policy against sums over the past written out, and on a tiny bandit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.environments import Environment, Pendulum
from quickstudy.nets import CausalAttention, TemporalConvolution
from quickstudy.rl.trials import flatten_episodes
from tests.worlds import OneArmPays, Uneven

BLOCKS = (4, (3, 2), 3, (2, 4))


def acted(
    environment: Environment, episodes: int, length: int | None = None, **options: Any
) -> tuple[qs.SNAILPolicy, Any]:
    """A policy, and a batch of 3 trials of it."""
    torch.manual_seed(0)
    length = length or episodes * environment.horizon
    learner = qs.SNAILPolicy(environment, length=length, width=5, blocks=BLOCKS, **options)
    rollouts = qs.tasks.Rollouts(environment, learner, episodes=episodes, trial=True)
    return learner, rollouts.sample(3, Generator().manual_seed(0))


def alike(found: Any, expected: Any) -> None:
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b)


def naive(learner: qs.SNAILPolicy, inputs: list[Any]) -> Tensor:
    """What the last layer says of each step (N, ·), a step at a time, by sums over the past."""
    rows: list[Tensor] = []
    for policy_input in inputs:
        observation, action, reward, done = policy_input
        rows.append(
            learner.observation_layer(
                torch.cat([observation, action, reward[None], done[None]])
            )
        )
    for layer in learner.layers:
        new = []
        for t, row in enumerate(rows):
            if isinstance(layer, CausalAttention):
                near = rows[max(0, t - learner.length) : t + 1]
                query = layer.query(row)
                scores = [query @ layer.key(other) / math.sqrt(len(query)) for other in near]
                weights = [score.exp() for score in scores]
                read = [w * layer.value(other) for w, other in zip(weights, near, strict=True)]
                output = torch.stack(read).sum(0) / torch.stack(weights).sum()
            else:
                assert isinstance(layer, TemporalConvolution)
                then = rows[t - layer.dilation] if t >= layer.dilation else 0 * row
                signal, gate = (layer.now(row) + layer.then.weight @ then).chunk(2)
                output = signal.tanh() * gate.sigmoid()
            new.append(torch.cat([row, output]))
        rows = new
    return torch.stack(rows)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("length", [None, 3])  # all of the trial, or only the last steps
@pytest.mark.parametrize("environment", [OneArmPays(), Uneven(), Pendulum(horizon=3)])
def test_acting_is_reading_the_trial_at_once_is_sums_over_the_past(
    environment: Any, length: int | None
) -> None:
    learner, task = acted(environment, 4, length)
    for single in unstack(task):
        then = flatten_episodes(single.query)
        n = int(then.weight.sum())
        steps = unstack(tree_map(lambda leaf: leaf[:n], then.extras.policy_input))  # noqa: B023
        expected = naive(learner, steps)
        for dist_params, normalized_value in (
            (then.extras.dist_params, then.extras.normalized_value),
            learner.predict(learner.initial_state(), single.query),
            learner.predict(((), learner._empty_memory(0)), single.query),
        ):
            torch.testing.assert_close(dist_params[:n], learner.policy(expected))
            torch.testing.assert_close(normalized_value[:n], learner.value(expected)[:, 0])
        _, memory = learner.adapt(single.query)
        known = min(n, learner.length)
        assert memory.mask.tolist() == [0] * (learner.length - known) + [1] * known
        last, (keys, values) = learner.layers[-1], memory.layers[-1]
        assert isinstance(last, CausalAttention)
        layer_inputs = expected[n - known :, : -values.shape[1]]
        torch.testing.assert_close(keys[learner.length - known :], last.key(layer_inputs))
        torch.testing.assert_close(values[learner.length - known :], last.value(layer_inputs))


@pytest.mark.usefixtures("double")
def test_what_comes_later_or_is_padding_changes_nothing() -> None:
    learner, task = acted(Uneven(), 4)
    single = unstack(task)[0].query
    dist_params, _ = learner.predict(learner.initial_state(), single)
    n = int(single.weight.sum())
    assert n < single.weight.numel()
    policy_input = single.extras.policy_input
    junk = torch.where(
        single.weight > 0, policy_input.reward, torch.randn_like(policy_input.reward)
    )
    changed = single._replace(
        extras=single.extras._replace(policy_input=policy_input._replace(reward=junk))
    )
    torch.testing.assert_close(
        learner.predict(learner.initial_state(), changed)[0][:n], dist_params[:n]
    )
    alike(learner.adapt(changed), learner.adapt(single))
    grads = torch.autograd.functional.jacobian(
        lambda reward: learner.predict(
            learner.initial_state(),
            single._replace(
                extras=single.extras._replace(policy_input=policy_input._replace(reward=reward))
            ),
        )[0][:n].sum(-1),
        policy_input.reward,
    )
    grads = grads.flatten(1)[:, (1 - single.weight.flatten()).argsort(stable=True)]
    assert not grads[:, :n].triu(1).any() and not grads[:, n:].any()
    assert (grads[:, :n].tril() != 0)[1:, 0].all()  # and what is long ago counts


@pytest.mark.usefixtures("double")
def test_an_end_of_an_episode_is_told_and_a_new_trial_begins_with_nothing() -> None:
    _, task = acted(Uneven(), 4)
    done = task.query.extras.policy_input.done
    assert not done[:, 0].any() and done[:, 1:, 0].all() and not done[:, :, 1:].any()
    first = task.query.extras.dist_params[:, 0, 0]
    torch.testing.assert_close(first, first[:1].expand_as(first))


@pytest.mark.usefixtures("double")
def test_adapting_in_parts_is_adapting_at_once_and_a_loop_finds_what_vmap_does() -> None:
    learner, task = acted(Uneven(), 4)
    whole = qs.execution.over_tasks(learner.adapt)(task.support)
    first = tree_map(lambda x: x[:, :2], task.support)
    then = tree_map(lambda x: x[:, 2:], task.support)
    parts = qs.execution.over_tasks(learner.adapt)(
        then, qs.execution.over_tasks(learner.adapt)(first)
    )
    alike(parts, whole)
    together = learner(task)
    learner.execution = "loop"
    torch.testing.assert_close(learner(task), together)


def test_learns_to_try_the_arms_and_to_stay() -> None:
    def earned(learner: qs.SNAILPolicy, rollouts: qs.tasks.Rollouts) -> qs.Report:
        return qs.evaluation.evaluate_rollouts(
            learner, rollouts, n_tasks=300, meta_batch_size=300
        )

    for seed in range(3):
        torch.manual_seed(seed)
        learner = qs.SNAILPolicy(OneArmPays(), length=6, width=8, blocks=(4, (8, 8)))
        rollouts = qs.tasks.Rollouts(OneArmPays(), learner, episodes=6, trial=True)
        before = earned(learner, rollouts)
        optimizer = qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.02), 4)
        for _ in qs.train(
            learner, rollouts, optimizer, steps=25, meta_batch_size=64, seed=seed
        ):
            pass
        after = earned(learner, rollouts)
        assert after.mean("total reward") <= 5.5 + after.interval("total reward")
        gain = after.paired_difference(before)
        assert gain.mean - gain.interval > 0.5, gain


@pytest.mark.parametrize(
    ("name", "learner"), [("rl_bandit", "snail"), ("rl_mdp", "rl2"), ("rl_maze", "snail")]
)
def test_recipes_are_carried_out_and_resume_to_the_bit(
    name: str, learner: str, tmp_path: Path
) -> None:
    short = {"rl_mdp": {"episodes": 2}, "rl_maze": {"episodes": 2}, "rl_bandit": {"pulls": 3}}
    settings = {
        "steps": 3,
        "meta_batch_size": 3,
        "hidden": 4,
        "learner": learner,
        **short[name],
    }

    def run(folder: str, stop: int) -> runs.Run:
        run = runs.start(name, settings, tmp_path / folder)
        run.experiment.n_validation_tasks = 4
        statuses = runs.go(run)
        for status in statuses:
            if status.step == stop:
                break
        statuses.close()  # pyright: ignore[reportAttributeAccessIssue]
        return run

    whole, _, parts = run("whole", 3), run("parts", 1), run("parts", 3)
    for a, b in zip(
        whole.experiment.learner.parameters(),
        parts.experiment.learner.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)
    found = runs.finish(parts, n_tasks=5)
    for row in found["measured"].values():
        assert all(math.isfinite(value["mean"]) for key, value in row.items() if key != "card")
