from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quickstudy.datasets import caltech101, emoji


def test_caltech101(real_data: Path):
    splits = caltech101()
    assert [len(part.classes) for part in splits] == [64, 16, 20]
    assert sum(map(len, splits)) == 6198
    assert splits.train.x.shape[1:] == (3, 32, 32)
    data = np.load(real_data / "caltech101" / "caltech101_32.npz")
    first = np.flatnonzero(data["class_split"][data["label"]] == 2)[0]
    assert np.array_equal(splits.test.x[0].permute(1, 2, 0), data["images"][first])
    assert (
        splits.test.classes[int(splits.test.y[0])] == data["class_name"][data["label"][first]]
    )


def test_caltech101_at_84_is_the_same_pictures(real_data: Path):
    small, large = caltech101().test, caltech101(size=84).test
    assert torch.equal(small.y, large.y)
    pooled = torch.nn.functional.adaptive_avg_pool2d(large.x[:50].float(), 4)
    coarse = torch.nn.functional.adaptive_avg_pool2d(small.x[:50].float(), 4)
    assert (pooled - coarse).abs().mean() < 5  # of 255


def test_emoji(real_data: Path):
    splits = emoji()
    assert [len(part.classes) for part in splits] == [678, 157, 209]
    assert splits.test.groups is not None
    groups = [splits.test.group_names[g] for g in splits.test.groups]
    assert dict(zip(splits.test.classes, groups, strict=True))["winking face with tongue"] == (
        "Smileys & Emotion"
    )


@pytest.mark.parametrize("load", [caltech101, emoji])
def test_missing_and_damaged_files(load: Any, tmp_path: Path):
    name = load.__name__
    with pytest.raises(FileNotFoundError, match=rf"{name}_32.npz: .*set QUICKSTUDY_DATA"):
        load(root=tmp_path)
    (tmp_path / name).mkdir()
    np.savez(tmp_path / name / f"{name}_32.npz", label=np.arange(3))
    with pytest.raises(ValueError, match=rf"{name}_32.npz is damaged"):
        load(root=tmp_path)


def test_unknown_size():
    with pytest.raises(ValueError, match="choose 32 or 84"):
        caltech101(size=64)  # pyright: ignore[reportArgumentType]
