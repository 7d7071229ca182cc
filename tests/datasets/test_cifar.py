import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from quickstudy.datasets import cifar10, cifar100
from tests.datasets.conftest import Server

MODULE = sys.modules["quickstudy.datasets.cifar"]
PICTURES = np.random.RandomState(0).randint(0, 256, (20, 3, 32, 32), np.uint8)


def records(*labels: list[int], start: int = 0) -> bytes:
    """Labels before each picture, as the authors describe it."""
    pictures = PICTURES[start:]
    return b"".join(
        bytes(label) + picture.tobytes()
        for *label, picture in zip(*labels, pictures, strict=False)
    )


def archive(folder: str, files: dict[str, bytes]) -> bytes:
    """A .tar.gz that also holds what would be written elsewhere if it were unpacked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo(f"{folder}/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        for name, data in {"../../evil": b"evil", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def small_cifar10() -> bytes:
    names = "\n".join(f"kind{c}" for c in range(10))
    batches = {  # in an order of their own
        f"data_batch_{i}.bin": records([i, 9 - i], start=2 * i) for i in (3, 1, 2, 5, 4)
    }
    files = {
        "test_batch.bin": records([7]),
        **batches,
        "batches.meta.txt": f"{names}\n\n".encode(),
    }
    return archive("cifar-10-batches-bin", files)


def small_cifar100() -> bytes:
    files = {
        "coarse_label_names.txt": b"beasts\nplants\n",
        "fine_label_names.txt": b"ant\nfern\nbear\n",
        "test.bin": records([0, 1], [0, 1], start=10),
        "train.bin": records([1, 0, 0, 1], [1, 2, 0, 1]),
    }
    return archive("cifar-100-binary", files)


def test_cifar10(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = small_cifar10()
    monkeypatch.setattr(MODULE, "CIFAR10", server.add("cifar-10-binary.tar.gz", content))
    server.cuts = [1000]
    for _ in range(2):
        train, test = cifar10(root=tmp_path)
        assert np.array_equal(train.x, PICTURES[2:12]) and train.x.dtype == torch.uint8
        assert train.y.tolist() == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
        assert np.array_equal(test.x, PICTURES[:1]) and test.y.tolist() == [7]
        assert train.classes == test.classes == tuple(f"kind{c}" for c in range(10))
        assert (train.split, test.split, test.name) == ("train", "test", "cifar10")
    assert server.starts == [0, 1000]
    names = {path.name for path in tmp_path.parent.rglob("*")}
    assert not names & {"evil", "link", "test_batch.bin"}  # nothing is unpacked


def test_cifar100_has_groups(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "CIFAR100", server.add("c.tar.gz", small_cifar100()))
    train, test = cifar100(root=tmp_path)
    assert np.array_equal(train.x, PICTURES[:4]) and train.y.tolist() == [1, 2, 0, 1]
    assert np.array_equal(test.x, PICTURES[10:12]) and test.y.tolist() == [0, 1]
    assert train.classes == ("ant", "fern", "bear")
    for part in (train, test):
        assert part.groups is not None
        assert [part.group_names[g] for g in part.groups] == ["beasts", "plants", "beasts"]


def test_an_archive_that_is_not_the_published_one(tmp_path: Path):
    for load, name in ((cifar10, "cifar-10"), (cifar100, "cifar-100")):
        path = tmp_path / load.__name__ / f"{name}-binary.tar.gz"
        path.parent.mkdir()
        path.write_bytes(small_cifar10())
        with pytest.raises(ValueError, match=r"gz is damaged .*delete it, and get it again"):
            load(root=tmp_path)


def test_without_files_it_says_where_to_get_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MODULE, "CIFAR100", server.add("c.tar.gz", b""))
    server.status = 404
    with pytest.raises(ConnectionError, match="by hand and put it at") as error:
        cifar100(root=tmp_path)
    assert str(tmp_path / "cifar100" / "c.tar.gz") in str(error.value)


def test_real_files_if_they_are_there(real_data: Path):
    for load, name in ((cifar10, "cifar-10"), (cifar100, "cifar-100")):
        if not (real_data / load.__name__ / f"{name}-binary.tar.gz").is_file():
            pytest.skip(f"no {name} in the folder of published data")
        train, test = load()
        assert (len(train), len(test)) == (50_000, 10_000)
