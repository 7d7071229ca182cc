import copy
import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from quickstudy import MAML, train
from quickstudy.core.criteria import squared_error
from quickstudy.storage import checkpoints
from quickstudy.storage.checkpoint_series import Checkpoints
from quickstudy.storage.checkpoints import CheckpointError, load, read_facts, save
from tests.test_train import Waves, assert_equal, maml

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and limits of POSIX")


class Training(NamedTuple):
    learner: MAML
    optimizer: Optimizer
    scheduler: LRScheduler


def training(*, seed: int = 0) -> Training:
    """A training that has not begun: dropout, momentum, a rate that falls."""
    learner = maml(dropout=0.2, seed=seed)
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    return Training(learner, optimizer, lr_scheduler.MultiStepLR(optimizer, [2, 20], gamma=0.5))


def go_on(run: Training, start: int, steps: int) -> Iterator[int]:
    """Trains, and yields the number of steps done."""
    for step in train(
        run.learner, Waves(), run.optimizer, steps=steps, meta_batch_size=4, start=start
    ):
        run.scheduler.step()
        yield step.number


def trained(steps: int, *, seed: int = 0) -> Training:
    run = training(seed=seed)
    list(go_on(run, 0, steps))
    return run


def same(one: Training, other: Training) -> bool:
    """To the bit, in all that a checkpoint holds."""

    def everything(run: Training) -> Any:
        return [part.state_dict() for part in run]

    return equal(everything(one), everything(other))


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def files(folder: Path) -> set[str]:
    """The files of a folder, each without the part of its name that depends on its contents."""
    return {path.name.split("-")[0] for path in folder.iterdir()}


@contextmanager
def refused(message: str, *runs: Training) -> Iterator[None]:
    """The block raises CheckpointError with `says` in it, and changes nothing in `runs`."""
    before = copy.deepcopy(runs)
    with pytest.raises(CheckpointError, match=message):
        yield
    assert all(map(same, runs, before))


# What comes back


def test_a_training_comes_back_whole(tmp_path: Path):
    run, other = trained(3), training(seed=1)
    assert not same(run, other)
    save(tmp_path / "a/b", *run, step=3, note="é", parts=[1, None, {"lr": 0.1}])
    facts = load(tmp_path / "a/b", *other)
    assert facts == {"step": 3, "note": "é", "parts": [1, None, {"lr": 0.1}]}
    assert facts == read_facts(str(tmp_path / "a/b"))
    assert same(run, other)

    for each in run, other:
        list(go_on(each, 3, 6))
    assert same(run, other)


def test_the_learner_alone(tmp_path: Path):
    run, other = trained(2), training(seed=1)
    save(tmp_path, *run)
    load(tmp_path, other.learner)  # as for deployment
    assert_equal(other.learner, run.learner)
    assert not other.optimizer.state
    save(tmp_path, run.learner)
    assert files(tmp_path) == {"run.json", "learner"}
    with refused("has no optimizer: load it without", other):
        load(tmp_path, *other)
    with refused("has no scheduler", other):
        load(tmp_path, other.learner, scheduler=other.scheduler)


