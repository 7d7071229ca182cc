"""A library of mappings against loops by hand, a memory of tasks, damaged files and kills."""

import errno
import os
import random
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call
from torch.nn import Flatten

from quickstudy import (
    CAVIA,
    MAML,
    Examples,
    Learner,
    MappingLibrary,
    PrototypicalNetwork,
    Sinusoid,
    Task,
    TaskMemory,
    accuracy,
    squared_error,
)
from quickstudy.core.tree import tree_map, unstack
from quickstudy.learners.gradient import ContextInput
from quickstudy.nets.backbones import MLP
from quickstudy.recall import mapping_library, retriever, store
from quickstudy.storage import CheckpointError
from quickstudy.storage.state_file import read as read_state
from quickstudy.tasks import Line, Mixture, Parabola
from quickstudy.testing.learners import Blobs

TASKS = Mixture(Sinusoid(), Line(), Parabola())
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")


@pytest.fixture(autouse=True)
def precise(double: None) -> None:
    """Everything in float64."""


def batch(count: int, seed: int = 0) -> Task[Examples]:
    """The first of some tasks, which are others for every seed."""
    drawn = TASKS.sample(12, torch.Generator().manual_seed(seed))
    return tree_map(lambda leaf: leaf[:count], drawn)


def tasks(count: int, seed: int = 0) -> list[Task[Examples]]:
    return unstack(batch(count, seed))


def maml(seed: int = 1) -> MAML:
    torch.manual_seed(seed)
    return MAML(MLP(1, 1, hidden=(8,)), lr=0.01, steps=3, criterion=squared_error)


def filled(folder: Path, count: int = 5, **options: Any) -> MappingLibrary:
    library = MappingLibrary(folder, maml(), **options)
    for number, task in enumerate(tasks(count)):
        library.add(f"task {number}", task.support)
    return library


def blobs(ways: int, seed: int = 0) -> Examples:
    made = Blobs(ways=ways).sample(1, torch.Generator().manual_seed(seed))
    return tree_map(lambda leaf: leaf[0].double(), made.support)


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".jsonl"
    }


def row(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([leaf.detach().flatten() for leaf in state.values()])


def by_hand(past: list[Examples], new: Examples, k: int, temperature: float) -> list[Any]:
    """Weights and states of the start and the nearest, by loops; no code of the library's."""
    plain = maml()
    zero = row(plain.initial_params())
    moved = row(plain.adapt(new)) - zero
    states = [plain.adapt(support) for support in past]
    cosines = [
        ((row(s) - zero) @ moved / ((row(s) - zero).norm() * moved.norm())).item()
        for s in states
    ]
    nearest = sorted(range(len(past)), key=lambda i: -cosines[i])[:k]
    chosen: list[tuple[str | None, Any]] = [(None, plain.initial_params())]
    chosen += [(f"task {i}", states[i]) for i in nearest]
    loss = [
        (functional_call(plain.net, state, (new.x,)) - new.y).square().sum(1).mean()
        for _, state in chosen
    ]
    powers = [torch.exp((min(loss) - one) / temperature) for one in loss]
    total = sum(powers, torch.zeros(()))
    return [
        (name, (power / total).item(), state)
        for (name, state), power in zip(chosen, powers, strict=True)
    ]


@pytest.mark.parametrize(("k", "temperature"), [(3, 5.0), (1, 0.5), (9, 50.0)])
def test_the_start_is_the_weighted_mean_of_the_nearest(
    tmp_path: Path, k: int, temperature: float
):
    library, new = filled(tmp_path, temperature=temperature), tasks(1, seed=7)[0].support
    parts = by_hand([task.support for task in tasks(5)], new, k, temperature)
    shares = {name: share for name, share, _ in parts}
    assert dict(library.attention(new, k)) == pytest.approx(shares, rel=1e-9)
    mean = {
        key: torch.stack([share * state[key].detach() for _, share, state in parts]).sum(0)
        for key in parts[0][2]
    }
    same(library.start(new, k), mean)


def test_with_all_mappings_it_starts_where_a_memory_of_tasks_does(tmp_path: Path):
    library, new = filled(tmp_path, temperature=2.0), tasks(1, seed=7)[0].support
    memory = TaskMemory(maml(), capacity=5, temperature=2.0)
    memory.remember(batch(5))
    memory.steps = 0
    same(library.start(new, k=5), memory.adapt(new))


def test_tasks_resemble_themselves_most(tmp_path: Path):
    library = filled(tmp_path)
    for number, task in enumerate(tasks(5)):
        found = library.resembling(task.support, k=9)
        assert found[0] == (f"task {number}", pytest.approx(1)) and len(found) == 5
        assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)


