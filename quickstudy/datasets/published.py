"""Data sets prepared by hand. They are read from $QUICKSTUDY_DATA, never downloaded."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from quickstudy.datasets.files import load_npz, locate, reading, roots
from quickstudy.datasets.labelled import Labelled, Splits


def caltech101(*, size: Literal[32, 84] = 32, root: Path | str | None = None) -> Splits:
    """Read photographs of 100 kinds of object, 31 to 100 of each: x (N, 3, size, size) uint8.

    Read from `caltech101/caltech101_32.npz` or `caltech101_84_jpeg.npz` in `root` (None:
    $QUICKSTUDY_DATA, then the cache). The file splits the classes 64 / 16 / 20. No published
    result has this split. Fei-Fei, Fergus & Perona, 2004; CC BY 4.0.

    Raises:
        FileNotFoundError: the file is missing; the message describes its contents.
        ValueError: the file is damaged.

    Examples:
        >>> caltech101().test  # doctest: +SKIP
        Labelled(caltech101, test: 1,250 examples uint8 (3, 32, 32) of 20 classes)
    """
    files = {32: "caltech101_32.npz", 84: "caltech101_84_jpeg.npz"}
    if size not in files:
        raise ValueError(f"Caltech-101 has no size {size!r} here: choose 32 or 84.")
    layout = (
        "get the pictures at https://doi.org/10.22002/D1.20086 and read the class folders with "
        "`quickstudy.datasets.folder`, or put there an .npz file of `images` uint8 "
        "(N, 32, 32, 3) (for 84: `jpeg` bytes and `offset`), `label`, `class_name` and "
        "`class_split` (0 train, 1 validation, 2 test)"
    )
    path, data = _load(root, "caltech101", files[size], layout)
    with reading(path):
        images = data["images"] if size == 32 else _jpegs(data["jpeg"], data["offset"])
        return _splits(images, data, "caltech101", None, ())


def emoji(*, root: Path | str | None = None) -> Splits:
    """Read 1,044 emoji, each from 8 to 11 sets of pictures: x (N, 3, 32, 32) uint8.

    Groups are the Unicode groups. Read from `emoji/emoji_32.npz` in `root` (None:
    $QUICKSTUDY_DATA, then the cache). The file splits the classes 678 / 157 / 209. No published
    result has this split.

    Raises:
        FileNotFoundError: the file is missing; the message describes its contents.
        ValueError: the file is damaged.

    Examples:
        >>> emoji(root="empty")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no empty/emoji/emoji_32.npz: put there an .npz file ...
    """
    layout = (
        "put there an .npz file of `images` uint8 (N, 32, 32, 3), `label`, `class_name`, "
        "`class_group`, `groups` and `class_split` (0 train, 1 validation, 2 test)"
    )
    path, data = _load(root, "emoji", "emoji_32.npz", layout)
    with reading(path):
        groups = torch.from_numpy(data["class_group"].astype(np.int64))
        return _splits(data["images"], data, "emoji", groups, tuple(map(str, data["groups"])))


def _load(
    root: Path | str | None, name: str, file: str, layout: str
) -> tuple[Path, dict[str, np.ndarray]]:
    path = locate(root, f"{name}/{file}")
    if path is None:
        expected = roots(root)[0] / name / file
        raise FileNotFoundError(f"There is no {expected}: {layout}; or set QUICKSTUDY_DATA.")
    return path, load_npz(path)


def _splits(
    images: np.ndarray,
    data: dict[str, np.ndarray],
    name: str,
    groups: torch.Tensor | None,
    group_names: tuple[str, ...],
) -> Splits:
    everything = Labelled(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(data["label"].astype(np.int64)),
        tuple(map(str, data["class_name"])),
        groups,
        group_names,
        name=name,
    )
    parts = [np.flatnonzero(data["class_split"] == part).tolist() for part in range(3)]
    return Splits(*map(everything.select, parts, Splits._fields))


def _jpegs(data: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(N, 84, 84, 3) uint8."""
    files = (io.BytesIO(data[start:end].tobytes()) for start, end in pairwise(offset))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
