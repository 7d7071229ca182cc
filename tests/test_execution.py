"""Ways to execute a learner are equal; plans measure them and leave the learner alone."""

import copy
import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    MAML,
    Examples,
    Learner,
    PrototypicalNetwork,
    Task,
    anil,
    evaluate,
    fomaml,
)
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.execution import ExecutionOption, Plan, diagnose, plan, planning
from quickstudy.execution import options as execution_options
from quickstudy.execution.batching import Execution, inference, over_tasks
from quickstudy.execution.errors import explain
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs

IMAGES = Blobs(shape=(1, 16, 16))


def batch(size: int = 5, dtype: torch.dtype = torch.float64) -> TaskBatch:
    tasks = Blobs().sample(size, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf.to(dtype), tasks)


def mlp() -> MLP:
    return MLP(8, 3, hidden=(16,))


LEARNERS: dict[str, Callable[[], Learner[Any]]] = {
    "maml": lambda: MAML(mlp(), lr=0.3, steps=3),
    "fomaml": lambda: fomaml(mlp(), lr=0.3, steps=3),
    "anil": lambda: anil(mlp(), lr=0.3, steps=3),
    "prototypical": lambda: PrototypicalNetwork(mlp()),
    "batch statistics": lambda: MAML(
        use_batch_statistics(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    ),
    "running statistics": lambda: PrototypicalNetwork(
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    ),
}


def outcome(learner: nn.Module, tasks: TaskBatch) -> list[Tensor]:
    """Losses, gradients, and buffers afterwards."""
    losses = learner(tasks)
    losses.sum().backward()
    slopes = [p.grad for p in learner.parameters() if p.grad is not None]
    return [losses.detach(), *slopes, *learner.buffers()]


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("name", LEARNERS)
def test_vmap_and_chunks_equal_the_loop(name: str, chunk: int | None):
    loop = LEARNERS[name]().double()
    together = copy.deepcopy(loop)
    loop.execution, together.execution, together.chunk = "loop", "vmap", chunk
    expected = outcome(loop, batch())
    assert len(expected) > 2 and expected[0].shape == (5,)
    torch.testing.assert_close(outcome(together, batch()), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_running_statistics_are_the_mean_of_what_tasks_make_of_a_copy(execution: Any):
    norm = nn.BatchNorm1d(8).double()
    learner = PrototypicalNetwork(norm)
    learner.execution = execution
    tasks = batch(3)
    made = []
    for task in zip(tasks.support.x, tasks.query.x, strict=True):
        copied = copy.deepcopy(norm)
        for x in task:
            copied(x)
        made.append(copied.running_mean)
    learner(tasks)
    torch.testing.assert_close(norm.running_mean, torch.stack(made).mean(0))
    assert norm.num_batches_tracked == 2
    norm.eval()
    kept = copy.deepcopy(norm.state_dict())
    learner.eval()(tasks)
    torch.testing.assert_close(norm.state_dict(), kept, rtol=0, atol=0)


def test_results_may_be_any_nest():
    def fn(task: Task[Examples], scale: Tensor) -> dict[str, Any]:
        return {"a": (task.support.x.sum() * scale,), "b": task.query}

    tasks, scales = batch(4), torch.arange(4.0)
    one, other = (over_tasks(fn, execution)(tasks, scales) for execution in ("loop", "vmap"))
    torch.testing.assert_close(leaves(one), leaves(other))
    torch.testing.assert_close(one["a"][0], tasks.support.x.sum((1, 2)) * scales)
    assert isinstance(other["b"], Examples)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="neither 'vmap' nor 'loop'"):
        over_tasks(lambda task: task, "quickly")  # pyright: ignore[reportArgumentType]


def test_explain_knows_memory_and_missing_derivatives():
    learner = PrototypicalNetwork(mlp())
    assert "learner.chunk" in str(explain(torch.OutOfMemoryError("CUDA"), learner))
    missing = RuntimeError("derivative for aten::_cdist_backward is not implemented")
    assert "a derivative of aten::_cdist_backward" in str(explain(missing, learner))
    assert explain(RuntimeError("something else"), learner) is None


def test_convolutions_are_evaluated_with_channels_last():
    torch.manual_seed(0)
    learner = PrototypicalNetwork(Conv4(channels=4, size=16))
    plain = [p.data_ptr() for p in learner.parameters()]
    with inference(learner) as (copy, execution, chunk):
        assert (execution, chunk) == ("loop", None)
        weight = dict(copy.named_parameters())["embed.body.4.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert (
            dict(copy.named_parameters())["embed.body.0.weight"].stride(1) == 1
        )  # it has one channel
    assert [p.data_ptr() for p in learner.parameters()] == plain
    learner.chunk = 2
    with inference(learner) as (copy, execution, chunk):
        assert (execution, chunk) == ("vmap", 2)
        assert dict(copy.named_parameters())["embed.body.4.weight"].is_contiguous()
    together = evaluate(learner, IMAGES, n_tasks=5, meta_batch_size=4).values["accuracy"]
    learner.chunk = None
    torch.testing.assert_close(
        evaluate(learner, IMAGES, n_tasks=5, meta_batch_size=4).values["accuracy"], together
    )
    plain_learner = PrototypicalNetwork(mlp())
    with inference(plain_learner) as settings:
        assert settings == (plain_learner, "vmap", None)


def test_weights_of_the_learner_stay_where_they_are():
    learner = PrototypicalNetwork(Conv4(channels=4, size=16))
    weight = learner.embed.get_parameter("body.4.weight")
    before = weight.data_ptr()
    with pytest.raises(KeyError), inference(learner) as (copy, *_):
        assert dict(copy.named_parameters())["embed.body.4.weight"].data_ptr() != before
        assert weight.data_ptr() == before
        raise KeyError
    assert weight.data_ptr() == before


def test_a_plan_measures_and_leaves_the_learner_alone():
    learner = LEARNERS["running statistics"]().double()
    learner.execution, learner.chunk = "loop", 3
    outcome(learner, batch())
    state = copy.deepcopy(learner.state_dict())
    grads = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
    random = torch.get_rng_state()
    tasks = batch(8)
    given = copy.deepcopy(tasks)

    found = plan(learner, tasks, chunks=(2, 4, 8, 100), repeats=2)

    assert (learner.execution, learner.chunk) == ("loop", 3)
    torch.testing.assert_close(learner.state_dict(), state, rtol=0, atol=0)
    after = [p.grad for p in learner.parameters() if p.grad is not None]
    torch.testing.assert_close(after, grads, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(leaves(tasks), leaves(given), rtol=0, atol=0)

    ways = [(way.execution, way.chunk) for way in found.options]
    assert ways == [("loop", None), ("vmap", None), ("vmap", 2), ("vmap", 4)]
    fastest = min(found.options, key=lambda way: way.seconds or math.inf)
    assert (found.execution, found.chunk) == (fastest.execution, fastest.chunk)
    assert all(way.note == "agrees with loop" for way in found.options[1:])
    assert found.apply(learner) is learner
    assert (learner.execution, learner.chunk) == (found.execution, found.chunk)
    assert str(fastest) in str(found).splitlines()[-1]


def test_a_plan_chooses_the_loop_where_vmap_is_slower():
    class Sleeps(PrototypicalNetwork):
        def loss(self, task: Task[Examples]) -> Tensor:
            time.sleep(0.02 if self.execution == "vmap" else 0.001)
            return super().loss(task)

    assert plan(Sleeps(mlp()).double(), batch(2)).execution == "loop"


class Differs(PrototypicalNetwork):
    """Its losses are right and its gradients are wrong, under vmap only."""

    def loss(self, task: Task[Examples]) -> Tensor:
        value = super().loss(task)
        return (
            value
            if self.execution == "loop"
            else value.detach() + (value - value.detach()) * 1.01
        )


def test_a_plan_refuses_a_way_that_differs():
    found = plan(Differs(mlp()).double(), batch(8))
    assert found.execution == "loop"
    assert found.options[1].seconds is None
    assert found.options[1].note == "not chosen: differs from loop"


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.unflatten(-1, (4, 2)))[0][:, -1]


def test_a_plan_says_why_a_way_is_impossible():
    found = plan(MAML(Recurrent(), steps=1).double(), batch(2))
    assert found.execution == "loop"
    assert found.options[1].note.startswith("impossible: GRU at net.rnn has no batching rule")
    assert "impossible: GRU" in str(found)


def test_a_plan_says_that_random_numbers_cannot_be_compared():
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    found = plan(PrototypicalNetwork(net).double(), batch(2))
    assert "random (dropout?)" in found.options[1].note
    assert found.options[1].seconds is not None


def test_a_plan_names_what_is_done_task_by_task():
    class Net(nn.Bilinear):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward(x, x)

    net = Net(8, 8, 3)
    found = plan(MAML(net, steps=1).double(), batch(2))
    note = found.options[1].note
    assert "aten::_trilinear" in note and note.endswith("done task by task; agrees with loop")


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


def test_no_way_at_all_is_an_error_with_the_remedy():
    net = nn.Sequential(nn.Linear(8, 3), nn.ReLU(inplace=True), Numpy())
    with pytest.raises(ValueError, match=r"Numpy at net\.2 takes a tensor out of PyTorch"):
        plan(MAML(net).double(), batch(2))


def test_a_plan_prints_what_was_measured():
    rows = (
        ExecutionOption("loop", None, False, 0.1),
        ExecutionOption("vmap", 8, False, 0.0125, "agrees with loop"),
        ExecutionOption("vmap", None, True, None, "impossible: no"),
    )
    assert str(Plan("vmap", 8, False, 32, rows)).splitlines() == [
        "                    seconds  tasks/s  x loop",
        "loop                 0.1000      320     1.0",
        "vmap, chunk 8        0.0125     2560     8.0  agrees with loop",
        "vmap, compiled                                impossible: no",
        "chosen: vmap, chunk 8",
    ]


def test_doctor_tells_what_bears_on_execution():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 8))
    net[3].weight = net[0].weight
    net[3].bias.requires_grad_(False)
    lines = diagnose(PrototypicalNetwork(net).double(), batch(4)).splitlines()
    assert lines[0].startswith("BatchNorm1d at embed.1: running statistics")
    assert lines[1].startswith("Dropout at embed.2: random")
    assert lines[2].startswith("embed.3.bias: frozen")
    assert lines[3].startswith("embed.0.weight = embed.3.weight: one tensor")
    assert lines[-1].startswith("chosen: ")

    text = diagnose(PrototypicalNetwork(Recurrent()).double(), batch(4))
    assert text.startswith("GRU at embed.rnn: no batching rule, loop only; use_cells(net)")
    assert text.endswith("chosen: loop")

    many = use_batch_statistics(Conv4(channels=2, size=16))
    tasks = IMAGES.sample(2, torch.Generator())
    assert "BatchNorm" not in diagnose(PrototypicalNetwork(many), tasks)
    lines = diagnose(MAML(Conv4(3, channels=2, size=16)), tasks).splitlines()
    assert "net.body.9 and 1 more: running statistics" in lines[0]
    vmap = next(line for line in lines if line.startswith("vmap"))
    assert "impossible: BatchNorm2d at net.body.1" in vmap
    assert lines[-1] == "chosen: loop"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.parametrize("name", LEARNERS)