def test_an_empty_library_starts_from_the_learned_start(tmp_path: Path):
    library, new = MappingLibrary(tmp_path / "none", maml()), tasks(1)[0].support
    same(library.start(new), maml().initial_params())
    assert library.resembling(new) == [] and library.names() == [] and len(library) == 0
    assert not (tmp_path / "none").exists()  # reading writes nothing
    with pytest.raises(ValueError, match=r"None of the 0 mappings .* can be combined"):
        library.ensemble(new, new.x)


def test_it_survives_a_restart(tmp_path: Path):
    library, support = filled(tmp_path), tasks(9)[8].support
    added = library.add("cats / dogs", support, description="Zürich", classes=["cat", "dog"])
    again = MappingLibrary(tmp_path, maml())
    assert again.names() == list(again) == library.names() and len(again) == 6
    found = again["cats / dogs"]
    assert found.facts == {"description": "Zürich", "classes": ["cat", "dog"]}
    assert found.examples == 10 and found.version == 1 and found.sha256 == added.sha256
    state = maml().adapt(support)
    assert found.fit == {
        "squared_error": squared_error(maml().predict(state, support.x), support).item()
    }
    for key, leaf in state.items():
        assert torch.equal(found.state[key], leaf) and torch.equal(added.state[key], leaf)
    new = tasks(1, seed=7)[0].support
    assert again.attention(new) == library.attention(new)


def test_what_was_added_never_changes(tmp_path: Path):
    library = filled(tmp_path)
    before, (new, other) = contents(tmp_path), tasks(2, seed=7)
    state = library.learner.adapt(new.support, library.start(new.support))
    library.add("from the library", new.support, state=state)
    library.add("task 0", new.support)
    library.ensemble(other.support, other.query.x)
    library.fit_attention({"task 1": tasks(2)[1], "new": other})
    library.remove("from the library")
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"task 0@2.safetensors", "attention.json"}
    assert library.versions("task 0") == [1, 2]
    same(library.get("task 0", 1).state, maml().adapt(tasks(1)[0].support))
    same(library["task 0"].state, maml().adapt(new.support))


def test_versions_are_added_and_removed(tmp_path: Path):
    library = filled(tmp_path, 2)
    for task in tasks(3, seed=3):
        library.add("task 0", task.support)
    library.remove("task 0", 4)
    assert library.versions("task 0") == [1, 2, 3] and library["task 0"].version == 3
    assert MappingLibrary(tmp_path, maml()).versions("task 0") == [1, 2, 3]
    for call in (library.get, library.remove):
        with pytest.raises(ValueError, match=r"no version 9: .* 1, 2, 3"):
            call("task 0", 9)
        with pytest.raises(ValueError, match=r"no mapping 'task'.*Did you mean 'task [01]'\?"):
            call("task")
    library.remove("task 0")
    assert library.names() == ["task 1"] and "task 0" not in library
    assert [path.name for path in tmp_path.glob("*.safe*")] == ["task 1@1.safetensors"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=4))
