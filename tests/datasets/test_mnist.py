import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quickstudy.datasets import TrainTest, fashion_mnist, mnist
from quickstudy.datasets.mnist import FASHION_MNIST, MNIST
from tests.datasets.conftest import Server

MODULE = sys.modules["quickstudy.datasets.mnist"]
RANDOM = np.random.RandomState(0)
PICTURES = [RANDOM.randint(0, 256, (n, 28, 28), np.uint8) for n in (12, 5)]
LABELS = [np.array(y, np.uint8) for y in ([*range(10), 9, 0], [3, 1, 4, 1, 5])]


def idx(array: np.ndarray) -> bytes:
    """A gzipped IDX file, as its authors describe it."""
    sizes = np.array(array.shape, ">i4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


CONTENTS = [idx(a) for pair in zip(PICTURES, LABELS, strict=True) for a in pair]


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has a small MNIST, and as Fashion-MNIST its negative."""
    remotes = zip(MNIST, CONTENTS, strict=True)
    monkeypatch.setattr(MODULE, "MNIST", tuple(server.add(r.name, c) for r, c in remotes))
    return server


def check(parts: TrainTest, name: str) -> None:
    for part, x, y in zip(parts, PICTURES, LABELS, strict=True):
        assert part.x.dtype == torch.uint8 and np.array_equal(part.x[:, 0], x)
        assert np.array_equal(part.y, y)
        assert part.name == name and len(part.classes) == 10
    assert [part.split for part in parts] == ["train", "test"]


def test_it_is_downloaded_once(small: Server, tmp_path: Path):
    small.cuts = [100]  # the first file breaks off and goes on
    check(mnist(root=tmp_path), "mnist")
    check(mnist(root=tmp_path), "mnist")
    assert small.starts == [0, 100, 0, 0, 0]
    assert {r.name for r in MNIST} <= {p.name for p in (tmp_path / "mnist").iterdir()}


@pytest.mark.usefixtures("small")
def test_the_data_folder_comes_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(MODULE, "FASHION_MNIST", MODULE.MNIST)
    folder = tmp_path / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    for remote, content in zip(FASHION_MNIST[:3], CONTENTS, strict=False):
        (folder / remote.name).write_bytes(content)
    clothes = fashion_mnist()
    check(clothes, "fashion_mnist")
    assert clothes.train.classes[9] == "Ankle boot"
    cached = tmp_path / "cache" / "quickstudy" / "fashion_mnist"
    assert [p.name for p in cached.glob("*.gz")] == [FASHION_MNIST[3].name]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", [lambda old: old[:-9], lambda old: old[:-9] + bytes(9)])
def test_a_file_that_was_truncated_or_changed(change: Callable[[bytes], bytes], tmp_path: Path):
    mnist(root=tmp_path)
    path = tmp_path / "mnist" / MNIST[2].name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"t10k-images.*gz is damaged .*delete it, and get it"):
        mnist(root=tmp_path)


def test_what_is_not_the_published_file_is_refused(small: Server, tmp_path: Path):
    small.add(MNIST[1].name, b"", served=b"<html>Moved</html>")
    with pytest.raises(ValueError, match=r"train-labels.* is not the file that was published"):
        mnist(root=tmp_path)
    assert not (tmp_path / "mnist" / MNIST[1].name).exists()


def test_without_files_it_says_where_to_get_them(small: Server, tmp_path: Path):
    small.status = 404
    with pytest.raises(ConnectionError, match="by hand and put it at") as error:
        mnist(root=tmp_path)
    assert MODULE.MNIST[0].url in str(error.value)
    assert str(tmp_path / "mnist" / MNIST[0].name) in str(error.value)


def test_real_files_if_they_are_there(real_data: Path):
    for load in (mnist, fashion_mnist):
        if not (real_data / load.__name__ / MNIST[0].name).is_file():
            pytest.skip(f"no {load.__name__} in the folder of published data")
        train, test = load()
        assert (len(train), len(test)) == (60_000, 10_000)
