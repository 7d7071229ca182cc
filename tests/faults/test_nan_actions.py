"""A policy that diverged has NaN returns and a warning; never those of some first action."""

import warnings
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.core.tree import unstack
from quickstudy.environments import (
    AntDir,
    BernoulliBandit,
    CartPole,
    Categorical,
    DiagonalGaussian,
    Environment,
    GaussianBandit,
    GridMaze,
    HalfCheetahVel,
    HiddenGoal,
    Navigation2D,
    Pendulum,
    PointRobot,
    TabularMDP,
    at_random,
    categorical,
    one_hot_argmax,
    plan,
    play,
    play_mdp,
    rollout,
)
from quickstudy.environments.tabular_mdp import MDP
from quickstudy.evaluation import evaluate_rollouts, success_rate
from quickstudy.evaluation.rollouts import return_after
from quickstudy.testing import check_actor

DISCRETE = [BernoulliBandit(3), GaussianBandit(3), CartPole(), GridMaze(), HiddenGoal()]
CONTINUOUS = [Navigation2D(horizon=9), PointRobot(), Pendulum(), AntDir(horizon=3)]
ALL = [*DISCRETE, TabularMDP(), *CONTINUOUS, HalfCheetahVel(horizon=3)]


def name(environment: object) -> str:
    return type(environment).__name__


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_undefined_logit_makes_the_action_nan(bad: float, place: int) -> None:
    logits, noise = torch.zeros(3), torch.rand(3, generator=Generator().manual_seed(0))
    logits[place] = bad
    for sample in (categorical, Categorical(3).sample):
        assert sample(logits, noise).isnan().all()
    assert one_hot_argmax(logits).isnan().all()
    both = torch.stack([logits, torch.zeros(3)])
    assert one_hot_argmax(both).isnan().any(-1).tolist() == [True, False]


def test_masked_actions_and_noise_of_zero_are_no_fault() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf])
    for noise in (torch.zeros(3), torch.rand(3), torch.full((3,), 1 - 2**-24)):
        assert categorical(logits, noise)[0] in (0, 1)  # no NaN
    assert categorical(logits, torch.full((3,), 0.5)).tolist() == [0, 1, 0]
    assert one_hot_argmax(logits).tolist() == [0, 1, 0]


@pytest.mark.parametrize("params", [(torch.nan, 0.0), (0.0, torch.nan), (torch.inf, 0.0)])
def test_an_undefined_mean_or_deviation_is_no_finite_action(params: tuple[float, float]):
    action = DiagonalGaussian(2).sample(torch.tensor(params), torch.tensor([0.25]))
    assert not action.isfinite().any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("trial", [False, True])
@pytest.mark.parametrize("environment", ALL, ids=name)
def test_rewards_are_nan_exactly_where_the_actions_are(
    environment: Environment, trial: bool, bad: float
) -> None:
    """The second step of tasks with an odd number is no number; the others are as they were."""

    def policy(spoil: bool) -> Any:
        def act(state: Tensor, memory: Tensor, policy_input: Any, noise: Tensor) -> Any:
            action = torch.zeros_like(noise)
            if environment.discrete:
                action = categorical(action, noise)
            spoiled = (memory == min(1, environment.horizon - 1)) & (state % 2 == 1)
            return memory + 1, action.where(~(spoiled & spoil), bad), ()

        return act

    def acted(spoil: bool) -> Any:
        generator = Generator().manual_seed(1)
        return rollout(
            environment,
            environment.tasks(4, generator),
            policy(spoil),
            generator,
            episodes=2,
            state=torch.arange(4),
            memory=torch.zeros(4),
            trial=trial,
        )

    before, after = acted(False), acted(True)
    assert before.reward.isfinite().all()
    for t in range(4):
        for e in range(2):
            actions = after.action[t, e].isfinite().all(-1)
            no_number = ~actions & (after.weight[t, e] > 0)
            assert torch.equal(after.reward[t, e].isnan(), no_number)
            assert torch.equal(after.done[t, e].isnan(), no_number)  # a metric may count ends
            if t % 2 == 0:
                assert torch.equal(after.reward[t, e], before.reward[t, e])
    assert after.reward[1].isnan().any() and after.reward[3].isnan().any()


