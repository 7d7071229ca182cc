"""Environments: each against what is known of it otherwise."""

import math
from itertools import pairwise
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from scipy.stats import chisquare, kstest
from torch import Generator, Tensor
from torch.func import vmap

from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.environments import (
    MDP,
    BernoulliBandit,
    Cart,
    CartPole,
    Environment,
    GaussianBandit,
    GridMaze,
    HiddenGoal,
    Maze,
    Navigation2D,
    Pendulum,
    PointRobot,
    Rod,
    TabularMDP,
    categorical,
    near_goal,
    normal,
    one_hot,
    rollout,
)

ALL = [
    BernoulliBandit(3),
    GaussianBandit(3),
    TabularMDP(),
    Navigation2D(),
    PointRobot(),
    GridMaze(),
    HiddenGoal(),
    CartPole(),
    Pendulum(),
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def an_action(environment: Environment, noise: Tensor) -> Tensor:
    if environment.discrete:
        return categorical(torch.zeros_like(noise), noise)
    return normal(noise)


@pytest.mark.parametrize("environment", ALL, ids=lambda e: type(e).__name__)
def test_many_at_once_are_each_by_itself(environment: Environment, double: None):
    tasks = environment.tasks(3, seeded())
    noise = torch.rand(3, 5, environment.noise_size, generator=seeded(1))
    actions = torch.rand(3, 5, environment.action_size, generator=seeded(2))

    def episode(task: Any, noise: Tensor, actions: Tensor) -> Any:
        state, seen = environment.reset(task, noise[0])
        steps = []
        for step_noise, policy_noise in zip(noise[1:], actions[1:], strict=True):
            action = an_action(environment, policy_noise)
            state, seen, reward, done = environment.step(task, state, action, step_noise)
            steps.append((seen, reward, done))
        return tree_map(lambda *leaf: torch.stack(leaf), *steps)

    together = vmap(episode)(tasks, noise, actions)
    for i, task in enumerate(unstack(tasks)):
        alone = episode(task, noise[i], actions[i])
        for a, b in zip(leaves(alone), leaves(together), strict=True):
            torch.testing.assert_close(a, b[i])
    seen, reward, done = together
    assert seen.shape == (3, 4, environment.observation_size)
    assert reward.shape == done.shape == (3, 4)


@pytest.mark.parametrize("environment", ALL, ids=lambda e: type(e).__name__)
def test_a_step_compiles_as_one_graph(environment: Environment):
    torch.compiler.reset()  # one function of many environments would reach the limit of graphs
    tasks = environment.tasks(3, seeded())
    state, _ = vmap(environment.reset)(tasks, torch.rand(3, environment.noise_size))
    action = an_action(environment, torch.rand(3, environment.action_size))
    step, step_noise = vmap(environment.step), torch.rand(3, environment.noise_size)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    after = leaves(compiled(tasks, state, action, step_noise))
    for a, b in zip(after, leaves(step(tasks, state, action, step_noise)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("environment", ALL, ids=lambda e: type(e).__name__)
def test_who_says_that_no_step_ends_an_episode_ends_none(environment: Environment):
    def at_random(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, an_action(environment, noise), ()

    tasks = environment.tasks(3, seeded())
    found = rollout(environment, tasks, at_random, seeded(1), episodes=4)
    assert environment.can_terminate or (found.done == 0).all()
    environment.can_terminate, declared = True, environment.can_terminate
    same = rollout(environment, tasks, at_random, seeded(1), episodes=4)
    environment.can_terminate = declared
    assert all(map(torch.equal, leaves(found), leaves(same)))


@pytest.mark.parametrize("environment", ALL, ids=lambda e: type(e).__name__)
def test_seeds_draw_the_same_tasks(environment: Environment):
    first, again, other = (leaves(environment.tasks(4, seeded(seed))) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_noise_becomes_draws_of_the_right_distributions():
    noise = torch.rand(20_000, 3, generator=seeded())
    assert kstest(normal(noise).flatten().numpy(), "norm").pvalue > 0.001
    assert normal(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()
    chances = torch.tensor([0.2, 0.3, 0.5])
    drawn = categorical(chances.log().expand(20_000, 3), noise)
    assert (drawn.sum(-1) == 1).all()
    assert chisquare(drawn.sum(0).numpy(), 20_000 * chances.numpy()).pvalue > 0.001
    assert categorical(torch.zeros(2), torch.tensor([0.0, 0.5])).tolist() == [0, 1]


@pytest.mark.parametrize("bandit", [BernoulliBandit, GaussianBandit])
def test_one_arm_is_no_bandit(bandit: Any):
    with pytest.raises(ValueError, match="at least 2"):
        bandit(1)


def test_arms_pay_what_they_should():
    noise = torch.rand(20_000, 1, generator=seeded())
    arm, task = one_hot(torch.tensor(1), 2, torch.float), torch.tensor([0.9, 0.3])
    bandit = BernoulliBandit(2)
    rewards = vmap(lambda step_noise: bandit.step(task, (), arm, step_noise)[2])(noise)
    assert set(rewards.tolist()) == {0, 1} and abs(rewards.mean() - 0.3) < 0.013  # 4 deviations
    other = GaussianBandit(2, std=0.5)
    rewards = vmap(lambda step_noise: other.step(task, (), arm, step_noise)[2])(noise)
    assert kstest((rewards.numpy() - 0.3) / 0.5, "norm").pvalue > 0.001
    assert kstest(bandit.tasks(2000, seeded()).flatten().numpy(), "uniform").pvalue > 0.001
    assert kstest(other.tasks(2000, seeded()).flatten().numpy(), "norm").pvalue > 0.001


def test_processes_have_the_transitions_and_rewards_of_their_task():
    environment = TabularMDP()
    task = tree_map(lambda leaf: leaf[0], environment.tasks(1, seeded()))
    noise = torch.rand(20_000, 2, generator=seeded(1))
    state, action = torch.tensor(7), one_hot(torch.tensor(2), 5, torch.float)
    after, seen, rewards, done = vmap(
        lambda step_noise: environment.step(task, state, action, step_noise)
    )(noise)
    chances = task.transitions[7, 2].double()
    expected = 20_000 * chances / chances.sum()
    assert chisquare(after.bincount(minlength=10).numpy(), expected.numpy()).pvalue > 0.001
    assert torch.equal(seen.argmax(-1), after) and (seen.sum(-1) == 1).all()
    assert kstest((rewards - task.means[7, 2]).numpy(), "norm").pvalue > 0.001
    assert not done.any()
    assert environment.reset(task, noise[0])[1].tolist() == [1] + [0] * 9


def test_processes_are_drawn_from_the_published_distribution():
    tasks = TabularMDP().tasks(200, seeded())
    torch.testing.assert_close(tasks.transitions.sum(-1), torch.ones(200, 10, 5))
    # one of ten probabilities of a flat Dirichlet distribution is Beta(1, 9)
    assert kstest(tasks.transitions[..., 0].flatten().numpy(), "beta", (1, 9)).pvalue > 0.001
    assert kstest(tasks.means.flatten().numpy() - 1, "norm").pvalue > 0.001


def test_the_best_return_of_a_process_is_that_of_all_plans(double: None):
    environment = TabularMDP(2, 2, horizon=2)
    task = MDP(*(leaf[0].double() for leaf in environment.tasks(1, seeded())))
    plans = [  # an action, and one for each state that may follow
        task.means[0, a] + sum(task.transitions[0, a, s] * task.means[s, b[s]] for s in (0, 1))
        for a in (0, 1)
        for b in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    torch.testing.assert_close(environment.best_return(task), torch.stack(plans).amax())


def test_navigation_by_hand(double: None):
    environment, goal, step_noise = Navigation2D(), torch.tensor([0.15, -0.3]), torch.zeros(1)
    position, seen = environment.reset(goal, step_noise)
    assert seen.tolist() == [0, 0]
    rewards, ends = [], []
    for action in ([0.1, -5.0], [0.05, -0.1], [0.005, -0.095]):
        position, seen, reward, done = environment.step(
            goal, position, torch.tensor(action), step_noise
        )
        rewards.append(reward.item())
        ends.append(done.item())
    torch.testing.assert_close(seen, torch.tensor([0.155, -0.295]))
    assert rewards == pytest.approx([-math.hypot(0.05, 0.2), -0.1, -math.hypot(0.005, 0.005)])
    assert ends == [0, 0, 1]
    squared = Navigation2D(squared=True).step(goal, goal + 1, torch.zeros(2), step_noise)[2]
    assert squared.item() == pytest.approx(-2)
    goals = environment.tasks(5000, seeded())
    assert kstest(goals.flatten().numpy() + 0.5, "uniform").pvalue > 0.001


def test_a_point_robot_by_hand(double: None):
    environment, goal, step_noise = PointRobot(), torch.tensor([0.6, 0.8]), torch.zeros(1)
    position, seen = environment.reset(goal, step_noise)
    assert seen.tolist() == [0, 0]
    rewards, ends = [], []
    for _ in range(8):
        action = torch.tensor([0.075, 9.0])
        position, _, reward, done = environment.step(goal, position, action, step_noise)
        rewards.append(reward)
        ends.append(done.item())
    torch.testing.assert_close(position, goal)
    away = torch.tensor([math.hypot(0.6 - 0.075 * n, 0.8 - 0.1 * n) for n in range(1, 9)])
    torch.testing.assert_close(torch.stack(rewards), -away)
    sparse = [0.0] * 6 + [0.875, 1.0]
    torch.testing.assert_close(near_goal(torch.stack(rewards)), torch.tensor(sparse))
    assert ends == [0] * 8  # it may stay
    x, y = environment.tasks(5000, seeded()).unbind(-1)
    assert kstest(torch.atan2(y, x).numpy() / math.pi, "uniform").pvalue > 0.001


def test_a_maze_by_hand():
    environment = GridMaze(2)
    walls = torch.ones(4, 4)
    walls[1, 1] = walls[1, 2] = walls[2, 2] = 0  # open: the first row, and then down
    task, step_noise = Maze(walls.flatten(), torch.tensor(2 * 4 + 2)), torch.zeros(1)
    state, seen = environment.reset(task, step_noise)
    assert seen.tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 0]
    up, down, _, right = torch.eye(4).unbind()
    found = []
    for action in (up, down, right, down):
        state, seen, reward, done = environment.step(task, state, action, step_noise)
        found.append((int(state), round(reward.item(), 3), int(done)))
    assert found == [(5, -0.041, 0), (5, -0.041, 0), (6, -0.04, 0), (10, 0.96, 1)]


def test_every_goal_of_a_maze_can_be_reached_and_all_kinds_are_drawn():
    width = 7
    tasks = GridMaze(5, walls=0.4).tasks(300, seeded())
    for walls, goal in zip(tasks.walls.tolist(), tasks.goal.tolist(), strict=True):
        reached, todo = set(), [width + 1]
        while todo:
            cell = todo.pop()
            if cell not in reached and not walls[cell]:
                reached.add(cell)
                todo += [cell - width, cell + width, cell - 1, cell + 1]
        assert goal in reached and goal != width + 1
    assert len(set(tasks.goal.tolist())) == 24
    assert 0.3 < tasks.walls.view(300, 7, 7)[:, 3:6, 3:6].mean() < 0.5


@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 1.5)])
def test_cart_pole_is_gymnasiums(factors: tuple[float, float], double: None):
    environment = CartPole(factors)
    task = Cart(*(leaf[0] for leaf in environment.tasks(1, seeded())))
    theirs = CartPoleEnv()
    theirs.gravity, theirs.masscart, theirs.masspole, theirs.length, theirs.force_mag = (
        leaf.item() for leaf in task
    )
    theirs.total_mass = theirs.masscart + theirs.masspole
    theirs.polemass_length = theirs.masspole * theirs.length
    theirs.reset(seed=0)
    state, fallen = torch.tensor(theirs.state), False
    for step in range(200):
        push = int(state[2] + 0.3 * state[3] + 0.02 * state[0] + 0.05 * state[1] > 0)
        seen, expected_reward, fallen, _, _ = theirs.step(push)
        action = one_hot(torch.tensor(push), 2, state.dtype)
        state, ours, reward, done = environment.step(task, state, action, torch.zeros(4))
        torch.testing.assert_close(ours.float(), torch.tensor(seen), atol=1e-5, rtol=1e-5)
        assert (reward.item(), bool(done)) == (expected_reward, fallen) == (1, False), step
    while not fallen:  # pushed to one side
        seen, expected_reward, fallen, _, _ = theirs.step(1)
        state, ours, reward, done = environment.step(
            task, state, torch.tensor([0.0, 1]), torch.zeros(4)
        )
        assert (reward.item(), bool(done)) == (expected_reward, fallen)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 1.5)])