def optimizers() -> dict[str, Callable[[Any], Optimizer]]:
    def two_groups(params: Any) -> Optimizer:
        first, *rest = params
        groups = [{"params": [first], "lr": torch.tensor(0.1)}, {"params": rest}]
        return torch.optim.AdamW(groups, betas=(0.8, 0.9), foreach=False)

    return {
        "SGD": lambda params: torch.optim.SGD(params, 0.01, momentum=0.9),
        "Adam": lambda params: torch.optim.Adam(params, 0.01, amsgrad=True),
        "RMSprop": lambda params: torch.optim.RMSprop(params, 0.01, centered=True),
        "Adafactor": lambda params: torch.optim.Adafactor(params, 0.01),
        "LBFGS": lambda params: torch.optim.LBFGS(params, 0.1, max_iter=3),
        "two groups": two_groups,
    }


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_goes_on_as_if_nothing_had_been(tmp_path: Path, name: str):
    def steps(learner: MAML, optimizer: Optimizer, start: int, steps: int) -> None:
        list(train(learner, Waves(), optimizer, steps=steps, meta_batch_size=4, start=start))

    one, other = maml(), maml(seed=1)
    a, b = (optimizers()[name](learner.parameters()) for learner in (one, other))
    steps(one, a, 0, 3)
    save(tmp_path, one, a)
    load(tmp_path, other, b)
    assert equal(a.state_dict(), b.state_dict())
    steps(one, a, 3, 6)
    steps(other, b, 3, 6)
    assert_equal(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
        lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 6], gamma=0.1),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)]
        ),
    ],
)
def test_every_scheduler_goes_on_as_if_nothing_had_been(
    tmp_path: Path, make: Callable[[Optimizer], LRScheduler]
):
    learner = maml()
    one, other = (torch.optim.SGD(learner.parameters(), 0.1) for _ in range(2))
    a, b = make(one), make(other)

    def rates(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
        seen = []
        for _ in range(steps):
            optimizer.step()
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()
            seen.append(optimizer.param_groups[0]["lr"])
        return seen

    rates(one, a, 3)
    save(tmp_path, learner, one, a)
    load(tmp_path, learner, other, b)
    expected = rates(one, a, 6)
    assert rates(other, b, 6) == expected
    assert len(set(expected)) > 1


def test_dtypes_buffers_and_shapes_of_all_kinds(tmp_path: Path):
    class Odd(nn.Module):
        def __init__(self, fill: float):
            super().__init__()
            self.rough = nn.Parameter(torch.full((2, 3), fill, dtype=torch.bfloat16).T)
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("flags", torch.tensor([fill > 0, False]))
            self.register_buffer("scalar", torch.tensor(fill, dtype=torch.float64))
            self.register_buffer("none", torch.empty(0, 4))
            self.register_buffer("view", self.norm.weight.detach()[:1])  # shares memory
            self.register_buffer("passing", torch.tensor(fill), persistent=False)

    one, other = Odd(1.7), Odd(-1.0)
    one.norm(torch.randn(8, 2))
    save(tmp_path, one)
    load(tmp_path, other)
    assert equal(dict(one.state_dict()), dict(other.state_dict()))
    assert other.get_buffer("passing") == -1


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path):
    def make(tied: bool) -> nn.Module:
        net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
        if tied:
            net[1].weight = net[0].weight
        return MAML(net, criterion=squared_error)

    one, other = make(True), make(True)
    save(tmp_path, one)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 4 * 11_000
    load(tmp_path, other)
    assert_equal(one, other)
    assert other.get_parameter("net.0.weight") is other.get_parameter("net.1.weight")
    with pytest.raises(CheckpointError, match=r"net\.1\.weight \(net\.0\.weight there, fl"):
        load(tmp_path, make(False))


@pytest.fixture
def process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    place = f"file://{tmp_path}/meet"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_wrappers_make_no_difference(tmp_path: Path):
    def compiled(learner: MAML) -> nn.Module:
        return cast(nn.Module, torch.compile(learner, backend="eager"))

    def compiled_net(learner: MAML) -> nn.Module:
        learner.net = cast(nn.Module, torch.compile(learner.net, backend="eager"))
        return learner

    wrappers = (
        lambda learner: learner,
        DistributedDataParallel,
        compiled,
        lambda learner: compiled(cast(MAML, DistributedDataParallel(learner))),
        compiled_net,
    )
    for i, wrap_one in enumerate(wrappers):
        for wrap_other in wrappers:
            run, other = trained(1, seed=i), training(seed=9)
            save(tmp_path / str(i), wrap_one(run.learner), *run[1:])
            load(tmp_path / str(i), wrap_other(other.learner), *other[1:])
            one, two = run.learner.parameters(), other.learner.parameters()
            assert all(map(torch.equal, one, two))
            assert equal(run.optimizer.state_dict(), other.optimizer.state_dict())