def test_any_text_is_a_name(tmp_path_factory: pytest.TempPathFactory, names: list[str]):
    folder, support = tmp_path_factory.mktemp("library"), tasks(1)[0].support
    library = MappingLibrary(folder, maml())
    for name in names:
        if not name or len(mapping_library.quote(name, safe=" ")) > 200:
            with pytest.raises(ValueError, match="no name for a mapping"):
                library.add(name, support)
        else:
            library.add(name, support)
    again = MappingLibrary(folder, maml())
    assert again.names() == library.names()
    for name in again:
        assert again[name].name == name and again.versions(name) == library.versions(name)


def test_a_learner_that_compares_and_classes_that_differ(tmp_path: Path):
    learner = PrototypicalNetwork(Flatten())
    library = MappingLibrary(tmp_path, learner, temperature=3.0)
    for ways, seed in ((3, 0), (3, 1), (4, 2), (3, 3)):
        library.add(f"{ways} classes, {seed}", blobs(ways, seed))
    support, x = blobs(3, 5), blobs(3, 6).x
    assert len(library.resembling(support)) == 4
    mean = blobs(4, 2).x.flatten(1).mean(0)
    same(library["4 classes, 2"].embedding, mean)
    shares = dict(library.attention(support))
    assert set(shares) == {"3 classes, 0", "3 classes, 1", "3 classes, 3"}
    mixture = torch.zeros(len(x), 3)
    support_loss = {}
    for seed in (0, 1, 3):
        state = learner.adapt(blobs(3, seed))
        logits = learner.predict(state, support.x)
        support_loss[seed] = learner.criterion(logits, support).item()
        mixture += shares[f"3 classes, {seed}"] * learner.predict(state, x).softmax(-1)
    powers = torch.tensor(list(support_loss.values())).div(-3).softmax(0)
    assert list(powers) == pytest.approx([shares[f"3 classes, {s}"] for s in support_loss])
    same(library.ensemble(support, x), mixture.log())
    only = library.ensemble(support, x, among=["3 classes, 1", "4 classes, 2"])
    same(only, learner.predict(learner.adapt(blobs(3, 1)), x).log_softmax(-1))
    start = library.start(support)
    assert start.sums.shape == (3, 8)
    with pytest.raises(ValueError, match=r"None of the 4 .* another number of classes"):
        library.start(blobs(5))
    with pytest.raises(ValueError, match="no mapping 'x'"):
        library.start(support, among=["x"])
    assert library["4 classes, 2"].fit["accuracy"] == pytest.approx(
        accuracy(learner.predict(learner.adapt(blobs(4, 2)), blobs(4, 2).x), blobs(4, 2)).item()
    )


def test_values_are_averaged_and_a_state_may_be_a_tensor(tmp_path: Path):
    torch.manual_seed(1)
    net = ContextInput(MLP(3, 1, hidden=(8,)))
    cavia = CAVIA(net, context=2, lr=0.1, criterion=squared_error)
    library = MappingLibrary(tmp_path, cavia, temperature=2.0)
    past, new = [task.support for task in tasks(3)], tasks(1, seed=7)[0]
    for number, support in enumerate(past):
        library.add(str(number), support)
    contexts = [cavia.adapt(support) for support in past]
    assert torch.equal(library["1"].state, contexts[1])
    same(library["1"].embedding, contexts[1])
    loss = [squared_error(net(new.support.x, c), new.support) for c in contexts]
    shares = (-torch.stack(loss) / 2).softmax(0)
    mixture = sum(s * net(new.query.x, c) for s, c in zip(shares, contexts, strict=True))
    same(library.ensemble(new.support, new.query.x), mixture)


def test_the_attention_is_fitted_on_its_own_tasks_each_left_out(tmp_path: Path):
    library, pairs = filled(tmp_path), {f"task {i}": task for i, task in enumerate(tasks(5))}
    found = library.fit_attention(pairs, k=2)
    losses = {}
    for temperature in mapping_library.TEMPERATURES:
        library.temperature, total = temperature, 0.0
        for name, (support, query) in pairs.items():
            start = library.start(support, 2, among=set(library.names()) - {name})
            state = library.learner.adapt(support, start)
            total += squared_error(library.learner.predict(state, query.x), query).item()
        losses[temperature] = total
    assert found == min(losses, key=losses.__getitem__)
    assert MappingLibrary(tmp_path, maml()).temperature == found
    assert MappingLibrary(tmp_path, maml(), temperature=7.0).temperature == 7.0
    with pytest.raises(ValueError, match="no tasks"):
        library.fit_attention({})
    (tmp_path / "attention.json").write_text("{")
    with pytest.raises(CheckpointError, match="fit_attention` again"):
        MappingLibrary(tmp_path, maml())


