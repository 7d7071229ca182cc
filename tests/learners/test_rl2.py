"""RL² against recurrences, probabilities and gradients written out, and on a tiny bandit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import unstack
from quickstudy.environments import Environment, Pendulum
from quickstudy.reports.write import write
from quickstudy.rl.trials import flatten_episodes
from tests.worlds import OneArmPays, Uneven


def acted(environment: Environment, episodes: int, **options: Any) -> tuple[qs.RL2, Any]:
    torch.manual_seed(0)
    learner = qs.RL2(environment, hidden=8, **options)
    rollouts = qs.tasks.Rollouts(environment, learner, episodes=episodes, trial=True)
    return learner, rollouts.sample(3, Generator().manual_seed(0))


def naive(learner: qs.RL2, seen: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What one task's policy says, expects and remembers at each real step, by torch's cell."""
    cell = torch.nn.GRUCell(learner.memory.input_size, 8)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(learner.memory, f"{name}_l0"))
    hidden, action = torch.zeros(8), torch.zeros_like(seen.action[0, 0])
    reward, done, found = torch.tensor(0.0), torch.tensor(0.0), []
    for episode in range(len(seen.reward)):
        for step in range(seen.reward.shape[1]):
            if seen.weight[episode, step] == 0:
                continue
            features = [seen.observation[episode, step], action, reward[None], done[None]]
            hidden = cell(torch.cat(features)[None], hidden[None])[0]
            found.append((learner.policy(hidden), learner.value(hidden)[0], hidden))
            action, reward = seen.action[episode, step], seen.reward[episode, step]
            done = torch.tensor(0.0)
        done = torch.tensor(1.0)
    return found


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("environment", [OneArmPays(), Uneven(), Pendulum()])
def test_what_was_said_is_said_again_and_remembered_over_episodes(environment: Any) -> None:
    environment.horizon = min(environment.horizon, 5)
    learner, task = acted(environment, 3)
    assert task.query.weight.all() != isinstance(environment, Uneven)
    for t in range(3):
        single = unstack(task)[t].query
        expected = naive(learner, single)
        dist_params, value, hidden = (torch.stack(rows) for rows in zip(*expected, strict=True))
        n = len(dist_params)
        then = flatten_episodes(single).extras
        torch.testing.assert_close(then.dist_params[:n], dist_params)
        torch.testing.assert_close(then.normalized_value[:n], value)
        again = learner.predict(learner.initial_state(), single)
        torch.testing.assert_close(again[0][:n], dist_params)
        torch.testing.assert_close(again[1][:n], value)
        torch.testing.assert_close(learner.adapt(single)[1], hidden[-1])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("environment", [OneArmPays(), Uneven()])
def test_at_first_the_gradient_is_the_policy_gradient(environment: Any) -> None:
    learner, task = acted(environment, 3, value_coef=0.0, entropy_coef=0.0)
    learner(task).mean().backward()
    expected = torch.tensor(0.0)
    for t in range(3):
        single = unstack(task)[t].query
        real = single.weight > 0
        reward, action = single.reward[real], single.action[real]
        rows = naive(learner, single)
        # a normalised value is per step that may be left, the k-th counting 0.99^k
        size = single.weight.numel()
        left = [
            sum(0.99**k for k in range(size - i)) for i in single.weight.flatten().nonzero()
        ]
        value = [row[1].item() * n for row, n in zip(rows, left, strict=True)] + [0.0]
        advantage, total = torch.tensor(0.0), torch.tensor(0.0)
        for i in reversed(range(len(rows))):
            error = reward[i] + 0.99 * value[i + 1] - value[i]
            advantage = error + 0.99 * 0.3 * advantage
            dist_params = torch.distributions.Categorical(logits=rows[i][0])
            total = total - dist_params.log_prob(action[i].argmax()) * advantage
        expected = expected + total / len(rows) / 3
    names = [name for name, _ in learner.named_parameters() if not name.startswith("value")]
    grads = torch.autograd.grad(expected, [learner.get_parameter(name) for name in names])
    for name, grad in zip(names, grads, strict=True):
        torch.testing.assert_close(learner.get_parameter(name).grad, grad)


@pytest.mark.usefixtures("double")
def test_loss_is_its_three_parts() -> None:
    learner, task = acted(
        OneArmPays(), 4, value_coef=0.5, entropy_coef=0.1, gae_lambda=1.0, discount=1.0
    )
    reward, expected = task.query.reward[..., 0], task.query.extras.normalized_value[..., 0]
    expected = expected * torch.arange(4, 0, -1)  # 4 pulls are left, 3, ...
    left = reward.flip(1).cumsum(1).flip(1)
    dist_params = torch.distributions.Categorical(logits=task.query.extras.dist_params[:, :, 0])
    errors = (left - expected) / torch.arange(4, 0, -1)
    parts = -(left - expected) + 0.5 * errors.square() - 0.1 * dist_params.entropy()
    torch.testing.assert_close(learner(task), parts.mean(1))


