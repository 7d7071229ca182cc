"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350, 2015. MIT licence, copyright 2015 Brenden Lake.

`omniglot_vinyals.json` holds the class lists of Vinyals et al. (2016) as Snell et al. (2017)
published them (github.com/jakesnell/prototypical-networks, MIT licence): for each alphabet a
letter per character, t for train, v for validation, e for test.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core.task import Examples, Task
from quickstudy.datasets.files import (
    Remote,
    bar,
    cache,
    damaged,
    fetch,
    load_npz,
    load_tree,
    locate,
    reading,
    replacing,
    roots,
)
from quickstudy.datasets.labelled import Labelled, Splits

Convention = Literal["vinyals", "lake", "characters"]
Size = Literal[28, 105]

PLACE = "https://github.com/brendenlake/omniglot/raw/master/python"
BACKGROUND = Remote(  # both sums as TensorFlow Datasets has them
    f"{PLACE}/images_background.zip",
    "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
)
EVALUATION = Remote(
    f"{PLACE}/images_evaluation.zip",
    "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
)
RUNS = Remote(
    f"{PLACE}/one-shot-classification/all_runs.zip",
    "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)
PIXELS = {  # sha256 of the drawings, from whatever files they were read
    28: "6dfd492ef340d25783f1b7457d92c74311ca80afdb18d95de9094f9345689912",
    105: "75a36f7ce605ee617d0c45021613841aec979e079f71594e885aba52a7c003ce",
}
LABELS = "a92facab5392af94e23d744074f59464ba8b83dcc14fda41488ce9a2a244a05c"
RUN_PIXELS_AND_ANSWERS = "2a4e019542b6e6dec1644c9127ae154403775501c2127ea68e543dcd85a705ee"


class Drawings(NamedTuple):
    """All of Omniglot: background alphabets first, then by alphabet and character.

    Examples:
        >>> pixels, background = np.zeros((2, 20, 28, 28), np.uint8), np.array([True, False])
        >>> alphabet, character = np.array(["Greek", "Latin"]), np.array([1, 1])
        >>> drawings = Drawings(pixels, alphabet, character, background)
        >>> drawings.alphabet[drawings.background].tolist()
        ['Greek']
    """

    pixels: np.ndarray  # (1623, 20, 28, 28) uint8, ink 255; (1623, 20, 1379) packed bits of 105
    alphabet: np.ndarray  # (1623,) str
    character: np.ndarray  # (1623,) counts from 1 within the alphabet
    background: np.ndarray  # (1623,) bool


def omniglot(
    *,
    convention: Convention = "vinyals",
    size: Size = 28,
    root: Path | str | None = None,
) -> Splits:
    """Read handwritten characters; a class is a character, a group its alphabet.

    x is (N, 1, size, size) uint8 with ink 255: the published drawings inverted, at their
    size of 105, or brought to 28 with Pillow's LANCZOS filter.

    Args:
        convention: the split of the characters. "vinyals": 1028 / 172 / 423, the lists of
            Vinyals et al. (2016) as published with prototypical networks (Snell et al., 2017);
            count each class in four rotations as they do. "lake": by alphabet; the last 5 of
            the 30 background alphabets are for validation, the 20 evaluation alphabets for
            test. "characters": 1100 / 100 / 423 at random, as MAML does (Finn et al., 2017).
            To meta-train on all that is not for test: `merge(train, validation)`.
        root: where the files are, and else are downloaded to, in its folder `omniglot`. None:
            looked for in $QUICKSTUDY_DATA and then in the cache, and downloaded to the cache.
            They are the official `images_background.zip` and `images_evaluation.zip` (or what
            is in them), or `omniglot_28.npz` and `omniglot_105.npz`.

    Raises:
        ConnectionError: the files are not there, and cannot be downloaded.
        ValueError: a file is damaged, or holds something else.

    Examples:
        >>> len(omniglot().train.classes)  # doctest: +SKIP
        1028
        >>> omniglot(size=29)
        Traceback (most recent call last):
        ...
        ValueError: Omniglot has no size 29: choose 28 or 105 and resize that.
    """
    if size not in PIXELS:
        raise ValueError(f"Omniglot has no size {size!r}: choose 28 or 105 and resize that.")
    drawings = _read(root, size)
    parts = _assign(drawings, convention)
    classes, drawers = drawings.pixels.shape[:2]
    alphabets, groups = np.unique(drawings.alphabet, return_inverse=True)
    names = zip(drawings.alphabet, drawings.character, strict=True)
    everything = Labelled(
        _images(drawings.pixels, size).flatten(0, 1)[:, None],
        torch.arange(classes).repeat_interleave(drawers),
        tuple(f"{alphabet}/character{character:02}" for alphabet, character in names),
        torch.from_numpy(groups),
        tuple(map(str, alphabets)),
        name="omniglot" if size == 28 else f"omniglot_{size}",
    )
    names = (f"{convention} {part}" for part in Splits._fields)
    return Splits(*map(everything.select, parts, names))


def omniglot_runs(*, size: Size = 28, root: Path | str | None = None) -> Task[Examples]:
    """Read Lake's 20 official runs of 20-way one-shot classification, as a batch of tasks.

    Support and query x are (20, 20, 1, size, size) in 0 … 1 with ink 1, y (20, 20, 20) one-hot:
    20 runs, of 20 classes drawn by one person and one more drawing of each by another. All are
    of evaluation alphabets, and within a run of one alphabet, so meta-train with
    `omniglot(convention="lake")`. Lake et al. (2015) measured 4.5 % error for people.

    `root`, and what is raised, as for `omniglot`; the file is `all_runs.zip`.

    Examples:
        >>> omniglot_runs().query.x.shape  # doctest: +SKIP
        torch.Size([20, 20, 1, 28, 28])
    """
    path = _official(root, RUNS)
    tree = {name.removeprefix("all_runs/"): data for name, data in load_tree(path).items()}
    support, query, answers = [], [], []
    with reading(path):
        for run in range(1, 21):
            lines = tree[f"run{run:02}/class_labels.txt"].decode().splitlines()
            pairs = [line.split() for line in lines if line]
            shown = [f"run{run:02}/training/class{c:02}.png" for c in range(1, 21)]
            support.append([_decode(tree[name]) for name in shown])
            query.append([_decode(tree[item]) for item, _ in pairs])
            answers.append([shown.index(answer) for _, answer in pairs])
        inks = [np.array(p, np.uint8).reshape(20, 20, 105, 105) for p in (support, query)]
        labels = torch.tensor(answers).view(20, 20)
    digest = hashlib.sha256(b"".join(np.packbits(ink).tobytes() for ink in inks))
    digest.update(str(answers).encode())
    if digest.hexdigest() != RUN_PIXELS_AND_ANSWERS:
        raise damaged(path, "its drawings or labels are not the published ones")
    chosen = torch.arange(20).expand(20, 20), labels
    return Task(*(_examples(ink, y, size) for ink, y in zip(inks, chosen, strict=True)))


def _examples(ink: np.ndarray, labels: Tensor, size: int) -> Examples:
    images = ink * np.uint8(255) if size == 105 else _shrink(ink)
    x = torch.from_numpy(images)[:, :, None].float() / 255
    return Examples(x, torch.eye(20)[labels], torch.ones(labels.shape))


def _assign(drawings: Drawings, convention: Convention) -> list[list[int]]:
    """Return the class indices of train, validation and test."""
    alphabet = drawings.alphabet
    if convention == "vinyals":
        text = files("quickstudy.datasets").joinpath("omniglot_vinyals.json").read_text()
        lists = json.loads(text)
        mark = [lists[a][c - 1] for a, c in zip(alphabet, drawings.character, strict=True)]
        masks = [np.array(mark) == m for m in "tve"]
    elif convention == "lake":
        held_out = np.isin(alphabet, np.unique(alphabet[drawings.background])[-5:])
        masks = [drawings.background & ~held_out, held_out, ~drawings.background]
    elif convention == "characters":
        place = np.random.RandomState(1).permutation(len(alphabet))
        masks = [place < 1100, (place >= 1100) & (place < 1200), place >= 1200]
    else:
        raise ValueError(
            f"No convention {convention!r}: choose 'vinyals', 'lake' or 'characters'."
        )
    return [np.flatnonzero(mask).tolist() for mask in masks]


def _read(root: Path | str | None, size: Size) -> Drawings:
    file = f"omniglot/omniglot_{size}.npz"
    path = locate(root, file) or locate(cache(), file)
    if path is None:
        return _convert(root)[size]
    data = load_npz(path)
    with reading(path):
        pixels = data["images" if size == 28 else "packed"]
        character, background = data["character"].astype(int), data["split"] == 0
        drawings = Drawings(pixels, data["alphabet"], character, background)
    return _checked(drawings, size, path)


def _convert(root: Path | str | None) -> dict[int, Drawings]:
    """Read the official files, and keep the drawings in the cache."""
    ink, alphabet, character, background = [], [], [], []
    paths = []
    for remote in (BACKGROUND, EVALUATION):
        stem = remote.name.removesuffix(".zip")
        path = _official(root, remote)
        paths.append(path)
        tree = load_tree(path)
        names = sorted(name.removeprefix(f"{stem}/") for name in tree if name.endswith(".png"))
        prefix = f"{stem}/" if path.suffix == ".zip" else ""
        with bar(f"reading {path.name}", len(names)) as progress:
            for name in names:
                with reading(path, name):
                    ink.append(_decode(tree[prefix + name]))
                    letters, place, _ = name.split("/")
                    number = int(place.removeprefix("character"))
                if name.endswith("_01.png"):
                    alphabet.append(letters)
                    character.append(number)
                    background.append(remote is BACKGROUND)
                progress.advance(progress.task_ids[0])
    where = " or ".join(map(str, paths))
    if len(ink) != 1623 * 20 or len(alphabet) != 1623:
        raise damaged(Path(where), f"{len(ink):,} drawings instead of 32,460")
    bits = np.array(ink, np.uint8).reshape(1623, 20, 105, 105)
    about = np.array(alphabet), np.array(character), np.array(background)
    pixels = {28: _shrink(bits), 105: np.packbits(bits.reshape(1623, 20, -1), axis=-1)}
    both: dict[int, Drawings] = {}
    for size, key in ((28, "images"), (105, "packed")):
        both[size] = _checked(Drawings(pixels[size], *about), size, Path(where))
        with replacing(cache() / "omniglot" / f"omniglot_{size}.npz") as file:
            np.savez_compressed(
                file,
                **{key: pixels[size]},
                alphabet=about[0],
                character=about[1],
                split=1 - about[2],
            )
    return both


def _checked(drawings: Drawings, size: int, path: Path) -> Drawings:
    if hashlib.sha256(drawings.pixels.tobytes()).hexdigest() != PIXELS[size]:
        raise damaged(path, "its drawings are not the published ones")
    about = zip(drawings.alphabet, drawings.character, drawings.background, strict=True)
    if _lines_sha256(f"{name} {number} {int(part)}" for name, number, part in about) != LABELS:
        raise damaged(path, "its labels are not the published ones")
    return drawings


def _lines_sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _official(root: Path | str | None, remote: Remote) -> Path:
    """An official file, or the folder that it unpacks to; else it is downloaded."""
    stem = remote.name.removesuffix(".zip")
    names = f"omniglot/{stem}.zip", f"omniglot/{stem}", f"{stem}.zip", stem
    return locate(root, *names) or fetch(remote, roots(root)[-1] / "omniglot")


def _decode(png: bytes) -> np.ndarray:
    """(105, 105) bool: where the ink is."""
    with Image.open(io.BytesIO(png)) as image:
        ink = np.asarray(image.convert("L")) < 128
    if ink.shape != (105, 105):
        raise ValueError(f"a drawing of {ink.shape[1]} x {ink.shape[0]} pixels")
    return ink


def _shrink(ink: np.ndarray) -> np.ndarray:
    """(A, B, 105, 105) of 0 and 1 -> (A, B, 28, 28) uint8, ink 255."""
    small = [
        np.asarray(
            Image.fromarray(drawing * np.uint8(255)).resize((28, 28), Image.Resampling.LANCZOS)
        )
        for drawing in ink.reshape(-1, 105, 105)
    ]
    return np.stack(small).reshape(*ink.shape[:2], 28, 28)


def _images(pixels: np.ndarray, size: int) -> Tensor:
    """(1623, 20, size, size) uint8, ink 255."""
    if size == 105:
        bits = np.unpackbits(pixels, axis=-1, count=size * size)
        bits *= 255
        pixels = bits.reshape(*bits.shape[:2], size, size)
    return torch.from_numpy(pixels)