def test_what_cannot_be_kept_or_combined_is_refused(tmp_path: Path):
    library, (task, other) = filled(tmp_path, 2), tasks(2, seed=7)
    before = contents(tmp_path)
    broken = task.support._replace(y=task.support.y * 1e300)
    with pytest.raises(ValueError, match="'x' is not finite: adaptation diverged"):
        library.add("x", broken)
    with pytest.raises(CheckpointError, match="fact `size` is no JSON"):
        library.add("x", task.support, size=torch.ones(2))
    with pytest.raises(ValueError, match="k=0: retrieve at least one"):
        library.start(task.support, k=0)
    with pytest.raises(ValueError, match="temperature=0"):
        MappingLibrary(tmp_path, maml(), temperature=0.0)
    with pytest.raises(CheckpointError, match=r"task 0@1.*another base: a MAML"):
        MappingLibrary(tmp_path, maml(seed=2))
    with pytest.raises(CheckpointError, match="embedded by task_embedding"):
        MappingLibrary(tmp_path, maml(), embed=lambda support: support.y)
    with torch.no_grad():
        library.learner.get_parameter("net.head.bias").add_(1)
    with pytest.raises(CheckpointError, match="parameters have changed"):
        library.add("x", task.support)
    assert contents(tmp_path) == before
    folder = tmp_path / "own"
    library = MappingLibrary(folder, maml(), embed=lambda support: support.y)
    library.add("ten numbers", task.support)
    assert library.resembling(other.support)[0][0] == "ten numbers"
    with pytest.raises(ValueError, match="makes 10 finite numbers"):
        library.add("nine", tree_map(lambda leaf: leaf[:9], task.support))


class Counting(Learner[Tensor]):
    """Knows only how many examples it has seen."""

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        return torch.tensor(len(support.x))

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return x[:, :3] * state


def test_states_that_have_no_mean_can_still_vote(tmp_path: Path):
    library = MappingLibrary(tmp_path, Counting(), embed=lambda support: support.x.mean(0))
    library.add("six", blobs(3))
    with pytest.raises(ValueError, match="Counting has neither a module `embed` nor initial"):
        MappingLibrary(tmp_path / "none", Counting()).add("six", blobs(3))
    with pytest.raises(ValueError, match=r"torch.int64, which have no mean: use `ensemble`"):
        library.start(blobs(3))
    assert library.ensemble(blobs(3), blobs(3).x).shape == (6, 3)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "rename", "fact"])
def test_a_damaged_file_is_named_and_the_others_are_of_use(tmp_path: Path, damage: str):
    library, new = filled(tmp_path), tasks(1)[0].support  # most like task 0
    path = tmp_path / "task 0@1.safetensors"
    data = path.read_bytes()
    if damage == "rename":
        path = path.rename(tmp_path / "task 0@2.safetensors")
    else:
        flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        fact = data.replace(b"examples", b"exemples")
        broken = {"cut": data[:-5], "flip": flipped, "empty": b"", "fact": fact}
        path.write_bytes(broken[damage])
    with pytest.warns(UserWarning, match="Left out: .*task 0@"):
        again = MappingLibrary(tmp_path, maml())
    assert list(again.damaged) == [path] and str(path) in again.damaged[path]
    assert again.names() == [f"task {i}" for i in range(1, 5)] and "task 0" in again
    with pytest.raises(CheckpointError, match="task 0@"):
        again["task 0"]
    parts = by_hand([task.support for task in tasks(5)[1:]], new, 4, 0.1)
    shares = [share for _, share, _ in parts]
    assert sorted(s for _, s in again.attention(new)) == pytest.approx(sorted(shares))
    if damage != "rename":  # then the open library does not find it
        with pytest.warns(UserWarning, match="Left out: .*task 0@"):
            found = library.attention(new)  # damaged since it was opened
        assert found == again.attention(new)
    again.add("task 0", new)
    assert "task 0" in again.names()