@pytest.mark.usefixtures("double")
def test_functions_of_steps_are_what_they_are_then() -> None:
    names, numbers = ("discount", "gae_lambda", "entropy_coef"), (0.7, 0.8, 0.05)
    learner, task = acted(Uneven(), 4, **dict.fromkeys(names, lambda done: 0.1 * done))
    for done in (3, 9):
        learner.set_step(done)
        same, again = acted(Uneven(), 4, **dict.fromkeys(names, 0.1 * done))
        torch.testing.assert_close(learner(task), same(again))
    other, again = acted(Uneven(), 4, **dict(zip(names, numbers, strict=True)))
    assert not torch.isclose(learner(task), other(again)).any()


@pytest.mark.usefixtures("double")
def test_a_loop_finds_what_vmap_does() -> None:
    learner, task = acted(Uneven(), 2)
    together = learner(task)
    learner.execution = "loop"
    torch.testing.assert_close(learner(task), together)


def test_batches_are_functions_of_seed_and_weights() -> None:
    learner, task = acted(OneArmPays(), 4)
    rollouts = qs.tasks.Rollouts(OneArmPays(), learner, episodes=4, trial=True)
    again = rollouts.sample(3, Generator().manual_seed(0))
    assert torch.equal(task.query.action, again.query.action)
    with torch.no_grad():
        learner.policy.bias[0] += 100
    assert rollouts.sample(3, Generator().manual_seed(0)).query.action[..., 0].all()


def test_without_a_trial_it_goes_on_from_what_it_adapted_to() -> None:
    learner, _ = acted(OneArmPays(), 4)
    task = qs.tasks.Rollouts(OneArmPays(), learner, episodes=4).sample(
        3, Generator().manual_seed(0)
    )
    _, memory = qs.execution.over_tasks(learner.adapt)(task.support)
    first = learner.predict(((), torch.zeros(8)), unstack(task.support)[0])[0]
    begun = task.support.extras.dist_params[:, :, 0]
    torch.testing.assert_close(begun, begun[:, :1].expand_as(begun))  # each has a new memory
    torch.testing.assert_close(first[0], begun[0, 0])
    policy_input = task.query.extras.policy_input
    inputs = type(policy_input)(*(leaf[0, 0] for leaf in policy_input))
    hidden = learner._hidden(inputs, memory[0])
    torch.testing.assert_close(task.query.extras.dist_params[0, 0], learner.policy(hidden))


def test_learns_to_try_the_arms_and_to_stay() -> None:
    def earned(learner: qs.RL2, rollouts: qs.tasks.Rollouts) -> qs.Report:
        return qs.evaluation.evaluate_rollouts(
            learner, rollouts, n_tasks=300, meta_batch_size=300
        )

    gains = []
    for seed in range(3):
        torch.manual_seed(seed)
        learner = qs.RL2(OneArmPays(), hidden=16)
        rollouts = qs.tasks.Rollouts(OneArmPays(), learner, episodes=6, trial=True)
        before = earned(learner, rollouts)
        optimizer = qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.02), 4)
        for _ in qs.train(
            learner, rollouts, optimizer, steps=25, meta_batch_size=64, seed=seed
        ):
            pass
        after = earned(learner, rollouts)
        assert after.mean("total reward") <= 5.5 + after.interval("total reward")
        gains.append(after.paired_difference(before))
    for gain in gains:
        assert gain.mean - gain.interval > 0.5, gain


def test_the_recipe_is_carried_out(tmp_path: Path) -> None:
    settings = {"steps": 2, "meta_batch_size": 4, "hidden": 4, "pulls": 3}
    run = runs.start("rl_bandit", settings, tmp_path)
    run.experiment.n_validation_tasks = 4
    assert [status.step for status in runs.go(run)] == [1, 2]
    assert run.history[-1]["validation total reward"] == run.history[-1]["score"]
    found = runs.finish(run, n_tasks=6)
    assert 0 <= found["measured"]["new bandits"]["total reward"]["mean"] <= 3
    assert "Protocol" in write(tmp_path).read_text()


def test_another_learner_is_not_judged_by_these_rollouts() -> None:
    learner, _ = acted(OneArmPays(), 2)
    other = qs.tasks.Rollouts(OneArmPays(), qs.RL2(OneArmPays(), hidden=8), episodes=2)
    with pytest.raises(ValueError, match="of this one"):
        qs.evaluation.evaluate_rollouts(learner, other)
