"""Replayed rollouts: what is kept, what is drawn of it, and going on from a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.core.tree import leaves
from quickstudy.environments import Environment, Navigation2D, PolicyInput


class Numbered(Environment):
    """Episodes of 2 or 3 steps. What is seen tells the task, and how many steps were taken."""

    observation_size, action_size, discrete, horizon, noise_size = 2, 1, False, 3, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.randperm(size, generator=generator).to(torch.get_default_dtype())

    def reset(self, task: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(task), torch.stack([task, torch.zeros_like(task)])

    def step(self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor) -> Any:
        state = state + 1
        done = (state >= 2 + task % 2).to(task.dtype)
        return state, torch.stack([task, state]), state * 10, done


class Known(qs.Actor):
    """Says by its actions whether it has adapted, and in what collection it acts."""

    def __init__(self) -> None:
        super().__init__()
        self.time = torch.nn.Parameter(torch.zeros(1))
        self.extra_noise_size = 2

    def initial_state(self) -> Any:
        return self.time * 0, ()

    def adapt(self, support: Any, state: Any = None) -> Any:
        return self.time * 0 + 0.5, ()

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return x

    def act(self, state: Any, memory: Any, policy_input: PolicyInput, noise: Tensor) -> Any:
        assert noise.shape == (3,)
        return memory, self.time + state, ()


def some(**options: Any) -> tuple[Known, qs.tasks.OffPolicyTasks]:
    learner = Known()
    rollouts = qs.tasks.Rollouts(Numbered(), learner, episodes=2)
    settings = {"tasks": 4, "every": 3, "collect": 2, "support": 20, "query": 40}
    return learner, qs.tasks.OffPolicyTasks(rollouts, **{**settings, "capacity": 30, **options})


def set_time(learner: Known, number: int) -> None:
    with torch.no_grad():
        learner.time.fill_(number)


def test_steps_are_what_happened_to_one_task_without_padding() -> None:
    _, replayed = some()
    for steps in replayed.sample(16, Generator().manual_seed(0)):
        task_number, count = steps.observation.unbind(-1)
        assert (task_number == task_number[:, :, :1]).all()
        after, taken = steps.next_observation.unbind(-1)
        assert torch.equal(after, task_number) and torch.equal(taken, count + 1)
        assert torch.equal(steps.reward, 10 * taken) and steps.weight.all()
        assert torch.equal(steps.done, (taken == 2 + task_number % 2).to(taken.dtype))


def test_support_is_the_last_exploration_and_query_all_that_was_done() -> None:
    learner, replayed = some(capacity=60, query=400)
    generator = Generator().manual_seed(0)
    latest = torch.zeros(4)  # collection, by task
    for number in range(1, 13):  # of which there are four
        set_time(learner, (number - 1) // 3)
        support, query = replayed.sample(16, generator)
        assert support.reward.shape == (16, 1, 20) and query.action.shape == (16, 1, 400, 1)
        which = query.observation[:, 0, 0, 0]
        assert torch.equal(support.observation[:, 0, 0, 0], which)
        explored = support.action[:, 0, 0]
        assert torch.equal(support.action, explored[:, None, None].expand_as(support.action))
        assert (explored[:, 0] >= latest[which.long()]).all()
        latest[which.long()] = explored[:, 0]
        assert torch.equal(explored % 1, torch.zeros_like(explored))  # not adapted
        assert torch.equal(query.action.amax((1, 2)), explored + 0.5)  # adapted
        assert torch.equal(query.action.amin((1, 2)), torch.zeros(16, 1))  # the first
    assert latest.max() == 3
    length = 2 + replayed.tasks % 2
    episodes = replayed.replay.write_count / length
    assert (episodes % 4 == 0).all() and episodes.sum() == 4 * (4 + 3 * 2)


def test_support_may_be_of_what_came_after_adapting_too() -> None:
    learner, replayed = some(adapted=True, every=1, collect=4, support=100)
    generator = Generator().manual_seed(0)
    for number in range(3):
        set_time(learner, number)
        found = replayed.sample(8, generator).support.action.unique().tolist()
        assert found == [number, number + 0.5]


def test_rings_forget_the_oldest() -> None:
    learner, replayed = some(capacity=12, every=1, collect=4)
    generator = Generator().manual_seed(0)
    found = []
    for number in range(5):
        set_time(learner, number)
        found = replayed.sample(30, generator).query.action.unique().tolist()
    assert {4.0, 4.5} <= set(found) <= {3.0, 3.5, 4.0, 4.5}  # 8 or 12 steps a collection


def test_a_full_ring_gives_its_oldest_step_too() -> None:
    learner, replayed = some(tasks=1, capacity=12, every=1, collect=1, query=400)
    generator, buffer = Generator().manual_seed(0), replayed.replay
    for number in range(4):
        set_time(learner, number)
        replayed.sample(1, generator)
    assert buffer.write_count.item() > 12
    oldest = buffer.write_count.item() % 12  # the next to be overwritten
    buffer.get_buffer("reward")[0] = torch.arange(12) == oldest
    replayed.every = 10**6  # collects no more
    share = replayed.sample(1, generator).query.reward.mean()
    assert 0.04 < share < 0.13  # one step of twelve


def test_all_steps_are_as_likely() -> None:
    _, replayed = some(every=100, query=2000)
    query = replayed.sample(1, Generator().manual_seed(0)).query
    _, counts = query.observation[0, 0, :, 1].unique(return_counts=True)
    share = counts / 2000
    assert (share - 1 / len(share)).abs().max() < 0.05


def test_noise_is_new_for_every_batch_and_step() -> None:
    _, replayed = some()
    generator = Generator().manual_seed(0)
    noise = [replayed.sample(3, generator).query.extras for _ in range(2)]
    assert noise[0].shape == (3, 1, 40, 2, 3)
    assert len(torch.stack(noise).unique()) > 0.99 * 2 * noise[0].numel()


def test_a_batch_is_a_function_of_the_generator_and_what_is_kept() -> None:
    first, second = (some()[1].sample(5, Generator().manual_seed(3)) for _ in range(2))
    for a, b in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(a, b)
    _, other = some(seed=1)
    assert not torch.equal(other.tasks, some()[1].tasks)


def test_a_run_goes_on_to_the_bit_from_a_checkpoint(tmp_path: Path) -> None:
    def begun() -> Any:
        torch.manual_seed(0)
        environment = Navigation2D(horizon=8)
        learner = qs.PEARL(environment, hidden=[8], encoder=[8], bound=0.1)
        rollouts = qs.tasks.Rollouts(environment, learner, episodes=1)
        tasks = qs.tasks.OffPolicyTasks(
            rollouts, tasks=3, every=2, collect=2, support=4, query=4
        )
        return learner, tasks, torch.optim.Adam(learner.parameters(), 0.01)

    def stepped(parts: Any, start: int, steps: int) -> None:
        learner, tasks, optimizer = parts
        for _ in qs.train(
            learner, tasks, optimizer, steps=steps, start=start, meta_batch_size=3
        ):
            pass

    whole, half, resumed = begun(), begun(), begun()
    stepped(whole, 0, 7)
    stepped(half, 0, 3)
    qs.save(tmp_path, half[0], half[2])
    qs.load(tmp_path, resumed[0], resumed[2])
    stepped(resumed, 3, 7)
    expected, found = whole[0].state_dict(), resumed[0].state_dict()
    assert expected.keys() == found.keys() and found["replay.write_count"].sum() > 3 * 16
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert not torch.equal(whole[0].policy.head.bias, half[0].policy.head.bias)


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="12 steps"):
        some(capacity=11)
    with pytest.raises(ValueError, match="no trial"):
        qs.tasks.OffPolicyTasks(qs.tasks.Rollouts(Numbered(), Known(), episodes=1, trial=True))


def test_the_card_says_how_much_is_kept() -> None:
    card = some()[1].card()
    assert card["training tasks"] == 4 and card["capacity"] == 30 and card["every"] == 3