def test_a_full_disk_leaves_the_library_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library, before = filled(tmp_path, 2), contents(tmp_path)
    new = tasks(1, seed=7)[0]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = library.attention(new.support)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for name in ("new", "task 0"):
            with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
                library.add(name, new.support)
        with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
            library.fit_attention({"task 0": new})
    assert contents(tmp_path) == before and library.names() == ["task 0", "task 1"]
    assert library.attention(new.support) == expected
    library.add("new", new.support)
    assert len(library) == 3


def test_retrieval_reads_only_what_it_retrieves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library, reads = filled(tmp_path, 12), list[Path]()
    original = store.read

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        reads.append(path)
        return original(path, *args, **options)

    monkeypatch.setattr(store, "read", counted)
    library.start(tasks(1, seed=7)[0].support, k=3)
    assert len(reads) == 3
    library.resembling(tasks(1, seed=7)[0].support, k=3)
    assert len(reads) == 3


# The index file


def test_opening_reads_the_index_and_files_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads = list[str]()

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        reads.append(path.name)
        return read_state(path, *args, **options)

    monkeypatch.setattr(store, "read", counted)
    library, new = filled(tmp_path), tasks(1, seed=7)[0].support
    expected = library.resembling(new)
    changed = tmp_path / "task 2@1.safetensors"
    os.utime(changed, ns=(0, 0))  # as in a copy
    reads.clear()
    assert MappingLibrary(tmp_path, maml()).resembling(new) == expected
    assert reads == [changed.name]
    reads.clear()
    again = MappingLibrary(tmp_path, maml())
    assert again.resembling(new) == expected and not reads
    same(again.start(new), library.start(new))
    data = changed.read_bytes()
    changed.write_bytes(data[:-1])
    with pytest.warns(UserWarning, match="Left out"):
        assert list(MappingLibrary(tmp_path, maml()).damaged) == [changed]
    with pytest.raises(CheckpointError, match="another base"):
        MappingLibrary(tmp_path, maml(seed=2))
    with pytest.raises(CheckpointError, match="was embedded by"):
        MappingLibrary(tmp_path, maml(), embed=lambda support: support.y)


@pytest.mark.parametrize("damage", ["gone", "torn", "noise", "another version"])
def test_an_index_that_is_no_help_does_no_harm(tmp_path: Path, damage: str):
    library, new = filled(tmp_path), tasks(1, seed=7)[0].support
    index = tmp_path / "index.jsonl"
    data = index.read_bytes()
    index.write_bytes(
        {
            "gone": b"",
            "torn": data[:-9],
            "noise": b"\xff\n[]\n{}\n3" + data[::2],
            "another version": data.replace(b'"version": "', b'"version": "9'),
        }[damage]
    )
    for _ in range(2):
        again = MappingLibrary(tmp_path, maml())
        assert again.resembling(new) == library.resembling(new) and not again.damaged
    MappingLibrary(tmp_path, maml()).add("next", new)
    assert MappingLibrary(tmp_path, maml()).resembling(new, 1)[0][0] == "next"


def test_a_kill_between_mapping_and_index_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    library, support = filled(tmp_path), tasks(1, seed=7)[0].support
    with monkeypatch.context() as patch:
        patch.setattr(store, "append_records", die)
        with pytest.raises(KeyboardInterrupt):
            library.add("last", support)
    assert MappingLibrary(tmp_path, maml()).resembling(support, 1)[0][0] == "last"


def test_a_folder_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = filled(tmp_path).names()
    (tmp_path / "index.jsonl").unlink()
    (tmp_path / "index.jsonl").mkdir()  # as root may write anywhere
    assert MappingLibrary(tmp_path, maml()).names() == expected


