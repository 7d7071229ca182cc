"""A memory of tasks against loops written by hand and its limit cases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import (
    CAVIA,
    MAML,
    Examples,
    FewShot,
    ProtoMAML,
    PrototypicalNetwork,
    Reptile,
    Sinusoid,
    Task,
    TaskMemory,
    load,
    runs,
    save,
    squared_error,
)
from quickstudy.core.task import batches
from quickstudy.core.tree import tree_map, unstack
from quickstudy.datasets import Labelled
from quickstudy.execution.batching import over_tasks
from quickstudy.learners.gradient import ContextInput
from quickstudy.nets.backbones import MLP
from quickstudy.reports.retrieval import draw_retrieval
from quickstudy.tasks import Line, Mixture, Parabola
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")
TASKS = Mixture(Sinusoid(), Line(), Parabola())
TINY, HUGE = 1e-9, 1e9


def batch(size: int, seed: int = 0) -> Task[Examples]:
    return TASKS.sample(size, torch.Generator().manual_seed(seed))


def one(seed: int) -> Task[Examples]:
    return tree_map(lambda leaf: leaf[0], batch(1, seed))


def maml(**settings: Any) -> MAML:
    torch.manual_seed(1)
    net = MLP(1, 1, hidden=(8,))
    return MAML(net, lr=0.01, steps=3, criterion=squared_error, **settings)


def memory(past: int = 0, **settings: Any) -> TaskMemory:
    made = TaskMemory(maml(), **({"capacity": 6} | settings))
    if past:
        made.remember(batch(past))
    return made


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def by_hand(past: Task[Examples], support: Examples, temperature: float) -> dict[str, Tensor]:
    """The start, a loop over past tasks; no code of the memory's."""
    plain = maml()
    states = [plain.initial_params(), *(plain.adapt(task.support) for task in unstack(past))]
    losses = []
    for state in states:
        gap = functional_call(plain.net, state, (support.x,)) - support.y
        losses.append(gap.square().sum(1).mean())
    powers = [torch.exp((min(losses) - loss) / temperature) for loss in losses]
    mean = {}
    for name in states[0]:
        mean[name] = torch.zeros_like(states[0][name])
        for power, state in zip(powers, states, strict=True):
            mean[name] = mean[name] + power / sum(powers) * state[name]
    return mean


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_the_start_is_the_weighted_mean_of_a_loop_by_hand(temperature: float):
    learner, support = memory(4, temperature=temperature), one(7).support
    found = learner.adapt(support)
    same(found, maml().adapt(support, by_hand(batch(4), support, temperature)))
    learner.steps = 0
    same(learner.adapt(support), by_hand(batch(4), support, temperature))


def test_an_empty_memory_is_the_learner_and_so_is_one_that_is_not_looked_at():
    support = one(7).support
    expected = maml().adapt(support)
    same(memory().adapt(support), expected)
    full = memory(4)
    full.limit = 0
    same(full.adapt(support), expected)


def test_a_single_state_that_fits_is_where_adaptation_starts():
    learner, plain = memory(1, temperature=TINY), maml()
    support = tree_map(lambda leaf: leaf[0], batch(1)).support  # the task it remembers
    same(learner.adapt(support), plain.adapt(support, plain.adapt(support)))


def test_a_very_low_temperature_takes_the_best_and_a_very_high_one_the_mean():
    plain, support = maml(), one(7).support
    states = [
        plain.initial_params(),
        *map(plain.adapt, (task.support for task in unstack(batch(5)))),
    ]
    best = min(states, key=lambda s: squared_error(plain.predict(s, support.x), support).item())
    same(memory(5, temperature=TINY).adapt(support), plain.adapt(support, best))
    mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
    learner = memory(5, temperature=HUGE)
    torch.testing.assert_close(
        learner.adapt(support), plain.adapt(support, mean), rtol=1e-6, atol=1e-7
    )
    same(learner.attention(support)[6:], torch.zeros(1))  # a place that is still free


