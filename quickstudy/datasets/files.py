"""Where data files are."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np


def cache() -> Path:
    """Where downloads and conversions go: $XDG_CACHE_HOME/quickstudy, or ~/.cache/quickstudy."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "quickstudy"


def roots(root: Path | str | None) -> list[Path]:
    """Where data is looked for: `root` only, or $QUICKSTUDY_DATA and the cache."""
    if root is not None:
        return [Path(root)]
    given = os.environ.get("QUICKSTUDY_DATA")
    return [Path(given), cache()] if given else [cache()]


def open_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): replace it.") from error
