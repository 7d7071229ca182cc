"""Robots, step by step against gymnasium's own."""

import math
from typing import Any

import gymnasium
import pytest
import torch
from scipy.stats import kstest
from torch import Generator, Tensor
from torch.func import vmap

pytest.importorskip("mujoco", reason="MuJoCo is not installed: pip install 'quickstudy[rl]'")

from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments import (
    AntDir,
    Factors,
    HalfCheetahDir,
    HalfCheetahVel,
    HopperParams,
    Robot,
    WalkerParams,
    normal,
    rollout,
)

ROBOTS = [
    (HalfCheetahVel(), "HalfCheetah-v5", {}),
    (HalfCheetahDir(), "HalfCheetah-v5", {"ctrl_cost_weight": 0.05}),
    (
        AntDir(),
        "Ant-v5",
        {"contact_cost_weight": 0, "include_cfrc_ext_in_observation": False},
    ),
    (WalkerParams(), "Walker2d-v5", {}),
    (HopperParams(), "Hopper-v5", {}),
]
NAMES = [type(robot).__name__ for robot, _, _ in ROBOTS]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def usual(robot: Robot, task: Any) -> Any:
    """The task in which gymnasium's environment is, but for a cheetah's velocity."""
    if isinstance(task, Factors):
        return tree_map(torch.ones_like, task)
    return torch.tensor([1.0, 0.0]) if isinstance(robot, AntDir) else torch.tensor(1.0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("robot", "name", "options"), ROBOTS, ids=NAMES)
@pytest.mark.parametrize("large", [0.3, 1.5])
def test_a_robot_is_gymnasiums(robot: Robot, name: str, options: Any, large: float) -> None:
    theirs: Any = gymnasium.make(name, **options).unwrapped
    theirs.reset(seed=0)
    tasks = robot.tasks(1, seeded())
    task = usual(robot, tree_map(lambda leaf: leaf[0], tasks))
    state, seen = robot.reset(task, torch.rand(robot.noise_size, generator=seeded(1)))
    theirs.set_state(state.position.numpy(), state.velocity.numpy())
    torch.testing.assert_close(seen, torch.from_numpy(theirs._get_obs()))
    done = torch.tensor(0.0)
    for step_noise in torch.rand(30, robot.action_size, generator=seeded(2)):
        action = large * (2 * step_noise - 1)
        clipped = action.clamp(-1, 1)
        place = theirs.data.qpos[0].item()
        known, paid, ended, _, info = theirs.step(clipped.numpy())
        state, seen, reward, done = robot.step(
            task, state, action, torch.zeros(robot.noise_size)
        )
        if isinstance(robot, HalfCheetahVel):
            paid = -abs(info["x_velocity"] - 1) - 0.05 * clipped.square().sum().item()
        if isinstance(robot, AntDir):
            paid += (theirs.data.qpos[0] - place) / theirs.dt - info["x_velocity"]
        # theirs keeps what the solver found last to start from: equal to its tolerance
        torch.testing.assert_close(seen, torch.from_numpy(known), atol=1e-4, rtol=1e-4)
        assert reward.item() == pytest.approx(paid, abs=1e-4) and done == ended
        if done:
            break
    assert done or large < 1 or not isinstance(robot, HopperParams)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("robot", "name", "options"), ROBOTS, ids=NAMES)
def test_beginnings_are_gymnasiums(robot: Robot, name: str, options: Any) -> None:
    theirs = gymnasium.make(name, **options)
    noise = torch.rand(2000, robot.noise_size, generator=seeded())
    begun = vmap(lambda step_noise: robot.reset((), step_noise)[1])(noise)
    known = torch.stack([torch.from_numpy(theirs.reset(seed=i)[0]) for i in range(60)])
    for i in (0, -1):
        assert kstest(begun[:, i].numpy(), known[:, i].numpy()).pvalue > 0.001


@pytest.mark.parametrize(("robot", "name", "options"), ROBOTS, ids=NAMES)
def test_many_at_once_are_each_by_itself(robot: Robot, name: str, options: Any) -> None:
    tasks, noise = robot.tasks(3, seeded()), torch.rand(3, 2, 3, robot.noise_size)

    def seen(task: Any, noise: Tensor) -> Any:
        state, first = robot.reset(task, noise[0])
        found = [(first, first[0], first[0])]
        for step_noise in noise[1:]:
            state, *rest = robot.step(
                task, state, 2 * step_noise[: robot.action_size] - 1, step_noise
            )
            found.append((rest[0], rest[1], rest[2]))
        return tree_map(lambda *leaf: torch.stack(leaf), *found)

    together = vmap(vmap(seen, in_dims=(None, 0)))(tasks, noise)
    for t in range(3):
        for e in range(2):
            alone = seen(tree_map(lambda leaf: leaf[t], tasks), noise[t, e])  # noqa: B023
            for a, b in zip(leaves(alone), leaves(together), strict=True):
                assert torch.equal(a, b[t, e])


