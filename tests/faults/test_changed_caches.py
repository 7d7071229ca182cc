"""A cache or a data file that was changed is made again, or refused: labels included."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy import datasets, runs
from quickstudy.datasets.files import arrays_sha256


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


GLYPHS = sys.modules["quickstudy.datasets.glyphs"]


@pytest.fixture
def drawn(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache of glyphs; they are few, and drawn in no time."""
    letters = np.array([chr(c) for start in (65, 913, 1329) for c in range(start, start + 4)])
    images = (
        np.arange(12 * 20, dtype=np.uint8).reshape(12, 20, 1, 1).repeat(28, 2).repeat(28, 3)
    )
    monkeypatch.setattr(GLYPHS, "_draw", lambda: {"images": images, "letters": letters})
    GLYPHS._glyphs.cache_clear()
    datasets.glyphs()
    (file,) = cache.rglob("*.npz")
    yield file
    GLYPHS._glyphs.cache_clear()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("part", ["letters", "images"])
def test_changed_glyphs_are_drawn_again(drawn: Path, part: str, keep: bool):
    expected = datasets.glyphs()
    data = dict(np.load(drawn))
    data[part] = data[part][::-1]
    if not keep:
        del data["sha256"]
    np.savez(drawn, **data)
    GLYPHS._glyphs.cache_clear()
    for part_now, part_then in zip(datasets.glyphs(), expected, strict=True):
        assert part_now.classes == part_then.classes and torch.equal(part_now.x, part_then.x)
    with np.load(drawn) as now:  # and the cache is right again
        kept = {name: now[name] for name in ("images", "letters")}
        assert str(now["sha256"]) == arrays_sha256(kept)


def test_unchanged_glyphs_are_not_drawn_again(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    expected = datasets.glyphs()
    monkeypatch.setattr(GLYPHS, "_draw", lambda: pytest.fail("they were there"))
    GLYPHS._glyphs.cache_clear()
    assert torch.equal(datasets.glyphs().test.x, expected.test.x)


@pytest.mark.parametrize("change", ["alphabet", "character", "split", "order"])
def test_changed_labels_of_omniglot_are_refused(real_data: Path, tmp_path: Path, change: str):
    data = dict(np.load(real_data / "omniglot" / "omniglot_28.npz"))
    if change == "order":
        order = np.random.default_rng(0).permutation(1623)
        data |= {name: data[name][order] for name in ("alphabet", "character", "split")}
    else:
        data[change] = np.roll(data[change], 30)
    (tmp_path / "omniglot").mkdir()
    np.savez(tmp_path / "omniglot" / "omniglot_28.npz", **data)
    with pytest.raises(ValueError, match=r"omniglot_28\.npz is damaged .*labels"):
        datasets.omniglot(root=tmp_path)


def test_changed_answers_of_the_runs_are_refused(real_data: Path, tmp_path: Path):
    (tmp_path / "omniglot").mkdir()
    target = tmp_path / "omniglot" / "all_runs.zip"
    official = real_data / "omniglot" / "all_runs.zip"
    with zipfile.ZipFile(official) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("run03/class_labels.txt"):
                data = data.replace(b"class01", b"class02")
            new.writestr(info, data)
    with pytest.raises(ValueError, match=r"all_runs\.zip is damaged .*labels"):
        datasets.omniglot_runs(root=tmp_path)


@pytest.fixture
def pictures(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys.modules["quickstudy.datasets.folder"], "RESIDENT", 0)
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("L", (8, 8), 10 * k + i)
            image.save(tmp_path / "animals" / name / f"{i}.png")
    return tmp_path / "animals"


@pytest.mark.parametrize("at", [0, 100, -1])  # from the end of the header
def test_a_changed_cache_of_a_folder_is_refused(pictures: Path, cache: Path, at: int):
    datasets.folder(pictures, size=8)
    datasets.folder(pictures, size=8)  # it is read again
    (mapped,) = cache.rglob("*.npy")
    data = bytearray(mapped.read_bytes())
    data[128 + at if at >= 0 else at] ^= 1
    mapped.write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged .*sha256"):
        datasets.folder(pictures, size=8)


def test_a_changed_record_of_a_folder_is_refused(pictures: Path, cache: Path):
    datasets.folder(pictures, size=8)
    (record,) = cache.rglob("*.json")
    record.write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        datasets.folder(pictures, size=8)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"recipe": 1}'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        runs.result(tmp_path)
