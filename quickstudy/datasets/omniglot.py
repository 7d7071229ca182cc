"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350, 2015.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from quickstudy.datasets.files import open_npz, roots
from quickstudy.datasets.labelled import Labelled, Splits

Convention = Literal["vinyals", "lake", "characters"]


class Drawings(NamedTuple):
    """All of Omniglot; background alphabets first, then by alphabet and character."""

    images: np.ndarray  # (1623, 20, size, size) uint8, ink is 255
    alphabet: list[str]
    character: list[int]  # counts from 1 within the alphabet
    background: np.ndarray  # (1623,) bool


def omniglot(
    *,
    convention: Convention = "vinyals",
    size: Literal[28, 105] = 28,
    root: Path | str | None = None,
) -> Splits:
    """x (N, 1, size, size) uint8 with ink 255; a class is a character, a group its alphabet."""
    drawings = read(root, size)
    everything = labelled(drawings)
    train, validation, test = assign(drawings, convention)
    return Splits(
        everything.select(train, "train"),
        everything.select(validation, "validation"),
        everything.select(test, "test"),
    )


def assign(drawings: Drawings, convention: Convention) -> list[np.ndarray]:
    """The class indices of train, validation and test."""
    number = len(drawings.alphabet)
    if convention == "vinyals":
        text = files("quickstudy.datasets").joinpath("omniglot_vinyals.json").read_text()
        lists = json.loads(text)
        pairs = zip(drawings.alphabet, drawings.character, strict=True)
        mark = np.array([lists[alphabet][character - 1] for alphabet, character in pairs])
        return [np.flatnonzero(mark == m) for m in "tve"]
    if convention == "lake":
        alphabets = np.array(drawings.alphabet)
        held_out = np.unique(alphabets[drawings.background])[-5:]
        held_out = np.isin(alphabets, held_out)
        masks = drawings.background & ~held_out, held_out, ~drawings.background
        return [np.flatnonzero(mask) for mask in masks]
    if convention == "characters":
        order = np.random.RandomState(1).permutation(number)
        return [np.sort(part) for part in np.split(order, [1100, 1200])]
    raise ValueError(f"No convention {convention!r}: choose 'vinyals', 'lake' or 'characters'.")


def labelled(drawings: Drawings) -> Labelled:
    classes, drawers, height, width = drawings.images.shape
    names, groups = np.unique(drawings.alphabet, return_inverse=True)
    pairs = zip(drawings.alphabet, drawings.character, strict=True)
    return Labelled(
        torch.from_numpy(drawings.images).view(classes * drawers, 1, height, width),
        torch.arange(classes).repeat_interleave(drawers),
        tuple(f"{alphabet}/character{character:02}" for alphabet, character in pairs),
        torch.from_numpy(groups),
        tuple(map(str, names)),
        name="omniglot",
    )


def read(root: Path | str | None, size: int) -> Drawings:
    for folder in roots(root):
        path = folder / "omniglot" / f"omniglot_{size}.npz"
        if path.is_file():
            return read_npz(path, size)
    raise FileNotFoundError("Omniglot is not there: set QUICKSTUDY_DATA.")


def read_npz(path: Path, size: int) -> Drawings:
    data = open_npz(path)
    if size == 28:
        images = data["images"]
    else:
        bits = np.unpackbits(data["packed"], axis=-1, count=size * size)
        images = (bits * 255).reshape(*bits.shape[:2], size, size)
    alphabet = [str(a) for a in data["alphabet"]]
    return Drawings(images, alphabet, data["character"].tolist(), data["split"] == 0)
