import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.datasets import folder, folder_splits


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders cat, dog and owl, of 3, 4 and 5 pictures that are all of one grey: 10 k + i."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "animals"
    for k, (name, number) in enumerate([("cat", 3), ("dog", 4), ("owl", 5)]):
        (path / name).mkdir(parents=True)
        for i in range(number):
            colour = (10 * k + i,) * 3
            Image.new("RGB", (30 + k, 20 + i), colour).save(path / name / f"{i}.png")
    (path / "cat" / ".DS_Store").write_bytes(b"hidden")
    (path / "notes.txt").write_text("not in a class")
    return path


def kept(path: Path) -> list[str]:
    return sorted(p.suffix for p in (path.parent / "cache").rglob("*") if p.is_file())


@pytest.fixture(params=["resident", "mapped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "mapped":
        monkeypatch.setattr(sys.modules["quickstudy.datasets.folder"], "RESIDENT", 0)
    return request.param


def test_a_folder_of_class_folders(pictures: Path, way: str):
    data = folder(pictures, size=(8, 12), channels=3)
    assert data.classes == ("cat", "dog", "owl")
    assert data.name == "animals"
    assert data.x.shape == (12, 3, 8, 12)
    assert data.y.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    grey = [0, 1, 2, 10, 11, 12, 13, 20, 21, 22, 23, 24]
    assert torch.equal(data.x, torch.tensor(grey)[:, None, None, None].expand_as(data.x))
    assert kept(pictures) == ([] if way == "resident" else [".json", ".npy"])
    assert folder(pictures, size=8, channels=1).x.shape == (12, 1, 8, 8)


@pytest.mark.usefixtures("way")
def test_files_that_are_no_pictures_are_named(pictures: Path):
    (pictures / "dog" / "bad.txt").write_text("no picture")
    whole = (pictures / "owl" / "2.png").read_bytes()
    (pictures / "owl" / "2.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):  # the second time it may have been seen before
        with pytest.raises(ValueError, match="pass skip_unreadable=True") as error:
            folder(pictures, size=8)
        assert str(pictures / "dog" / "bad.txt") in str(error.value)
        assert str(pictures / "owl" / "2.png") in str(error.value)
        assert "0.png" not in str(error.value)
    data = folder(pictures, size=8, skip_unreadable=True)
    assert data.x[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 13, 20, 21, 23, 24]
    assert data.y.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    (pictures / "dog" / "bad.txt").unlink()
    Image.new("L", (30, 30), 22).save(pictures / "owl" / "2.png")
    assert len(folder(pictures, size=8)) == 12


@pytest.mark.usefixtures("way")
def test_nothing_but_rubbish(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "file").write_text("rubbish")
    with pytest.raises(ValueError, match="No picture can be read"):
        folder(tmp_path / "x", skip_unreadable=True)


def test_a_large_folder_is_converted_once(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    module = sys.modules["quickstudy.datasets.folder"]
    monkeypatch.setattr(module, "RESIDENT", 0)
    first = folder(pictures, size=8)
    with monkeypatch.context() as patch:
        patch.setattr(module, "to_pixels", None)  # no picture is opened again
        again = folder(pictures, size=8)
    assert again.hash == first.hash
    again.x[0] = 99  # changes memory only
    assert folder(pictures, size=8).hash == first.hash
    Image.new("RGB", (30, 20), (200, 200, 200)).save(pictures / "cat" / "0.png")
    assert folder(pictures, size=8).x[0, 0, 0, 0] == 200


def test_a_damaged_conversion_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["quickstudy.datasets.folder"], "RESIDENT", 0)
    hashed = folder(pictures, size=8).hash
    (mapped,) = (pictures.parent / "cache").rglob("*.npy")
    mapped.write_bytes(mapped.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"\.npy is damaged .*delete it"):
        folder(pictures, size=8)
    mapped.unlink()
    assert folder(pictures, size=8).hash == hashed


def test_folders_that_are_no_data_set(pictures: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"0 class folder\(s\)"):
        folder(pictures / "cat")
    with pytest.raises(ValueError, match=r"1 class folder\(s\) and needs two"):
        folder(pictures.parent)
    (pictures / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*empty: add some, or remove it"):
        folder(pictures)
    with pytest.raises(ValueError, match="choose 1 for grey or 3"):
        folder(pictures.parent / "animals", channels=2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_split_folders(pictures: Path, tmp_path: Path, validation: str):
    for name in ("train", validation, "test"):
        for animal in ("cat", "dog") if name == "test" else ("owl", "dog"):
            shutil.copytree(pictures / animal, tmp_path / "all" / name / f"{name} {animal}")
    splits = folder_splits(tmp_path / "all", size=8)
    assert [len(part) for part in splits] == [9, 9, 7]
    assert [(p.name, p.split) for p in splits] == [("all", s) for s in splits._fields]
    with pytest.raises(ValueError, match="`folder_splits`"):
        folder(tmp_path / "all")


def test_pictures_of_every_kind_are_seen_as_they_look(tmp_path: Path):
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 4, 8))  # red on the left, nothing on the right
    turned = Image.new("L", (8, 8), 0)
    turned.paste(255, (0, 0, 8, 4))  # bright above, to be turned by 90 degrees to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (half, {}),
        "b.gif": (half.convert("P"), {}),
        "c.png": (Image.fromarray(np.full((8, 8), 32768, np.uint16)), {}),
        "d.png": (Image.new("1", (8, 8), 1), {}),
        "e.jpg": (turned, {"exif": exif, "quality": 100}),
        "f.bmp": (Image.new("RGB", (16, 8), (9, 9, 9)), {}),
    }
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file, (image, settings) in kinds.items():
            image.save(tmp_path / name / file, **settings)
    x = folder(tmp_path, size=8).x
    assert x[0, :, 0, 0].tolist() == [255, 0, 0]
    assert x[0, :, 0, 7].tolist() == [255, 255, 255]
    assert (x[2] == 128).all()
    assert (x[3] == 255).all()
    assert x[4, 0, 4, 0] < 50
    assert x[4, 0, 4, 7] > 200
    assert (x[5] == 9).all()
