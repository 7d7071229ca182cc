import io
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import KDTree

from quickstudy.datasets import merge, omniglot, omniglot_runs
from quickstudy.datasets.omniglot import BACKGROUND, EVALUATION, Convention


@pytest.mark.parametrize(
    ("convention", "sizes"),
    [
        ("vinyals", (1028, 172, 423)),
        ("lake", (813, 151, 659)),
        ("characters", (1100, 100, 423)),
    ],
)
def test_conventions(real_data: Path, convention: Convention, sizes: tuple[int, int, int]):
    splits = omniglot(convention=convention)
    assert tuple(len(part.classes) for part in splits) == sizes
    assert len({name for part in splits for name in part.classes}) == 1623
    for part, name in zip(splits, ("train", "validation", "test"), strict=True):
        assert part.x.shape == (20 * len(part.classes), 1, 28, 28)
        assert part.x.dtype == torch.uint8
        assert (part.y.bincount() == 20).all()
        assert part.split == f"{convention} {name}"
        assert part.groups is not None
        alphabets = [part.group_names[g] for g in part.groups]
        assert all(c.startswith(f"{a}/") for c, a in zip(part.classes, alphabets, strict=True))


def test_vinyals_lists_are_the_published_ones(real_data: Path):
    lists = np.load(real_data / "omniglot" / "vinyals_split.npz")
    images = np.load(real_data / "omniglot" / "omniglot_28.npz")["images"]
    for part, name in zip(omniglot(), ("train", "val", "test"), strict=True):
        assert np.array_equal(part.x.view(-1, 20, 28, 28), images[lists[name]])


def test_lake_splits_by_alphabet(real_data: Path):
    train, validation, test = omniglot(convention="lake")
    assert [len(part.group_names) for part in (train, validation, test)] == [25, 5, 20]
    background = merge(train, validation)
    assert len(background.classes) == 964
    assert len(background.group_names) == 30


def test_ink_is_bright_and_thin(real_data: Path):
    x = omniglot(size=105).test.x
    assert set(x[::97].unique().tolist()) == {0, 255}
    assert 0.02 < x[::97].float().mean() / 255 < 0.1


def official_zips(real_data: Path, folder: Path) -> None:
    """What Lake published, made again from packed pixels."""
    data = np.load(real_data / "omniglot" / "omniglot_105.npz")
    bits = np.unpackbits(data["packed"], axis=-1, count=105 * 105).reshape(-1, 20, 105, 105)
    folder.mkdir()
    for part, remote in enumerate((BACKGROUND, EVALUATION)):
        with zipfile.ZipFile(folder / remote.name, "w") as archive:
            for k in np.flatnonzero(data["split"] == part):
                letter = f"{data['alphabet'][k]}/character{data['character'][k]:02}"
                for drawer in range(20):
                    file = io.BytesIO()
                    paper = Image.fromarray(bits[k, drawer] == 0)
                    paper.save(file, "png", compress_level=1)
                    name = f"{data['lake_id'][k]:04}_{drawer + 1:02}.png"
                    archive.writestr(f"{remote.name[:-4]}/{letter}/{name}", file.getvalue())


@pytest.mark.slow
def test_official_files_give_the_same_pixels(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = [part.hash for size in (28, 105) for part in omniglot(size=size)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    official_zips(real_data, root / "omniglot")
    with zipfile.ZipFile(root / "omniglot" / EVALUATION.name) as archive:  # or unpacked
        archive.extractall(root / "omniglot")
    (root / "omniglot" / EVALUATION.name).unlink()
    assert [part.hash for part in omniglot(root=root)] == expected[:3]
    shutil.rmtree(root / "omniglot")  # what was read is in the cache, in both sizes
    assert [part.hash for part in omniglot(root=root, size=105)] == expected[3:]
    assert [part.hash for part in omniglot(root=root)] == expected[:3]


def test_changed_drawings_are_refused(real_data: Path, tmp_path: Path):
    folder = tmp_path / "omniglot"
    folder.mkdir()
    data = dict(np.load(real_data / "omniglot" / "omniglot_28.npz"))
    data["images"][700, 3, 14, 14] ^= 1
    np.savez(folder / "omniglot_28.npz", **data)
    with pytest.raises(ValueError, match=r"omniglot_28.npz is damaged .*not the published"):
        omniglot(root=tmp_path)
    del data["images"]
    np.savez(folder / "omniglot_28.npz", **data)
    with pytest.raises(ValueError, match=r"omniglot_28.npz is damaged .*images"):
        omniglot(root=tmp_path)
    with zipfile.ZipFile(folder / BACKGROUND.name, "w") as archive:
        archive.writestr("images_background/Greek/character01/0001_01.png", b"no picture")
    with pytest.raises(ValueError, match=r"images_background.zip is damaged .*0001_01.png"):
        omniglot(root=tmp_path, size=105)


def test_without_files_it_says_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = f"http://127.0.0.1:9/{BACKGROUND.name}"
    module = sys.modules["quickstudy.datasets.omniglot"]
    monkeypatch.setattr(module, "BACKGROUND", BACKGROUND._replace(url=place))
    with pytest.raises(ConnectionError, match="by hand and put it at") as error:
        omniglot(root=tmp_path)
    assert place in str(error.value)
    assert str(tmp_path / "omniglot" / BACKGROUND.name) in str(error.value)


def test_unknown_options():
    with pytest.raises(ValueError, match="choose 28 or 105"):
        omniglot(size=64)  # pyright: ignore[reportArgumentType]


def test_unknown_convention(real_data: Path):
    with pytest.raises(ValueError, match="choose 'vinyals', 'lake' or 'characters'"):
        omniglot(convention="ravi")  # pyright: ignore[reportArgumentType]


def test_official_runs(real_data: Path):
    support, query = omniglot_runs()
    assert support.x.shape == query.x.shape == (20, 20, 1, 28, 28)
    assert torch.equal(support.y, torch.eye(20).expand(20, 20, 20))
    assert (query.y.sum(1) == 1).all()  # every class is asked for once
    drawings = {d.numpy().tobytes() for d in (omniglot(convention="lake").test.x / 255)}
    for x in (support.x, query.x):
        assert all(d.numpy().tobytes() in drawings for d in x.flatten(0, 1))


@pytest.mark.slow
def test_runs_reproduce_the_published_baseline(real_data: Path):
    """Lake's demonstration: the modified Hausdorff distance errs on 38.8 % of the items."""

    def clouds(images: torch.Tensor) -> list[np.ndarray]:
        """Where the ink of each image is, seen from its middle."""
        points = [np.argwhere(image[0]) for image in images.numpy()]
        return [cloud - cloud.mean(0) for cloud in points]

    def directed(sources: list[np.ndarray], targets: list[np.ndarray]) -> np.ndarray:
        """Mean distance of each source's points to the next of each target's."""
        starts = np.cumsum([0, *map(len, sources[:-1])])
        far = [KDTree(target).query(np.concatenate(sources))[0] for target in targets]
        sizes = np.array([len(source) for source in sources])
        return np.add.reduceat(far, starts, 1).T / sizes[:, None]

    wrong = 0
    support, query = omniglot_runs(size=105)
    for shown, query_x, answer in zip(support.x, query.x, query.y, strict=True):
        known, new = clouds(shown), clouds(query_x)
        distance = np.maximum(directed(new, known), directed(known, new).T)
        wrong += int((distance.argmin(1) != answer.argmax(1).numpy()).sum())
    assert wrong == 155  # of 400: 38.75 %
