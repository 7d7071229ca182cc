import copy
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import safetensors.torch
import torch
from torch import Generator, Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.optim import Optimizer

from quickstudy import MAML, Examples, Task, TaskDistribution, batches, train
from quickstudy.core.functional import squared_error
from quickstudy.core.task import TaskBatch


class Waves(TaskDistribution):
    """Sines of random amplitude and phase: 5 points to learn from, 7 to be judged on."""

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        amplitude, phase = 3 * torch.rand(2, n_tasks, 1, 1, generator=generator)
        x = 10 * torch.rand(n_tasks, 12, 1, generator=generator) - 5
        y = amplitude * (x - phase).sin()
        weight = torch.ones(n_tasks, 12)
        parts = zip(*(leaf.split([5, 7], dim=1) for leaf in (x, y, weight)), strict=True)
        return Task(*(Examples(*part) for part in parts))


def maml(*, dropout: float = 0.0, first_order: bool = False, seed: int = 0) -> MAML:
    """Second-order MAML of a small net, the same whenever it is called."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
    net = nn.Sequential(*layers)
    return MAML(net, lr=0.05, steps=2, first_order=first_order, criterion=squared_error)


def run(learner: nn.Module, optimizer: Optimizer, **settings: Any) -> list[Tensor]:
    """The losses of five steps on four tasks each."""
    settings = {"steps": 5, "meta_batch_size": 4, "seed": 3} | settings
    return [step.loss for step in train(learner, Waves(), optimizer, **settings)]


def assert_equal(a: nn.Module, b: nn.Module, rtol: float = 0.0, atol: float = 0.0) -> None:
    """To the bit, unless a tolerance is given."""
    one, other = dict(a.named_parameters()), dict(b.named_parameters())
    torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_it_is_the_loop_that_one_would_write():
    learner, other = maml(), maml()
    optimizer = torch.optim.Adam(other.parameters(), 0.01)
    expected = []
    for batch in batches(Waves(), 4, steps=5, seed=3):
        losses = torch.stack([other.loss(Task(*map(Examples._make, t))) for t in each(batch)])
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        expected.append(losses.detach())

    losses = run(learner, torch.optim.Adam(learner.parameters(), 0.01))
    torch.testing.assert_close(losses, expected)
    assert_equal(learner, other, rtol=1e-5, atol=1e-6)


def each(batch: TaskBatch) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    for i in range(len(batch.query.x)):
        yield [leaf[i] for leaf in batch.support], [leaf[i] for leaf in batch.query]


def test_steps_count_from_one_and_their_losses_are_those_before_the_step():
    learner = maml()
    before = copy.deepcopy(learner)
    steps = train(
        learner, Waves(), torch.optim.SGD(learner.parameters(), 0.1), steps=3, meta_batch_size=4
    )
    first = next(steps)
    assert first.number == 1 and first.loss.shape == (4,) and not first.loss.requires_grad
    torch.testing.assert_close(first.loss, before(next(batches(Waves(), 4, steps=1))).detach())
    assert [step.number for step in steps] == [2, 3]


def test_meta_training_helps():
    learner = maml()
    losses = run(
        learner, torch.optim.Adam(learner.parameters(), 0.01), steps=300, meta_batch_size=16
    )
    assert torch.stack(losses[-30:]).mean() < 0.6 * torch.stack(losses[:30]).mean()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(dropout: float):
    whole, halves = maml(dropout=dropout), maml(dropout=dropout)
    expected = run(whole, torch.optim.Adam(whole.parameters(), 0.01))

    optimizer = torch.optim.Adam(halves.parameters(), 0.01)
    losses = run(halves, optimizer, steps=2)
    torch.rand(17)  # what else was drawn in between does not matter
    losses += run(halves, optimizer, start=2)
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert_equal(halves, whole)


def test_every_seed_rank_and_step_has_its_own_tasks_and_its_own_noise():
    seeds = []

    class Seen(Waves):
        def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
            seeds.append(generator.initial_seed())
            return super().sample(n_tasks, generator)

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, tasks: TaskBatch) -> Tensor:
            seeds.append(torch.initial_seed())
            return self.weight * torch.rand(4)

    learner = Noisy()
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    for seed, rank in (0, 0), (1, 0), (0, 1):
        list(
            train(learner, Seen(), optimizer, steps=5, meta_batch_size=4, seed=seed, rank=rank)
        )
    assert len(set(seeds)) == len(seeds) == 30


def test_clip_bounds_the_norm_of_the_meta_gradient():
    def norm(clip: float | None) -> tuple[float, Tensor]:
        learner = maml()
        start = nn.utils.parameters_to_vector(learner.parameters()).detach().clone()
        optimizer = torch.optim.SGD(learner.parameters(), 1.0)
        next(train(learner, Waves(), optimizer, steps=1, meta_batch_size=4, clip=clip))
        moved = nn.utils.parameters_to_vector(learner.parameters()).detach() - start
        return moved.norm().item(), moved / moved.norm()

    free, direction = norm(None)
    clipped, same = norm(free / 3)
    assert clipped == pytest.approx(free / 3, rel=1e-4)
    torch.testing.assert_close(same, direction, rtol=1e-4, atol=1e-5)
    assert norm(3 * free)[0] == pytest.approx(free)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_bfloat16_is_near_float32(execution: Literal["vmap", "loop"]):
    exact, rough = maml(), maml()
    rough.execution = exact.execution = execution
    seen: set[torch.dtype] = set()
    rough.net.register_forward_hook(lambda *args: seen.add(args[-1].dtype))
    losses = {}
    for learner, precision in (exact, None), (rough, torch.bfloat16):
        optimizer = torch.optim.SGD(learner.parameters(), 0.01)
        losses[precision] = torch.stack(run(learner, optimizer, precision=precision)).float()
    assert torch.bfloat16 in seen and (execution == "vmap" or len(seen) == 1)
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert not torch.equal(losses[None], losses[torch.bfloat16])
    torch.testing.assert_close(losses[None], losses[torch.bfloat16], rtol=0.1, atol=0.05)
    assert_equal(exact, rough, rtol=0.1, atol=0.02)


def test_the_users_own_scheduler():
    learner = maml()
    optimizer = torch.optim.SGD(learner.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.0)
    snapshots = []
    for _ in train(learner, Waves(), optimizer, steps=4, meta_batch_size=4):
        scheduler.step()
        snapshots.append(nn.utils.parameters_to_vector(learner.parameters()).detach().clone())
    assert not torch.equal(snapshots[0], snapshots[1])
    assert torch.equal(snapshots[1], snapshots[2])  # the rate is zero after two steps
    assert torch.equal(snapshots[2], snapshots[3])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_optimizer_that_asks_several_times_a_step(dropout: float):
    learner = maml(dropout=dropout)
    before = copy.deepcopy(learner)
    optimizer = torch.optim.LBFGS(
        learner.parameters(), max_iter=8, line_search_fn="strong_wolfe"
    )
    step = next(train(learner, Waves(), optimizer, steps=1, meta_batch_size=4))
    assert optimizer.state[next(learner.parameters())]["func_evals"] > 3

    # the same tasks and the same dropout at every call, so the line search can only descend
    def loss_of(module: nn.Module) -> Tensor:
        return next(
            train(module, Waves(), _Still(module.parameters()), steps=1, meta_batch_size=4)
        ).loss

    torch.testing.assert_close(step.loss, loss_of(before))
    assert loss_of(learner).mean() < 0.8 * step.loss.mean()


class _Still(torch.optim.SGD):
    """Asks for the loss and changes nothing."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore
        return closure()