@pytest.mark.usefixtures("process_group")
def test_a_sharded_learner_is_refused(tmp_path: Path):
    learner = maml()
    fully_shard(learner, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(CheckpointError, match="sharded over processes"):
        save(tmp_path / "x", learner)


# What cannot be saved


def test_only_tensors_and_json_can_be_saved(tmp_path: Path):
    run = trained(1)
    save(tmp_path, *run, step=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    with refused("The fact `loss` is no JSON", run):
        save(tmp_path, *run, loss=torch.tensor(1.0))

    class Warm:
        def __init__(self):
            self.curve = torch.nn.functional.relu

        def __call__(self, step: int) -> float:
            return 1.0

    scheduler = lr_scheduler.LambdaLR(run.optimizer, Warm())
    with pytest.raises(CheckpointError, match=r"`scheduler\.lr_lambdas\.0\.curve` is a func"):
        save(tmp_path, *run[:2], scheduler)

    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"a": 1}

    with pytest.raises(CheckpointError, match=r"`net\._extra_state` .* is a dict.*buffer"):
        save(tmp_path, MAML(Extra(1, 1)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# What does not fit


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(folder, *trained(2), step=2)
    return folder


def test_another_learner(saved: Path):
    run = training(seed=1)
    for net, message in (
        (
            nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2)),
            r"are net\.3\.weight \(float32 \[1, 8\] there, float32 \[2, 8\] here\), net\.3",
        ),
        (nn.Sequential(nn.Linear(1, 8)), r"it has in excess net\.3\.weight, net\.3\.bias\. "),
        (
            nn.Sequential(*run.learner.net.children(), *(nn.Linear(1, 1) for _ in range(3))),
            r"it lacks net\.4\.weight, net\.4\.bias, net\.5\.weight, net\.5\.bias and 2 more",
        ),
        (copy.deepcopy(run.learner.net).double(), r"float32 \[8, 1\] there, float64 \[8, 1\]"),
    ):
        other = run._replace(learner=MAML(net))
        with refused(message, other):
            load(saved, *other)


def test_another_optimizer_or_scheduler(saved: Path):
    run = training(seed=1)
    params = list(run.learner.parameters())
    for optimizer, message in (
        (torch.optim.SGD(params, 0.1), "of class Adam, not SGD"),
        (torch.optim.Adam(params[::-1]), "other parameters, or in another order"),
        (torch.optim.Adam(params[1:]), "other parameters"),
        (torch.optim.Adam([*params, nn.Parameter(torch.ones(3))]), "other parameters"),
    ):
        with refused(message, run._replace(optimizer=optimizer)):
            load(saved, run.learner, optimizer)
    scheduler = lr_scheduler.ExponentialLR(run.optimizer, 0.5)
    with refused("of class MultiStepLR, not ExponentialLR", run):
        load(saved, *run[:2], scheduler)


# What is damaged


def damaged(saved: Path, folder: Path) -> tuple[Path, Path, Path]:
    shutil.copytree(saved, folder)
    learner, optimizer = sorted(folder.glob("*.safetensors"))
    return learner, optimizer, folder / "run.json"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_flipped_bit_a_lost_half_and_a_missing_file(saved: Path, tmp_path: Path, which: int):
    run = training(seed=1)
    path = damaged(saved, tmp_path / "x")[which]
    data = path.read_bytes()
    middle = len(data) // 2 if which < 2 else data.index(b'"step"') + 1

    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with refused(f"{path.name} is damaged: its sha256 is another. Copy it again", run):
        load(path.parent, *run)
    path.write_bytes(data[:middle])
    message = f"it has {middle} bytes, not {len(data)}" if which < 2 else "it is no JSON"
    with refused(f"{path.name} is damaged: {message}", run):
        load(path.parent, *run)
    path.unlink()
    message = f"{path.name} is missing" if which < 2 else "There is no checkpoint in"
    with refused(message, run):
        load(path.parent, *run)
    if which == 1:  # is needed only for the optimizer
        load(path.parent, run.learner)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_goes_unseen(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    whole, run = trained(2), training(seed=1)
    copies = damaged(saved, tmp_path_factory.mktemp("x") / "y")
    path = data.draw(st.sampled_from(copies))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    byte = data.draw(st.integers(1, 255))
    middle = {"flip": bytes([good[at] ^ byte]) + good[at + 1 :], "cut": b""}
    path.write_bytes(good[:at] + middle.get(kind, bytes([byte]) + good[at:]))
    before = copy.deepcopy(run)
    try:
        facts = load(path.parent, *run)
    except CheckpointError:
        assert same(run, before)
    else:  # white space in run.json
        assert path.name == "run.json" and facts == {"step": 2} and same(run, whole)


def test_other_formats_and_other_files(saved: Path, tmp_path: Path):
    run = training()
    path = damaged(saved, tmp_path / "x")[2]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 7, "versions": {"quickstudy": "9.1"}}))
    message = (
        rf"has format 7, .* reads format {checkpoints.FORMAT}: use the version .* \(9\.1\)"
    )
    with refused(message, run):
        load(path.parent, *run)
    for other in "[]", '{"loss": 1}':
        path.write_text(other)
        with refused("is not of a checkpoint", run):
            load(path.parent, *run)
    with refused("There is no checkpoint in .*nowhere", run):
        load(tmp_path / "nowhere", *run)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_facts(tmp_path)