def test_a_limit_is_a_memory_of_the_first_places():
    learner, support = memory(5, temperature=5.0), one(7).support
    learner.limit = 2
    assert learner.attention(support).shape == (3,)
    fewer = memory(temperature=5.0)
    fewer.remember(tree_map(lambda leaf: leaf[:2], batch(5)))
    same(learner.adapt(support), fewer.adapt(support))


def test_past_tasks_are_recalled_for_themselves():
    learner = memory(5, temperature=0.05)
    for number, task in enumerate(unstack(batch(5))):
        places, shares = learner.retrieved(task.support, 2)
        assert places[0] == number and shares[0] > shares[1]
        recalled = learner.recall(places, task.query.x)
        state = maml().adapt(task.support)
        same(recalled[0], maml().predict(state, task.query.x))


def test_new_tasks_take_the_places_of_the_oldest():
    learner, plain = memory(), maml()

    def rows(tasks: Task[Examples]) -> list[Tensor]:
        states = [plain.adapt(task.support) for task in unstack(tasks)]
        return [torch.cat([leaf.flatten() for leaf in state.values()]) for state in states]

    many = rows(batch(15))
    parts = batch(15)
    for since, until in ((0, 4), (4, 8), (8, 15)):
        learner.remember(tree_map(lambda leaf, a=since, b=until: leaf[a:b], parts))
        kept = sorted(range(max(0, until - 6), until), key=lambda i: i % 6)
        same(learner.states[: len(kept)], torch.stack([many[i] for i in kept]))
    assert learner.count == 15


def test_a_task_at_which_adaptation_diverged_is_not_remembered():
    learner, tasks = memory(), batch(3)
    tasks.support.y[1] = 1e300
    learner.remember(tasks)
    assert learner.count == 2 and learner.states.isfinite().all()
    assert learner.adapt(one(7).support)["head.bias"].isfinite().all()


def test_all_tasks_at_once_are_one_after_the_other():
    learner, tasks = memory(5, temperature=2.0), batch(4, seed=3)
    each = torch.stack([learner.attention(task.support) for task in unstack(tasks)])
    same(over_tasks(learner.attention)(tasks.support), each)
    states = [learner.adapt(task.support) for task in unstack(tasks)]
    for execution in ("vmap", "loop"):
        found = over_tasks(learner.adapt, execution)(tasks.support)
        same(found, tree_map(lambda *leaves: torch.stack(leaves), *states))


def test_saved_and_loaded_it_remembers_the_same(tmp_path: Path):
    learner, task = memory(5), one(7)
    save(tmp_path / "learner", learner)
    net = MLP(1, 1, hidden=(8,))
    other = TaskMemory(MAML(net, lr=0.01, steps=3, criterion=squared_error), capacity=6)
    load(tmp_path / "learner", other)
    expected = learner.predict(learner.adapt(task.support), task.query.x)
    found = other.predict(other.adapt(task.support), task.query.x)
    assert torch.equal(found, expected) and other.count == 5


def test_meta_training_and_going_on_from_a_state_are_the_learners_own():
    learner, plain, task = memory(5), maml(), one(7)
    same(learner.loss(task), plain.loss(task))
    state = plain.adapt(task.support)
    same(learner.adapt(task.support, state), plain.adapt(task.support, state))


def test_a_memory_of_contexts():
    torch.manual_seed(1)
    net = ContextInput(MLP(1 + 2, 1, hidden=(8,)))
    cavia = CAVIA(net, context=2, lr=0.1, criterion=squared_error)
    learner, support = TaskMemory(cavia, capacity=3, temperature=TINY), one(7).support
    learner.remember(batch(3))
    contexts = [torch.zeros(2), *(cavia.adapt(t.support) for t in unstack(batch(3)))]
    best = min(contexts, key=lambda c: squared_error(net(support.x, c), support).item())
    same(learner.adapt(support), cavia.adapt(support, best))


