"""Families of gymnasium environments: against loops by hand, and with workers that die."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Generator, Tensor
from torch.func import vmap

import quickstudy as qs
from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments import GymnasiumFamily, categorical, normal, rollout
from quickstudy.evaluation import success_rate


class Drift(gymnasium.Env[Any, Any]):
    """A walk from a random place, pushed by the task's wind and by luck; it ends beyond 1."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Box(-0.5, 0.5, (1,))
    wind = 0.0

    def set_task(self, task: dict[str, Any]) -> None:
        self.wind = float(task["wind"])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.5, 0.5)
        self.age = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.age += 1
        self.place += float(action[0]) + self.wind + 0.1 * self.np_random.standard_normal()
        return self._seen(), self.place, self.place > 1, False, {"success": self.place > 0.9}

    def _seen(self) -> Any:
        return np.array([self.place, self.age], np.float32)


class TwoArms(gymnasium.Env[Any, Any]):
    """The arm that the task says pays; arms are 5 and 6, and what is seen is one of three."""

    observation_space = Discrete(3)
    action_space = Discrete(2, start=5)

    def set_task(self, task: Any) -> None:
        self.arm = 5 + int(task)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 2, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return 1, float(action == self.arm), True, False, {}


class Mortal(Drift):
    """Kills its own process at step 4 of an episode, once for each file that it can remove."""

    def __init__(self, folder: Any):
        self.folder = folder

    def step(self, action: Any) -> Any:
        if self.age == 4 and (files := list(self.folder.iterdir())):
            files[0].unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def winds(size: int, generator: Generator) -> dict[str, Tensor]:
    return {"wind": 0.6 * torch.rand(size, generator=generator)}


def arms(size: int, generator: Generator) -> Tensor:
    return torch.randint(2, (size,), generator=generator)


def drifts(make: Any = Drift, **options: Any) -> GymnasiumFamily:
    options = {"horizon": 8, "info": ["success"], "workers": 1, **options}
    return GymnasiumFamily(make, winds, **options)


