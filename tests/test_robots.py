"""The recipes of robots, and the curves that are drawn of what they earned."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import unstack
from quickstudy.environments import Environment, Navigation2D

mujoco = pytest.importorskip(
    "mujoco", reason="MuJoCo is not installed: pip install 'quickstudy[rl]'"
)
LEARNERS = ["maml_trpo", "promp", "pearl", "scratch", "untrained"]


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    file = Path(__file__).parent.parent / "docs" / "curves.py"
    spec = importlib.util.spec_from_file_location("curves", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sides(Environment):
    """Three steps, to be made to the side that pays, which is not seen."""

    observation_size, action_size, discrete, horizon, noise_size = 1, 1, False, 3, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.randint(2, (size,), generator=generator) * 2.0 - 1

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        reward = task * action[0].clamp(-2, 2)
        return (), torch.ones_like(noise), reward, torch.zeros_like(reward)


def from_scratch(world: Environment, **settings: Any) -> Any:
    net = qs.nets.policy_net(world, hidden=(16,))
    return runs.find("rl_cheetah").FromScratch(world, net, **settings)


@pytest.mark.usefixtures("double")
def test_from_scratch_goes_up_ppos_objective_as_a_loop_does() -> None:
    world = Navigation2D(horizon=10)
    learner = from_scratch(world, lr=0.05, steps=3, clip=0.02)
    rollouts = qs.tasks.Rollouts(world, learner, episodes=4)
    task = unstack(rollouts.sample(1, Generator().manual_seed(0)))[0]
    seen = task.support
    found, _ = learner.adapt(seen)

    # the linear baseline by least squares, returns backwards in time
    returns, after = torch.zeros_like(seen.reward), torch.zeros(4)
    for t in reversed(range(10)):
        after = returns[:, t] = seen.reward[:, t] + 0.99 * after
    time = (torch.arange(10.0) / 100)[:, None].expand(4, 10, 1)
    o = seen.observation
    x = torch.cat([o, o**2, time, time**2, time**3, torch.ones_like(time)], -1).flatten(0, 1)
    ridge = (1e-5 * len(x)) ** 0.5 * torch.eye(x.shape[1])
    goal = torch.cat([returns.flatten(), torch.zeros(x.shape[1])])[:, None]
    fitted = x @ torch.linalg.lstsq(torch.cat([x, ridge]), goal).solution
    advantage = returns - fitted.view(4, 10)
    advantage = (advantage - advantage.mean()) / advantage.std()

    def likely() -> Tensor:
        mean, log_std = learner.net(seen.observation).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        return normal.log_prob(seen.action).sum(-1)

    then = likely().detach()
    optimizer = torch.optim.SGD(learner.parameters(), 0.05)
    for step in range(3):
        ratio = (likely() - then).exp()
        kept = ratio.clamp(0.98, 1.02)
        assert step == 0 or not torch.equal(ratio, kept)  # something is clipped
        optimizer.zero_grad()
        (-torch.minimum(ratio * advantage, kept * advantage).mean()).backward()
        optimizer.step()
    for name, p in learner.net.named_parameters():
        torch.testing.assert_close(found[name], p.detach(), msg=name)


def test_from_scratch_learns_from_the_episodes_of_a_task() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        learner = from_scratch(Sides(), lr=0.1, steps=20, clip=0.3)
        rollouts = qs.tasks.Rollouts(Sides(), learner, episodes=20)
        report = qs.evaluation.evaluate_rollouts(
            learner, rollouts, n_tasks=100, meta_batch_size=100
        )
        gain = report.values["return after"] - report.values["return before"]
        assert gain.mean() > 0.5 + 3 * gain.std() / 10, gain.mean()


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_recipe_of_cheetahs_is_carried_out(
    learner: str, tmp_path: Path, curves: ModuleType
) -> None:
    settings = {
        "learner": learner,
        "steps": 3,
        "meta_batch_size": 2,
        "episodes": 2,
        "horizon": 10,
    }
    pearls = {"explore": 1, "every": 2, "hidden": 8}
    run = runs.start("rl_cheetah", settings | pearls, tmp_path)
    run.experiment.validate_every, run.experiment.n_validation_tasks = 3, 2
    rollouts: Any = run.experiment.validation
    counted, act_in = [0], rollouts.act_in

    def counting(*arguments: Any) -> Any:
        found = act_in(*arguments)
        counted[-1] += int((found.support.weight.sum() + found.query.weight.sum()).item())
        return found

    rollouts.act_in = counting
    taken = {0: 0}
    for status in runs.go(run):
        taken[status.step] = counted[0]
    rollouts.act_in = act_in
    trained = learner not in ("scratch", "untrained")
    assert list(taken) == ([0, 1, 2, 3] if trained else [0])
    for step in (1, 2) if trained else ():  # after the third there is a validation
        assert curves.acted(run.experiment, step) == taken[step]
    found = runs.finish(run, n_tasks=2)
    row = found["measured"]["new trials of two directions"]
    assert found["name"] == f"rl_cheetah_dir_{learner}_0"
    assert -10 < row["return after"]["mean"] < 10
    assert ("new trials of two directions, likeliest actions" in found["measured"]) == (
        learner == "pearl"
    )


@pytest.mark.parametrize("task", ["dir", "vel"])
def test_budgets_are_as_stated(task: str, curves: ModuleType) -> None:
    module = runs.find("rl_cheetah")
    for learner, low, high in (
        ("maml_trpo", 10_000_000, 10_100_000),
        ("promp", 10_000_000, 10_100_000),
        ("pearl", 496_000, 500_000),
    ):
        experiment = module.recipe(task=task, learner=learner)
        assert low <= curves.acted(experiment, experiment.steps) <= high
    with pytest.raises(ValueError, match="choose one of"):
        module.recipe(learner="mamel")


def test_curves_are_of_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curves: ModuleType
) -> None:
    def result(learner: str, seed: int, steps: list[int]) -> Any:
        return {
            "recipe": "rl_navigation",
            "settings": {"learner": learner, "seed": seed},
            "measured": {"new goals": {"return after": {"mean": -30.0}}},
            "history": [
                {
                    "step": step,
                    "validation return after": step - seed,
                    "validation return before": -step,
                }
                for step in steps
            ],
        }

    stored = {
        "a": result("maml_trpo", 0, [1, 2, 3]),
        "b": result("maml_trpo", 1, [1, 2]),
        "c": result("untrained", 0, []),
    }
    assert curves.history([stored["a"], stored["b"]], "validation return after") == {
        1: [1, 0],
        2: [2, 1],
    }
    monkeypatch.setattr(runs, "stored", lambda: stored)
    drawn: list[Any] = []
    draw = curves.draw

    def noting(axes: Any, results: Any) -> None:
        drawn.append(axes)
        draw(axes, results)

    monkeypatch.setattr(curves, "draw", noting)
    assert curves.main(tmp_path) == [tmp_path / "rl_navigation.svg"]
    (axes,) = drawn
    after, before, level = axes.lines
    assert after.get_xydata().tolist() == [[80_000, 0.5], [160_000, 1.5]]
    assert before.get_ydata().tolist() == [-1, -2]
    assert level.get_label() == "untrained" and level.get_ydata() == [-30, -30]
    first = (tmp_path / "rl_navigation.svg").read_bytes()
    curves.main(tmp_path)
    assert (tmp_path / "rl_navigation.svg").read_bytes() == first


@pytest.mark.slow
def test_the_recipe_of_the_arm_is_carried_out(tmp_path: Path) -> None:
    pytest.importorskip("metaworld", reason="pip install 'quickstudy[rl]'")
    settings = {"steps": 2, "meta_batch_size": 2, "horizon": 5, "hidden": 8}
    run = runs.start("rl_meta_world", settings, tmp_path)
    assert [status.step for status in runs.go(run)] == [1, 2]
    found = runs.finish(run, n_tasks=2)
    row = found["measured"]["test goals"]
    assert found["name"] == "rl_meta_world_reach-v3_0"
    assert row["success later"]["mean"] == row["success first"]["mean"] == 0
    assert row["return later"]["mean"] > 0