def test_pendulum_is_gymnasiums(factors: tuple[float, float], double: None):
    environment = Pendulum(factors)
    task = Rod(*(leaf[0] for leaf in environment.tasks(1, seeded())))
    theirs = PendulumEnv(g=task.gravity.item())
    theirs.m, theirs.l = task.mass.item(), task.length.item()
    theirs.reset(seed=0)
    state = torch.tensor(theirs.state)
    for torque in 3 * torch.randn(200, 1, generator=seeded()):
        seen, expected_reward, _, _, _ = theirs.step(torque.numpy())
        state, ours, reward, done = environment.step(task, state, torque, torch.zeros(2))
        torch.testing.assert_close(ours.float(), torch.tensor(seen), atol=1e-5, rtol=1e-5)
        assert reward.item() == pytest.approx(expected_reward, abs=1e-5) and not done


def test_physics_are_the_usual_ones_times_a_factor():
    cart = CartPole((0.5, 1.5)).tasks(2000, seeded())
    for values, usual in zip(cart[1:], (1, 0.1, 0.5, 10), strict=True):
        assert kstest(values.numpy() / usual - 0.5, "uniform").pvalue > 0.001
    assert (cart.gravity == CartPoleEnv().gravity).all()
    for a, b in pairwise(cart[1:]):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.1
    assert (Pendulum().tasks(9, seeded()).gravity == 10).all()


def test_beginnings_are_gymnasiums():
    ours, theirs = CartPole(), gymnasium.make("CartPole-v1")
    task = tree_map(lambda leaf: leaf[0], ours.tasks(1, seeded()))
    noise = torch.rand(2000, 4, generator=seeded())
    begun = vmap(lambda step_noise: ours.reset(task, step_noise)[1])(noise)
    known = torch.tensor([theirs.reset(seed=seed)[0].tolist() for seed in range(100)])
    assert kstest(begun[:, 1].numpy(), known[:, 1].numpy()).pvalue > 0.001
    assert begun.abs().max() <= 0.05 and known.abs().max() <= 0.05