def test_compiled_equals_eager(name: str):
    torch._dynamo.reset()
    eager = LEARNERS[name]().double()
    copied = copy.deepcopy(eager)
    compiled = torch.compile(copied, fullgraph=True)
    assert isinstance(compiled, nn.Module)
    for size in (3, 3):  # the second time from the cache
        torch.testing.assert_close(
            outcome(compiled, batch(size)), outcome(eager, batch(size)), rtol=1e-9, atol=1e-11
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_plan_can_compile():
    torch._dynamo.reset()
    learner = MAML(mlp(), steps=2)
    found = plan(learner, batch(8, torch.float32), compiled=True)
    assert found.options[-1].compiled and found.options[-1].seconds is not None
    assert (
        "compiled in" in found.options[-1].note and "agrees with loop" in found.options[-1].note
    )
    module = Plan("vmap", None, True, 8, found.options).apply(learner)
    torch.testing.assert_close(
        module(batch(8, torch.float32)), learner(batch(8, torch.float32))
    )


@pytest.mark.parametrize("execution", ["loop", "vmap"])
@pytest.mark.parametrize("name", LEARNERS)
def test_threads_change_no_result(name: str, execution: Any) -> None:
    alone = LEARNERS[name]().double()
    alone.execution = execution
    shared = copy.deepcopy(alone)
    shared.threads = 2
    for found, expected in zip(
        outcome(shared, batch(5)), outcome(alone, batch(5)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_threads_are_as_many_as_asked_for_and_leave_no_setting_behind() -> None:
    seen = set[int]()

    class Watched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.add(threading.get_ident())
            time.sleep(0.01)  # for the other thread to begin
            return super().forward(input)

    before = torch.get_num_threads()
    learner = PrototypicalNetwork(Watched(8, 8)).double()
    learner.execution, learner.threads = "loop", 2
    learner(batch(4)).sum().backward()
    assert len(seen) == 2 and torch.get_num_threads() == before


def test_threads_leave_the_settings_of_attention_as_they_were() -> None:
    class Attends(nn.TransformerEncoderLayer):
        def forward(self, src: Tensor, *args: Any, **named: Any) -> Tensor:
            flags.append((torch.backends.cuda.flash_sdp_enabled(), fast()))
            time.sleep(0.02 * (len(flags) % 3))  # so that threads end at different times
            flags.append((torch.backends.cuda.flash_sdp_enabled(), fast()))
            return super().forward(src, *args, **named)

    fast = torch.backends.mha.get_fastpath_enabled
    flags: list[tuple[bool, bool]] = []
    before = torch.backends.cuda.flash_sdp_enabled(), fast()
    layer = Attends(8, 2, 8, dropout=0.0, batch_first=True)
    learner = PrototypicalNetwork(nn.Sequential(nn.Unflatten(1, (1, 8)), layer, nn.Flatten()))
    learner.double()
    learner.execution, learner.threads, learner.chunk = "loop", 2, 1
    learner(batch(6)).sum().backward()
    assert set(flags) == {(False, False)}  # in every thread, all the time
    assert (torch.backends.cuda.flash_sdp_enabled(), fast()) == before


def test_an_error_in_a_thread_is_explained() -> None:
    learner = PrototypicalNetwork(Numpy()).double()
    learner.execution, learner.threads = "loop", 2
    learner.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="takes a tensor out of PyTorch"):
        learner(tree_map(lambda leaf: leaf.requires_grad_(), batch(4)))


def test_a_loop_of_convolutions_has_channels_last_and_gives_the_weights_back() -> None:
    layouts: list[bool] = []

    class Watched(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            layouts.append(input.stride(1) == 1 and self.weight.stride(1) == 1)
            return super().forward(input)

    learner = PrototypicalNetwork(
        nn.Sequential(Watched(1, 4, 3), Watched(4, 4, 3), nn.Flatten())
    )
    tasks = IMAGES.sample(2, torch.Generator())
    ways: tuple[tuple[Execution, bool], ...] = (("loop", True), ("vmap", False))
    for learner.execution, last in ways:
        learner(tasks).sum().backward()
        assert layouts and set(layouts) == {last}
        layouts.clear()
    assert all(p.is_contiguous() and isinstance(p, nn.Parameter) for p in learner.parameters())


def test_a_plan_tries_threads_but_not_where_they_draw_random_numbers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tried = plan(MAML(mlp()).double(), batch(4)).options
        random = plan(PrototypicalNetwork(nn.Dropout(0.5)).double(), batch(4)).options
    finally:
        torch.set_num_threads(before)
    threaded = next(way for way in tried if way.threads == 2)
    assert str(threaded) == "loop, 2 threads" and "agrees with loop" in threaded.note
    assert next(way for way in random if way.threads == 2).seconds is None


def test_a_plan_compiles_only_where_that_pays_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]  # seconds, of a clock that only these classes move

    class Sleeps(PrototypicalNetwork):
        pause = 0.01

        def loss(self, task: Task[Examples]) -> Tensor:
            now[0] += self.pause
            return super().loss(task)

    class Compiled(nn.Module):
        def __init__(self, learner: Sleeps):
            super().__init__()
            self.learner, self.compiling = learner, 0.3

        def forward(self, tasks: TaskBatch) -> Tensor:
            now[0] += self.compiling
            self.compiling, self.learner.pause = 0.0, 0.001
            return self.learner(tasks)

    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(execution_options, "compile_learner", Compiled)
    few, many = (
        plan(Sleeps(mlp()).double(), batch(2), compiled=True, chunks=(), steps=steps)
        for steps in (2, 10_000)
    )
    assert not few.compiled and many.compiled
    assert "pays back in" in few.options[-1].note