def test_tasks_go_to_the_device_of_the_learner_or_to_the_one_given():
    devices = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, tasks: TaskBatch) -> Tensor:
            devices.extend(leaf.device.type for part in tasks for leaf in part)
            return self.weight * 1

    spy = Spy()
    optimizer = torch.optim.SGD(spy.parameters(), 0.1)
    list(train(spy, Waves(), optimizer, steps=1, meta_batch_size=4))
    assert devices == ["cpu"] * 6
    list(train(spy, Waves(), optimizer, steps=1, meta_batch_size=4, device="meta"))
    assert devices[6:] == ["meta"] * 6


def test_frozen_parameters_stay():
    learner = maml()
    learner.net.get_parameter("0.weight").requires_grad_(False)
    before = copy.deepcopy(learner)
    run(learner, torch.optim.Adam(learner.parameters(), 0.01), clip=1)
    after = dict(learner.named_parameters())
    same = {name for name, p in before.named_parameters() if torch.equal(p, after[name])}
    assert same == {"net.0.weight"}


# Several processes

PROCESSES, STEPS = 2, 3


def work(rank: int, folder: Path) -> None:
    """What one of the processes does."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # needs no name for this host
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    for first_order in False, True:
        learner = maml(first_order=first_order, seed=rank)  # DDP takes the first process's
        learner = nn.parallel.DistributedDataParallel(learner)
        optimizer = torch.optim.SGD(learner.parameters(), 0.05)
        losses = run(learner, optimizer, steps=STEPS, rank=rank)
        tensors = {name: p.detach() for name, p in learner.module.named_parameters()}
        tensors["losses"] = torch.stack(losses)
        safetensors.torch.save_file(tensors, folder / f"{first_order}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_processes_with_their_own_tasks_are_one_with_all_of_them(tmp_path: Path):
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)
    spawn(work, (tmp_path,), nprocs=PROCESSES)
    for first_order in False, True:
        learner = maml(first_order=first_order)
        optimizer = torch.optim.SGD(learner.parameters(), 0.05)
        streams = [batches(Waves(), 4, steps=STEPS, seed=3, rank=r) for r in range(PROCESSES)]
        expected = []
        for parts in zip(*streams, strict=True):
            losses = learner(joined(*parts))
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            expected.append(losses.detach())

        files = [tmp_path / f"{first_order}-{rank}.safetensors" for rank in range(PROCESSES)]
        results = [safetensors.torch.load_file(file) for file in files]
        losses = torch.cat([result.pop("losses") for result in results], dim=1)
        close(losses, torch.stack(expected))
        for result in results:
            close(result, {name: p.detach() for name, p in learner.named_parameters()})


def joined(*parts: TaskBatch) -> TaskBatch:
    """Batches of tasks as one."""
    supports, queries = zip(*parts, strict=True)
    return Task(*(Examples.cat(*p) for p in (supports, queries)))


def test_a_learner_is_trained_under_torch_compile_as_without():
    plain, compiled = maml(), maml()
    expected = run(plain, torch.optim.SGD(plain.parameters(), 0.05))
    wrapped = cast(nn.Module, torch.compile(compiled, backend="eager"))
    losses = run(wrapped, torch.optim.SGD(wrapped.parameters(), 0.05))
    torch.testing.assert_close(losses, expected)
    assert_equal(compiled, plain, rtol=1e-5, atol=1e-6)


def test_steps_of_no_tasks_are_refused():
    with pytest.raises(ValueError, match="at least one task"):
        next(batches(Waves(), 0, steps=1))