def back(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
    return memory + 1, 0.2 * normal(noise) - 0.1 * policy_input.observation[:1], memory


def walked(family: GymnasiumFamily, tasks: int = 5, **options: Any) -> Any:
    generator = Generator().manual_seed(3)
    drawn = family.tasks(tasks, generator)
    memory = torch.zeros(tasks)
    return drawn, rollout(family, drawn, back, generator, episodes=3, memory=memory, **options)


def same(a: Any, b: Any) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("trial", [False, True])
def test_episodes_are_those_of_a_loop_by_hand(trial: bool) -> None:
    with drifts() as family:
        tasks, found = walked(family, trial=trial)
    generator = Generator().manual_seed(3)
    family.tasks(5, generator)
    noise = torch.rand(9, 5, 3, 3, generator=generator)
    lengths = set()
    for t in range(5):
        memory = 0
        for e in range(3):
            env, memory = Drift(), memory if trial else 0
            env.set_task({"wind": tasks["wind"][t]})
            high, low = (noise[0, t, e, :2].double() * 2**24).long().tolist()
            seen, _ = env.reset(seed=high * 2**24 + low)
            over = False
            for h in range(8):
                at = tree_map(lambda leaf: leaf[t, e, h], found)  # noqa: B023
                assert at.weight == 1 - over
                if over:
                    assert at.reward == at.done == at.info["success"] == 0
                    continue
                assert at.observation.tolist() == seen.tolist() and at.extras == memory
                action = 0.2 * normal(noise[1 + h, t, e, 2:]) - 0.1 * at.observation[:1]
                torch.testing.assert_close(at.action, action)
                seen, paid, over, _, info = env.step(action.clamp(-0.5, 0.5).numpy())
                torch.testing.assert_close(at.reward.item(), paid, atol=1e-6, rtol=1e-6)
                assert at.next_observation.tolist() == pytest.approx(seen.tolist())
                assert at.done == over and at.info["success"] == info["success"]
                memory += 1
            lengths.add(int(found.weight[t, e].sum()))
    assert 8 in lengths and len(lengths) > 2
    hits = [success_rate(qs.Task(single, single)) for single in map(found_of(found), range(5))]
    assert torch.stack(hits).tolist() == (found.reward > 0.9).any(-1).float().mean(1).tolist()


def found_of(found: Any) -> Any:
    return lambda t: tree_map(lambda leaf: leaf[t], found)


def test_the_number_of_workers_changes_nothing() -> None:
    _, alone = walked(drifts())
    for workers in (2, 3):
        with drifts(workers=workers) as family:
            same(walked(family)[1], alone)
            same(walked(family)[1], alone)  # nothing is left of the episodes before
            same(walked(family, 1)[1], walked(drifts(), 1)[1])
    assert not multiprocessing.active_children()


def test_many_at_once_are_each_by_itself() -> None:
    with drifts() as family:
        tasks, noise = family.tasks(3, Generator()), torch.rand(4, 3, 2)

        def seen(task: Any, noise: Tensor) -> Any:
            state, first = family.reset(task, noise)
            return first, *family.step(task, state, torch.ones(1), noise)[1:]

        together = vmap(vmap(seen), in_dims=(None, 0))(tasks, noise)
        for i, row in enumerate(noise):
            for t in range(3):
                single = seen(tree_map(lambda leaf: leaf[t], tasks), row[t])  # noqa: B023
                same(single, tuple(leaf[i, t] for leaf in together))


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(tmp_path: Any, deaths: int) -> None:
    _, expected = walked(drifts())
    for i in range(deaths):
        (tmp_path / str(i)).touch()
    with drifts(lambda: Mortal(tmp_path), workers=2) as family:
        with pytest.warns(RuntimeWarning, match=r"Worker \d \(process \d+\) died.* code -9"):
            _, found = walked(family)
        same(found, expected)
        same(walked(family)[1], expected)
    assert not list(tmp_path.iterdir()) and not multiprocessing.active_children()


def test_a_worker_that_was_killed_between_rollouts_is_replaced() -> None:
    with drifts(workers=2) as family:
        _, expected = walked(family)
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        with pytest.warns(RuntimeWarning, match=f"process {victim.pid}"):
            same(walked(family)[1], expected)


def test_one_that_always_dies_is_given_up(tmp_path: Any) -> None:
    for i in range(99):
        (tmp_path / str(i)).touch()
    family = drifts(lambda: Mortal(tmp_path), workers=2)
    with (
        pytest.warns(RuntimeWarning, match="died"),
        pytest.raises(RuntimeError, match="fewer tasks"),
    ):
        walked(family)
    assert not multiprocessing.active_children()


def test_processes_end_with_the_family_and_with_ctrl_c(tmp_path: Path) -> None:
    family = drifts(workers=2)
    assert not multiprocessing.active_children()
    walked(family)
    assert len(multiprocessing.active_children()) == 2
    del family
    gc.collect()
    assert not multiprocessing.active_children()

    class Slow(Drift):
        def step(self, action: Any) -> Any:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(60)

    slow = drifts(Slow, workers=2)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:  # until both work
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    # tests that a shell runs in the background are told to ignore interrupts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            walked(slow)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_actions_and_observations_that_are_one_of_several_are_one_hot() -> None:
    family = GymnasiumFamily(TwoArms, arms, horizon=3, workers=1)
    assert (family.observation_size, family.action_size, family.discrete) == (3, 2, True)

    def any_arm(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
        return memory, categorical(torch.zeros(2), noise), ()

    tasks = family.tasks(20, Generator())
    found = rollout(family, tasks, any_arm, Generator(), episodes=2)
    assert found.observation[:, :, 0].unique(dim=1).tolist() == [[[0, 0, 1]]] * 20
    pays = found.action[:, :, 0].gather(-1, tasks[:, None, None].expand(20, 2, 1))
    assert torch.equal(found.reward[:, :, 0], pays[..., 0]) and 0 < pays.mean() < 1
    assert found.weight.sum(-1).eq(1).all() and found.info == {}


def test_a_task_may_be_set_by_a_function_and_being_cut_off_is_no_end() -> None:
    def heavier(env: Any, gravity: Any) -> None:
        env.unwrapped.g = gravity

    def pendulums(horizon: int) -> GymnasiumFamily:
        return GymnasiumFamily(
            lambda: gymnasium.make("Pendulum-v1", max_episode_steps=6),
            lambda size, generator: 10 + torch.rand(size, generator=generator),
            set_task=heavier,
            horizon=horizon,
            workers=1,
        )

    found = rollout(
        pendulums(6),
        torch.tensor([0.0, 9.0]),
        lambda state, memory, policy_input, noise: (memory, 0 * noise, ()),
        Generator(),
    )
    assert found.weight.all() and not found.done.any()
    torch.testing.assert_close(  # without gravity, angular velocity stays
        found.next_observation[0, 0, :, 2], found.observation[0, 0, :1, 2].expand(6)
    )
    with pytest.raises(ValueError, match="horizon of at most"):
        walked_by = pendulums(7)
        rollout(walked_by, torch.ones(2), back, Generator(), memory=torch.zeros(2))


def test_what_cannot_be_gone_on_with_is_refused() -> None:
    family = drifts()
    tasks, noise = family.tasks(2, Generator()), torch.rand(2, 2)
    begin, step = vmap(family.reset), vmap(family.step)
    state, _ = begin(tasks, noise)
    after = step(tasks, state, noise[:, :1], noise)[0]
    with pytest.raises(ValueError, match="go on only from where they are"):
        step(tasks, state, noise[:, :1], noise)
    begin(tasks, noise)
    with pytest.raises(ValueError, match="go on only from where they are"):
        step(tasks, after, noise[:, :1], noise)


def test_errors_of_environments_are_shown_and_odd_actions_refused() -> None:
    class Broken(Drift):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError("by design")

    with pytest.raises(RuntimeError, match="by design"):
        walked(drifts(Broken, workers=2))
    assert not multiprocessing.active_children()
    Broken.action_space = gymnasium.spaces.MultiBinary(2)  # pyright: ignore
    with pytest.raises(ValueError, match="wrap the environment"):
        drifts(Broken)


def test_rl2_learns_which_arm_pays() -> None:
    family = GymnasiumFamily(TwoArms, arms, horizon=1, workers=1)
    gains = []
    for seed in range(3):
        torch.manual_seed(seed)
        learner = qs.RL2(family, hidden=16)
        trials = qs.tasks.Rollouts(family, learner, episodes=3, trial=True)
        before = qs.evaluation.evaluate_rollouts(
            learner, trials, n_tasks=100, meta_batch_size=100
        )
        optimizer = qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.02), 4)
        for _ in qs.train(learner, trials, optimizer, steps=15, meta_batch_size=32, seed=seed):
            pass
        after = qs.evaluation.evaluate_rollouts(
            learner, trials, n_tasks=100, meta_batch_size=100
        )
        gains.append(after.paired_difference(before))
    for gain in gains:
        assert gain.mean - gain.interval > 0.3, gain