class LastIsNaN(CartPole):
    """The observation after the end of an episode is NaN, as of a simulation that failed."""

    def step(self, task: Any, state: Tensor, action: Tensor, noise: Tensor) -> Any:
        state, seen, reward, done = super().step(task, state, action, noise)
        return state, seen.where(done < 1, torch.nan), reward, done

    def info(self, task: Any, state: Tensor) -> dict[str, Tensor]:
        return {"success": state[0] > 0}


def test_padding_after_the_end_stays_zero() -> None:
    def policy(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, categorical(policy_input.observation[:2], noise), ()

    environment, generator = LastIsNaN(), Generator().manual_seed(0)
    episodes = rollout(environment, environment.tasks(5, generator), policy, generator)
    padding = episodes.weight == 0
    assert padding.any() and episodes.action[padding].isnan().any()
    assert not episodes.reward[padding].any() and not episodes.info["success"][padding].any()
    assert torch.equal(episodes.reward, episodes.weight)  # 1 for each step


def test_info_is_nan_where_the_action_is() -> None:
    def policy(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, torch.full_like(noise, torch.nan), ()

    environment, generator = LastIsNaN(), Generator().manual_seed(0)
    episodes = rollout(environment, environment.tasks(1, generator), policy, generator)
    own = unstack(episodes)[0]
    assert success_rate(qs.Task(own, own)).isnan()


def spoiled(learner: Any) -> Any:
    with torch.no_grad():
        for p in learner.parameters():
            p.fill_(torch.nan)
    return learner


def learners() -> list[Any]:
    bandit, robot = BernoulliBandit(3, horizon=2), PointRobot(horizon=3)
    snail = qs.SNAILPolicy(bandit, length=4, width=8, blocks=(8, (8, 8)))
    pearl = qs.PEARL(robot, latent=2, hidden=(8,), encoder=(8,))
    return [
        qs.tasks.Rollouts(environment, learner, episodes=2, trial=trial)
        for environment, learner, trial in [
            (bandit, qs.MAMLRL(bandit, qs.nets.policy_net(bandit)), False),
            (robot, qs.promp(robot, qs.nets.policy_net(robot)), False),
            (bandit, qs.RL2(bandit, hidden=8), True),
            (robot, qs.RL2(robot, hidden=8), True),
            (bandit, qs.VariBAD(bandit, hidden=8), True),
            (bandit, snail, True),
            (robot, pearl, False),
        ]
    ]


@pytest.mark.parametrize("place", range(7))
def test_every_actor_of_nan_has_nan_returns_and_one_warning(place: int) -> None:
    tasks = learners()[place]
    spoiled(tasks.learner)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = evaluate_rollouts(tasks.learner, tasks, n_tasks=7, meta_batch_size=3)
    assert all(value.isnan().all() for value in report.values.values())
    assert len(caught) == 1 and "NaN on 7 of 7 tasks" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_greedy_pearl_hides_nothing_either() -> None:
    tasks = learners()[-1]
    tasks.learner.greedy = True
    spoiled(tasks.learner)
    with pytest.warns(UserWarning, match="NaN on 4 of 4"):
        evaluate_rollouts(tasks.learner, tasks, n_tasks=4)


def test_the_warning_counts_the_tasks_concerned() -> None:
    """Adaptation to a task in which the first arm paid diverges; the others are finite."""

    class Sometimes(qs.MAMLRL):
        def adapt(self, support: Any, state: Any = None) -> Any:
            params, memory = super().adapt(support, state)
            paid = support.reward.sum() > 5
            return {name: p.where(~paid, torch.nan) for name, p in params.items()}, memory

    bandit = BernoulliBandit(3, horizon=5)
    learner = Sometimes(bandit, qs.nets.policy_net(bandit))
    tasks = qs.tasks.Rollouts(bandit, learner, episodes=2)
    with pytest.warns(UserWarning, match="return after is NaN on") as caught:
        report = evaluate_rollouts(learner, tasks, n_tasks=40, meta_batch_size=13)
    paid = report.values["return before"] * 2 > 5
    assert torch.equal(report.values["return after"].isnan(), paid) and 0 < paid.sum() < 40
    assert f"NaN on {int(paid.sum())} of 40 tasks" in str(caught[0].message)
    assert torch.isnan(torch.tensor(report.mean("return after")))


def test_finite_learners_warn_of_nothing() -> None:
    for tasks in learners():
        report = evaluate_rollouts(tasks.learner, tasks, n_tasks=3)
        assert all(value.isfinite().all() for value in report.values.values())


def test_classical_agents_hide_no_nan() -> None:
    def broken(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
        scores = at_random(wins, losses, generator).clone()
        scores[1, 0] = torch.nan
        return scores

    def optimist(wins: Tensor, losses: Tensor, generator: Generator) -> Tensor:
        return torch.where(wins + losses > 0, wins / (wins + losses), torch.inf)  # as UCB's

    rewards = play(broken, torch.full((3, 2), 0.5), 4, Generator().manual_seed(0))
    assert rewards.isnan().all(1).tolist() == [False, True, False]
    assert play(optimist, torch.ones(2, 3), 5, Generator()).eq(1).all()

    mdp = TabularMDP(states=2, actions=2, horizon=3)
    tasks = mdp.tasks(2, Generator().manual_seed(0))

    def belief(visits: Tensor, sums: Tensor, generator: Generator) -> MDP:
        return MDP(
            tasks.transitions, tasks.means * torch.tensor([1.0, torch.nan])[:, None, None]
        )

    none = torch.zeros(())
    assert plan(belief(none, none, Generator()), 3)[1].isnan().all()
    assert play_mdp(belief, mdp, tasks, 2, Generator()).isnan().any(1).tolist() == [False, True]


class FirstOfNaN(qs.RL2):
    """Chooses by `argmax`, which hides NaN."""

    def act(self, state: Any, memory: Tensor, policy_input: Any, noise: Tensor) -> Any:
        memory, action, record = super().act(state, memory, policy_input, noise)
        index = (record.dist_params + noise).argmax(-1)
        return memory, (torch.arange(3) == index).to(action), record


def test_the_conformance_suite_notices_an_actor_that_hides_nan() -> None:
    bandit = BernoulliBandit(3, horizon=2)
    tasks = qs.tasks.Rollouts(bandit, FirstOfNaN(bandit, hidden=4), episodes=2, trial=True)
    with pytest.raises(AssertionError, match="an_actor_of_nan_earns_nan"):
        check_actor(tasks)


def test_pictures_of_a_diverged_policy_are_drawn() -> None:
    maze, generator = GridMaze(3, horizon=4), Generator().manual_seed(0)
    tasks = maze.tasks(1, generator)

    def policy(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, torch.full_like(noise, torch.nan), ()

    own = unstack(rollout(maze, tasks, policy, generator))[0]
    trace = maze.planar_trace(unstack(tasks)[0], own)
    assert (trace.path == trace.path[:, :1]).all()


def test_a_metric_that_fails_is_named() -> None:
    tasks = learners()[2]
    rows = {"returns": lambda task: task.query.reward.sum(-1)}
    with pytest.raises(ValueError, match="metric 'returns' has shape"):
        evaluate_rollouts(tasks.learner, tasks, n_tasks=2, metrics=rows)
    fine = {"return": return_after}
    assert evaluate_rollouts(tasks.learner, tasks, n_tasks=2, metrics=fine).values[
        "return"
    ].shape == (2,)
