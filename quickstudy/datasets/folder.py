"""Images in a folder that has a folder for each class."""

import hashlib
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as PIL_VERSION

from quickstudy.datasets.files import bar, cache, damaged, reading, replacing
from quickstudy.datasets.labelled import Labelled, Splits
from quickstudy.datasets.pictures import (
    Channels,
    Size,
    UnknownRangeError,
    check_shape,
    to_pixels,
)
from quickstudy.storage.files import file_sha256

BOMB = Image.DecompressionBombError  # far more pixels than bytes: an attack, or no picture
FORMAT = 2  # of the cache, and of what `to_pixels` makes
RESIDENT = 2**24  # bytes of pixels above which a conversion is kept on disk and mapped


def folder(
    path: Path | str,
    *,
    size: Size = (84, 84),
    channels: Channels = 3,
    skip_unreadable: bool = False,
) -> Labelled:
    """Read the pictures in `path/<class>/<file>`: x (N, channels, height, width) uint8.

    They are turned as the camera was held, put on white where transparent, cut to the shape of
    `size` around the middle, and resized. More than 16 MiB of them are converted once, into a
    file in the cache that is memory-mapped: it may be larger than memory. It is made anew when
    a file's name, size or time changes. Hidden files are ignored.

    Args:
        size: (height, width) in pixels, or one number for both.
        channels: 1 for grey, 3 for colour.
        skip_unreadable: leave out files that are no picture or damaged.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are fewer than two classes, or files that are not pictures.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for name in ("cat", "dog"):
        ...         (Path(place) / name).mkdir()
        ...         Image.new("RGB", (9, 9)).save(Path(place) / name / "1.png")
        ...     data = folder(place, size=8)
        >>> data.x.shape, data.classes
        (torch.Size([2, 3, 8, 8]), ('cat', 'dog'))
    """
    path = Path(path).expanduser()
    image = check_shape(size, channels)
    names, files, labels = _list(path)
    shape = (len(files), *image)
    images = _decoded(files, size, channels)
    if np.prod(shape) <= RESIDENT:
        decoded = list(images)
        unreadable = [i for i, image in enumerate(decoded) if image is None]
        x = np.array([image for image in decoded if image is not None], np.uint8)
    else:
        stem = f"{path.resolve().name}-{_key(path, files, shape)}"
        mapped = cache() / "folders" / f"{stem}.npy"
        record = cache() / "folders" / f"{stem}.json"  # written last: the other is whole
        if not (record.exists() and mapped.exists()):
            unreadable = _write(mapped, images, shape)
            about = {"unreadable": unreadable, "sha256": file_sha256(mapped)}
            with replacing(record) as file:
                file.write(json.dumps(about).encode())
        with reading(record):
            about = json.loads(record.read_text())
            unreadable = about["unreadable"]
        if file_sha256(mapped) != about["sha256"]:
            raise damaged(mapped, "its sha256 is another")
        with reading(mapped):  # "c": torch wants a writable array; the file stays as it is
            x = np.load(mapped, mmap_mode="c")[: len(files) - len(unreadable)]
    _refuse(files, unreadable, skip_unreadable)
    return Labelled(
        torch.from_numpy(x),
        torch.from_numpy(np.delete(labels, unreadable)),
        tuple(names),
        name=path.resolve().name,
    )


def folder_splits(
    path: Path | str,
    *,
    size: Size = (84, 84),
    channels: Channels = 3,
    skip_unreadable: bool = False,
) -> Splits:
    """Read the folders `train`, `validation` (or `val`) and `test` in `path` by `folder`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for split in Splits._fields:
        ...         for name in ("a", "b"):
        ...             (Path(place) / split / name).mkdir(parents=True)
        ...             Image.new("RGB", (9, 9)).save(Path(place) / split / name / "1.png")
        ...     len(folder_splits(place, size=8).validation)
        2
    """
    path = Path(path).expanduser()
    parts = []
    for split in Splits._fields:
        part = (
            path / "val" if split == "validation" and (path / "val").is_dir() else path / split
        )
        data = folder(part, size=size, channels=channels, skip_unreadable=skip_unreadable)
        parts.append(replace(data, name=path.resolve().name, split=split))
    return Splits(*parts)


def _list(path: Path) -> tuple[list[str], list[Path], np.ndarray]:
    """Return class names, files, and the labels of the files."""
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}: give one that has class folders.")
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"{path} has {len(names)} class folder(s) and needs two at least: put the pictures "
            "of each class into a folder of its own."
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        entries = sorted(p for p in (path / name).iterdir() if not p.name.startswith("."))
        pictures = [p for p in entries if p.is_file()]
        if not pictures:
            remedy = (
                "read such splits with `folder_splits`" if entries else "add some, or remove it"
            )
            raise ValueError(f"There are no pictures in {path / name}: {remedy}.")
        files += pictures
        labels += [label] * len(pictures)
    return names, files, np.array(labels, np.int64)


def _decoded(files: list[Path], size: Size, channels: Channels) -> Iterator[np.ndarray | None]:
    """Yield the pixels of every file, in order; None for one that cannot be read."""

    def decode(file: Path) -> np.ndarray | None:
        try:
            with Image.open(file) as image:
                return to_pixels(image, size, channels)
        except UnknownRangeError as error:  # a picture that nobody wants to miss unknowingly
            raise UnknownRangeError(f"{file}: {error}") from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, BOMB):
            return None

    with ThreadPoolExecutor() as pool, bar("reading pictures", len(files)) as progress:
        for start in range(0, len(files), 256):  # so that few wait in memory to be written
            for pixels in pool.map(decode, files[start : start + 256]):
                progress.advance(progress.task_ids[0])
                yield pixels


def _write(
    path: Path, images: Iterator[np.ndarray | None], shape: tuple[int, int, int, int]
) -> list[int]:
    """Write the .npy file of an array of `shape`, readable images first. Return the indices of
    the others. A memory map would end the process on a full disk without a message."""
    unreadable = []
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        for i, image in enumerate(images):
            if image is None:
                unreadable.append(i)
            else:
                file.write(image.tobytes())
        file.write(bytes(int(np.prod(shape[1:])) * len(unreadable)))
    return unreadable


def _key(path: Path, files: list[Path], shape: tuple[int, ...]) -> str:
    """Return a key that changes with the files and their conversion."""
    conversion = FORMAT, PIL_VERSION, str(path.resolve()), shape
    digest = hashlib.sha256(repr(conversion).encode())
    for file in files:
        facts = file.stat()
        digest.update(
            repr((file.relative_to(path).as_posix(), facts.st_size, facts.st_mtime_ns)).encode()
        )
    return digest.hexdigest()[:16]


def _refuse(files: list[Path], unreadable: list[int], skip: bool) -> None:
    if unreadable and (not skip or len(unreadable) == len(files)):
        named = ", ".join(str(files[i]) for i in unreadable[:5])
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise ValueError(
            f"No picture can be read from {named}{more}: remove what is no picture, or pass "
            "skip_unreadable=True to go on with the others."
        )