def test_an_index_of_mappings_that_are_gone_is_written_anew(tmp_path: Path):
    library, support = filled(tmp_path), tasks(1, seed=7)[0].support
    for _ in range(60):
        library.add("now and then", support, state=library["task 0"].state)
        library.remove("now and then")
    index = tmp_path / "index.jsonl"
    assert len(index.read_bytes().split(b"\n")) > 60
    for _ in range(60):
        library.add("now and then", support, state=library["task 0"].state)
        library.remove("now and then")
    again = MappingLibrary(tmp_path, maml())
    assert len(index.read_bytes().split(b"\n")) == 1 + 5 and again.names() == library.names()


def test_adding_touches_as_many_files_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library, support = filled(tmp_path), tasks(1, seed=7)[0].support
    state = library["task 0"].state

    def unused(*args: Any) -> None:
        raise AssertionError("all mappings are gone through")

    library.add("first", support, state=state)
    monkeypatch.setattr(Path, "glob", unused)
    monkeypatch.setattr(retriever, "build_index", unused)
    monkeypatch.setattr(store.MappingStore, "names", unused)
    library.add("second", support, state=state)


# A process that is killed

PRELOAD = ["pytest", "hypothesis", __name__]


def add_many(folder: Path, progress: Connection, count: int) -> None:
    """Adds mappings for ever, and says so of each; killed before its `count`th touch of a file
    in the folder, once there are two."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    library, supports = MappingLibrary(folder, maml()), [task.support for task in tasks(4)]
    number, touched = len(library), 0

    def watch(event: str, args: Any) -> None:
        nonlocal touched
        if event in ("open", "os.rename", "os.remove", "os.listdir", "os.scandir", "os.mkdir"):
            touched += str(args[0]).startswith(str(folder)) and number >= 2
            if 0 < count == touched:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    while count == 0 or number < 3:
        library.add(f"task {number}", supports[number % 4])
        progress.send(number)
        number += 1


def killed(folder: Path, count: int, seconds: float | None = None) -> tuple[bool, int]:
    """Whether `add_many` was, and how many additions it had reported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=add_many, args=(folder, theirs, count))
    process.start()
    theirs.close()
    if seconds is not None:
        ours.poll(60)  # until it has begun
        time.sleep(seconds)
        process.kill()
    process.join()
    reported = 0
    try:
        while True:
            reported = ours.recv() + 1
    except EOFError:
        pass
    return process.exitcode == -signal.SIGKILL, reported


def check_all(folder: Path, reported: int) -> None:
    library, supports = MappingLibrary(folder, maml()), [task.support for task in tasks(4)]
    assert len(library) in (reported, reported + 1) and not library.damaged
    for number in range(len(library)):
        same(library[f"task {number}"].state, maml().adapt(supports[number % 4]))
    if len(library):
        library.add("after", supports[0])
    assert all(path.suffix in (".safetensors", ".jsonl") for path in folder.glob("*"))


@posix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_operation_it_has_all_that_was_added(tmp_path: Path, every: int):
    left = []
    for count in range(1, 50, every):
        folder = tmp_path / str(count)
        dead, reported = killed(folder, count)
        left.append(len(list(folder.glob("*.safetensors"))))
        check_all(folder, reported)
        if not dead:
            break
    assert len(left) * every >= 6 and left == sorted(left) and set(left) == {2, 3}


@posix
@pytest.mark.timeout(300)
def test_killed_at_random_again_and_again_it_only_grows(tmp_path: Path):
    dice, reported = random.Random(0), 0
    for _ in range(4):
        dead, since = killed(tmp_path / "it", 0, dice.uniform(0, 0.05))
        assert dead
        reported = max(reported, since)
        library = MappingLibrary(tmp_path / "it", maml())
        assert len(library) >= reported and not library.damaged
        reported = len(library)
    check_all(tmp_path / "it", reported)
    assert reported >= 4