@pytest.mark.usefixtures("double")
def test_factors_change_the_physics_as_gymnasiums_model_would() -> None:
    robot = WalkerParams()
    task = tree_map(lambda leaf: leaf[0].double(), robot.tasks(1, seeded()))
    theirs: Any = gymnasium.make("Walker2d-v5").unwrapped
    model = theirs.model
    for name, values in zip(
        ("body_mass", "body_inertia", "dof_damping", "geom_friction"), task, strict=True
    ):
        getattr(model, name)[:] *= values.numpy()
    robot.mujoco.mj_setConst(model, theirs.data)
    begun, _ = robot.reset(task, torch.rand(robot.noise_size, generator=seeded(1)))
    theirs.reset(seed=0)
    theirs.set_state(begun.position.numpy(), begun.velocity.numpy())
    state, plain, seen, other = begun, begun, torch.zeros(0), torch.zeros(0)
    ones = tree_map(torch.ones_like, task)
    for step_noise in torch.rand(15, robot.action_size, generator=seeded(2)):
        known = theirs.step(step_noise.numpy())[0]
        state, seen, _, _ = robot.step(task, state, step_noise, torch.zeros(robot.noise_size))
        plain, other, _, _ = robot.step(ones, plain, step_noise, torch.zeros(robot.noise_size))
        torch.testing.assert_close(seen, torch.from_numpy(known), atol=1e-4, rtol=1e-4)
    assert (seen - other).abs().max() > 0.1
    for i in range(4):  # each of them does something
        one = ones._replace(**{Factors._fields[i]: task[i]})
        after = begun
        for step_noise in torch.rand(15, robot.action_size, generator=seeded(2)):
            after, seen, _, _ = robot.step(
                one, after, step_noise, torch.zeros(robot.noise_size)
            )
        assert (seen - other).abs().max() > 1e-3, Factors._fields[i]


def test_tasks_are_drawn_as_published() -> None:
    goals = HalfCheetahVel((0, 3)).tasks(2000, seeded())
    assert kstest(goals.numpy() / 3, "uniform").pvalue > 0.001
    assert HalfCheetahDir().tasks(1000, seeded()).unique(return_counts=True)[1].min() > 430
    along = AntDir().tasks(2000, seeded())
    torch.testing.assert_close(along.norm(dim=-1), torch.ones(2000))
    angles = torch.atan2(along[:, 1], along[:, 0]) / (2 * torch.pi) + 0.5
    assert kstest(angles.numpy(), "uniform").pvalue > 0.001
    assert sorted(AntDir(circle=False).tasks(50, seeded()).unique(dim=0).tolist()) == [
        [-1, 0],
        [1, 0],
    ]
    factors = HopperParams(scale=2).tasks(400, seeded())
    for base, values in zip((1.5, 1.5, 1.3, 1.5), factors, strict=True):
        exponent = values.log().flatten()[:2000] / math.log(base)
        assert kstest(exponent.numpy() / 4 + 0.5, "uniform").pvalue > 0.001


def test_episodes_are_functions_of_the_generator_and_pay_for_the_goal() -> None:
    robot = HalfCheetahVel(horizon=10)
    tasks = torch.tensor([0.0, 5.0])

    def at_random(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, 0.3 * normal(noise), ()

    first, again = (rollout(robot, tasks, at_random, seeded(3), episodes=3) for _ in range(2))
    assert torch.equal(first.observation, again.observation)
    assert first.observation.shape == (2, 3, 10, 17)
    assert (first.reward[0] > first.reward[1]).all() and first.reward.dtype == torch.float


def test_threads_change_nothing() -> None:
    one, two = AntDir(), AntDir()
    noise = torch.rand(20, one.noise_size)
    before = torch.get_num_threads()
    assert not one._pool[0].nthread
    torch.set_num_threads(2)
    try:
        assert two._pool[0].nthread == 2
    finally:
        torch.set_num_threads(before)

    def seen(robot: Robot, noise: Tensor) -> Tensor:
        state, _ = robot.reset((), noise)
        return robot.step(torch.ones(2), state, noise[:8], noise)[1]

    ours, theirs = (
        vmap(lambda step_noise, r=robot: seen(r, step_noise))(noise) for robot in (one, two)
    )
    assert torch.equal(ours, theirs)