def test_what_is_read_is_never_unpickled(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def explode(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for name in "load", "loads", "Unpickler":
        monkeypatch.setattr(f"pickle.{name}", explode)
    run = training()
    load(saved, *run)
    save(tmp_path, *run)


# A disk that refuses


@pytest.mark.parametrize(
    ("function", "count"),
    [("fsync", k) for k in (1, 3, 5)] + [("replace", k) for k in (1, 2, 3)],
)
@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "No space left on device.: free some space"),
        (errno.EIO, "choose another folder"),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    count: int,
    code: int,
    remedy: str,
):
    old, new, other = trained(1), trained(2), training()
    save(tmp_path, *old, step=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    works = getattr(os, function)
    calls = []

    def fails(*args: Any) -> None:
        calls.append(args)
        if len(calls) == count:
            raise OSError(code, os.strerror(code))
        works(*args)

    monkeypatch.setattr(os, function, fails)
    with refused(f"Cannot write the checkpoint .*{remedy}", new):
        save(tmp_path, *new, step=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load(tmp_path, *other) == {"step": 1} and same(other, old)

    save(tmp_path, *new, step=2)
    assert load(tmp_path, *other) == {"step": 2} and same(other, new)


@posix
def test_a_file_cut_short_by_the_system(tmp_path: Path):
    import resource

    run = trained(1)
    save(tmp_path, *run)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with refused("free some space", run):
            save(tmp_path, *run, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = trained(1)
    save(tmp_path / "a", *run)
    works = io.open

    def read_only(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return works(file, mode, *args, **options)

    monkeypatch.setattr("builtins.open", read_only)
    with refused("Read-only file system.: choose a folder that you may write to", run):
        save(tmp_path / "a", *run)
    load(tmp_path / "a", *run)
    monkeypatch.undo()
    with refused("choose another folder", run):
        save(tmp_path / "a/run.json", *run)


# A process that is killed

PRELOAD = ["pytest", "hypothesis", "torch._dynamo", "torch.distributed.fsdp", __name__]


def die(folder: Path, count: int) -> None:
    """Saves `trained(2)`, and is killed just before its `count`th touch of a file."""
    torch.set_num_threads(1)
    run, touched = trained(2), 0
    several = folder.name.startswith("step")
    place = str(folder.parent if several else folder)

    def watch(event: str, args: Any) -> None:
        nonlocal touched
        if event in ("open", "os.rename", "os.remove", "os.listdir", "os.scandir", "os.mkdir"):
            path = str(args[0])  # relative, or a number, to a folder that is already open
            touched += path.startswith(place) or not os.path.isabs(path)
            if touched == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if several:
        Checkpoints(folder.parent, keep=1).save(2, *run)
    else:
        save(folder, *run, step=2)


def killed(folder: Path, count: int) -> bool:
    """Whether `die` was, before it had done."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=die, args=(folder, count))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@posix
@pytest.mark.timeout(300)
def test_a_save_killed_at_any_operation_leaves_the_old_or_the_new(tmp_path: Path):
    old, new, other = trained(1), trained(2), training()
    left = []
    for count in itertools.count(1):
        folder = tmp_path / str(count)
        save(folder, *old, step=1)
        if not killed(folder, count):
            break
        left.append(load(folder, *other)["step"])
        assert same(other, {1: old, 2: new}[left[-1]])
        save(folder, *new, step=3)
        assert files(folder) == {"run.json", "learner", "optimizer"}
        assert len(list(folder.iterdir())) == 3
    assert left == sorted(left)
    assert left.count(1) >= 5 and left.count(2) >= 3


@posix
@pytest.mark.timeout(300)
def test_a_killed_deletion_leaves_nothing_that_passes_for_a_checkpoint(tmp_path: Path):
    new, other = trained(2), training()
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    count, alive = 0, False
    while not alive:
        count += 1
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        alive = not killed(checkpoints.save(1, *trained(1)), count)
        for run in checkpoints.folder.glob("*/run.json"):
            assert load(run.parent, *other)["step"] in (1, 2)
        checkpoints.save(3, *new)
        assert kept(checkpoints) == [3]
    assert count > 20


STEPS = 60


def work(folder: Path) -> None:
    """Trains with a checkpoint at every step, from the last one that there is."""
    torch.set_num_threads(1)
    run, checkpoints = training(), Checkpoints(folder)
    latest = checkpoints.latest()
    start = 0 if latest is None else load(latest, *run)["step"]
    for step in go_on(run, start, STEPS):
        checkpoints.save(step, *run, score=-abs(step - 7))


@posix
@pytest.mark.timeout(300)
def test_a_training_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path):
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    checkpoints = Checkpoints(tmp_path)
    dice = random.Random(0)

    def done() -> int:
        latest = checkpoints.latest()
        return 0 if latest is None else read_facts(latest)["step"]

    kills = 0
    while True:
        process = context.Process(target=work, args=(tmp_path,))
        process.start()
        until = done() + dice.randint(1, 9)
        while process.is_alive() and done() < until:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 4

    whole, other = trained(STEPS), training(seed=1)
    latest, best = checkpoints.latest(), checkpoints.best()
    assert latest is not None and best is not None
    assert load(latest, *other)["step"] == STEPS
    assert same(whole, other)
    assert load(best, *other)["step"] == 7
    assert same(trained(7), other)
    # A kill between the last checkpoint and its tidying leaves one too many; the next tidies
    assert set(kept(checkpoints)) - {STEPS - 2} == {7, STEPS - 1, STEPS}
    checkpoints.save(STEPS + 1, *whole, score=-STEPS)
    assert kept(checkpoints) == [7, STEPS, STEPS + 1]


# Many checkpoints


def kept(checkpoints: Checkpoints) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in checkpoints.folder.iterdir())


def number(path: Path | None) -> int | None:
    return None if path is None else read_facts(path)["step"]


def test_the_last_and_the_best_are_kept(tmp_path: Path):
    learner = maml()
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    assert checkpoints.latest() is None and checkpoints.best() is None
    scores = [None, 0.3, float("nan"), 0.9, 0.5, 0.9, 0.1, None]
    best = [None, 20, 20, 40, 40, 40, 40, 40]
    for step, score, expected in zip(range(10, 90, 10), scores, best, strict=True):
        path = checkpoints.save(step, learner, score=score, lr=0.1)
        assert checkpoints.latest() == path == tmp_path / f"run/step-{step:08d}"
        assert number(path) == step and number(checkpoints.best()) == expected
    assert kept(checkpoints) == [40, 70, 80]
    assert read_facts(tmp_path / "run/step-00000040") == {"step": 40, "score": 0.9, "lr": 0.1}


def test_the_same_step_again_replaces_it(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for score in 0.1, 0.2:
        path = checkpoints.save(5, maml(), score=score)
    assert kept(checkpoints) == [5] and read_facts(path)["score"] == 0.2


def test_a_save_cut_short_does_not_count_and_is_cleared_away(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = checkpoints.save(5, maml())
    save(tmp_path / "step-00000007", maml())
    (tmp_path / "step-00000007/run.json").unlink()
    assert checkpoints.latest() == first
    (tmp_path / "step-sizes").mkdir()  # none of ours
    checkpoints.save(6, maml())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000006", "step-sizes"]


def test_a_damaged_checkpoint_is_not_passed_over_in_silence(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, maml(), score=1.0)
    last = checkpoints.save(6, maml(), score=2.0)
    (last / "run.json").write_text("{")
    assert checkpoints.latest() == last
    assert number(checkpoints.best()) == 5
    with pytest.raises(CheckpointError, match="damaged"):
        load(last, maml())


def test_two_runs_do_not_mix(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(50, maml())
    with pytest.raises(CheckpointError, match="later checkpoint, step-00000050: resume"):
        checkpoints.save(10, maml())
    assert kept(checkpoints) == [50]
    with pytest.raises(ValueError, match="give 1 or more"):
        Checkpoints(tmp_path, keep=0)