def test_learners_without_a_start_are_refused():
    for learner in (PrototypicalNetwork(MLP(8, 8)), ProtoMAML(MLP(8, 8))):
        with pytest.raises(ValueError, match="a learner that descends"):
            TaskMemory(learner)
    blobs = Blobs().sample(2, torch.Generator())
    with pytest.raises(ValueError, match="Reptile has no initial_params"):
        TaskMemory(Reptile(MLP(8, 3))).remember(tree_map(torch.Tensor.double, blobs))
    for capacity, temperature in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ValueError, match="at least 1 place"):
            memory(capacity=capacity, temperature=temperature)


def test_the_report_says_which_past_tasks_were_retrieved():
    learner, test = memory(5), runs.Benchmark(TASKS, {"steps": 1}, meta_batch_size=3)
    html = draw_retrieval(learner, test)
    assert html.count("<picture>") == 3 and "task 3" in html and learner.training
    first = tree_map(lambda leaf: leaf[0], next(iter(batches(TASKS, 3, steps=1, seed=1))))
    places, shares = learner.retrieved(first.support)
    assert f"{shares[0]:.0%} of {places[0]}" in html
    share = learner.attention(first.support)[0]
    assert f"<td>{share:.0%}</td>" in html
    assert draw_retrieval(memory(), test) == "" and draw_retrieval(maml(), test) == ""


def test_what_a_place_was_learned_from_is_known_until_something_else_is_loaded(tmp_path: Path):
    learner, tasks = memory(), batch(8)
    tasks.support.y[1] = 1e300  # is not remembered
    learner.remember(tasks)
    expected = [7, 2, 3, 4, 5, 6]  # the seventh of what is left took the place of the first
    assert sorted(learner.supports) == list(range(6))
    for place, task in enumerate(expected):
        assert torch.equal(learner.supports[place].x, tasks.support.x[task])
        state = maml().adapt(learner.supports[place])
        same(learner.states[place], torch.cat([leaf.flatten() for leaf in state.values()]))
    save(tmp_path / "learner", learner)
    load(tmp_path / "learner", learner)
    assert not learner.supports and learner.count == 7


def test_the_report_shows_the_images_of_past_tasks():
    x = torch.rand(4, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4).repeat_interleave(3)
    data = Labelled(
        x.flatten(0, 1), y, ("a", "b", "c", "d"), torch.tensor([0, 0, 1, 1]), ("p", "q")
    )
    tasks = FewShot(data, 2, 1, 2, within_groups=True, ordered=True)
    torch.manual_seed(0)
    learner = TaskMemory(
        MAML(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), lr=0.1), capacity=4
    )
    learner.remember(tasks.sample(4, torch.Generator().manual_seed(0)))
    html = draw_retrieval(learner, runs.Benchmark(tasks, meta_batch_size=2))
    # 2 new tasks and 3 past ones for each, of 2 classes
    assert html.count("<figure>") == 2 * 4 and html.count("<img") == 2 * 4 * 2
    learner.supports.clear()
    assert (
        draw_retrieval(learner, runs.Benchmark(tasks, meta_batch_size=2)).count("<figure>") == 2
    )


def test_a_run_is_trained_without_the_memory_and_tested_with_it(tmp_path: Path):
    settings = {"steps": 2, "meta_batch_size": 2, "past": 8, "past_steps": 2}
    run = runs.start("multimodal_task_memory", settings, tmp_path)
    run.experiment.n_validation_tasks = 2
    for _ in runs.go(run):
        pass
    learner = runs.reopen(tmp_path).experiment.learner
    again = runs.reopen(tmp_path).experiment.learner
    assert isinstance(learner, TaskMemory) and isinstance(again, TaskMemory)
    assert learner.count == 8 and learner.steps == 1
    same(learner.states, again.states)
    assert run.experiment.learner.get_buffer("count") == 0
    measured = runs.finish(run, n_tasks=3)["measured"]
    assert list(measured) == [
        f"{steps}, {description}"
        for steps in ("1 step", "5 steps")
        for description in ("memory of 8 tasks", "memory of 64 tasks", "no memory")
    ]
