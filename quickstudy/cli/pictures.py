"""Image files as the learner of a run takes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from quickstudy import datasets
from quickstudy.datasets.labelled import Labelled
from quickstudy.datasets.pictures import to_pixels
from quickstudy.runs import Run
from quickstudy.tasks.few_shot import FewShot


def image_shape(run: Run) -> tuple[int, ...]:
    """Return the (channels, height, width) of the images that a run's learner takes.

    Raises:
        ValueError: The learner does not take images.

    Examples:
        >>> from quickstudy import runs
        >>> image_shape(runs.start("glyphs_protonet", {}, "runs/unused"))
        (1, 28, 28)
    """
    tasks = next(iter(run.experiment.benchmarks.values())).tasks
    if not isinstance(tasks, FewShot) or tasks.dataset.x.ndim != 4:
        raise ValueError(f"The learner of recipe {run.recipe} does not take images.")
    return tuple(tasks.dataset.x.shape[1:])


def read_images(files: Sequence[Path], shape: Sequence[int], *, invert: bool) -> np.ndarray:
    """Read image files as uint8 (N, channels, height, width).

    Args:
        files: A file that is named twice is read once.
        shape: (channels, height, width).
        invert: Swap dark and light.

    Raises:
        ValueError: There are no files, or one of them is not an image.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "white.png")
        >>> Image.new("L", (2, 2), "white").save(file)
        >>> read_images([file], (1, 2, 2), invert=True).tolist()
        [[[[0, 0], [0, 0]]]]
    """
    if not files:
        raise ValueError("Name at least one image file.")
    images = {file: _read(file, shape) for file in dict.fromkeys(files)}
    x = np.stack([images[file] for file in files])
    return 255 - x if invert else x


def read_folder(
    place: Path,
    shape: Sequence[int],
    *,
    invert: bool = False,
    skip_unreadable: bool = False,
) -> Labelled:
    """Read a folder of folders of images, one per class, as a run's learner takes them.

    Args:
        shape: (channels, height, width).
        invert: Swap dark and light.
        skip_unreadable: Skip files that are not images instead of stopping.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("black", "white"):
        ...     (folder / name).mkdir()
        ...     Image.new("L", (9, 9), name).save(folder / name / "1.png")
        >>> read_folder(folder, (1, 1, 1), invert=True).x.flatten().tolist()
        [255, 0]
    """
    channels, height, width = shape
    data = datasets.folder(
        place,
        size=(height, width),
        channels=channels,  # pyright: ignore[reportArgumentType]
        skip_unreadable=skip_unreadable,
    )
    return replace(data, x=255 - data.x) if invert else data


def is_image(file: Path) -> bool:
    """Return whether Pillow can read a file.

    Examples:
        >>> is_image(Path("pyproject.toml"))
        False
    """
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def image_files(place: Path, *, recursive: bool = False) -> list[Path]:
    """Return an image file, or the files in a folder, without hidden ones.

    Raises:
        ValueError: There is no such file or folder, or the folder has no files.

    Examples:
        >>> image_files(Path("nowhere"))
        Traceback (most recent call last):
        ValueError: There is no file or folder nowhere. Name an existing one.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ValueError(f"There is no file or folder {place}. Name an existing one.")
    files = [
        entry
        for entry in sorted(place.rglob("*") if recursive else place.iterdir())
        if entry.is_file()
        and not any(part.startswith(".") for part in entry.relative_to(place).parts)
    ]
    if not files:
        raise ValueError(f"There are no images in {place}. Name a folder that has some.")
    return files


def _read(file: Path, shape: Sequence[int]) -> np.ndarray:
    channels, height, width = shape
    try:
        with Image.open(file) as image:
            return to_pixels(image, (height, width), channels)  # pyright: ignore[reportArgumentType]
    except UnidentifiedImageError:
        raise ValueError(f"{file} is not an image that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
