"""Data files: folders that are searched, downloads, and atomic writes."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from quickstudy.storage import files

BLOCK = 2**18  # bytes read from the network at a time
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4
_MALFORMED = (
    LookupError,
    ValueError,
    OSError,
    SyntaxError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


class Remote(NamedTuple):
    """A published file.

    Examples:
        >>> Remote("https://example.org/images.zip", sha256="0" * 64).name
        'images.zip'
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


def cache() -> Path:
    """Where downloads and conversions go: quickstudy in $XDG_CACHE_HOME or ~/.cache.

    Examples:
        >>> cache().name
        'quickstudy'
    """
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "quickstudy"


def roots(root: Path | str | None) -> list[Path]:
    """Where data is looked for: in `root` only, or in $QUICKSTUDY_DATA and then the cache.

    Examples:
        >>> roots("data")[0].name, roots(None)[-1] == cache()
        ('data', True)
    """
    if root is not None:
        return [Path(root).expanduser()]
    given = os.environ.get("QUICKSTUDY_DATA")
    return [Path(given).expanduser(), cache()] if given else [cache()]


def locate(root: Path | str | None, *names: str) -> Path | None:
    """The first of some paths that exists in one of the `roots`; None if none does.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> (Path(folder) / "b").mkdir()
        >>> locate(folder, "a", "b").name
        'b'
    """
    paths = [base / name for base in roots(root) for name in names]
    return next((path for path in paths if path.exists()), None)


def fetch(remote: Remote, folder: Path) -> Path:
    """The path of `remote` in `folder`, downloaded unless it is there.

    A download that broke off goes on where it stopped, is retried, and gets its name only
    when its sha256 is right.

    Raises:
        ConnectionError: the file cannot be downloaded; names the address to get it from.
        ValueError: what was downloaded is not the published file.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "all.zip").write_bytes(b"data")
        >>> fetch(Remote("https://example.org/all.zip", sha256=""), folder).name  # it is there
        'all.zip'
    """
    path = folder / remote.name
    if path.exists():
        return path
    by_hand = f"Download {remote.url} by hand and put it at {path}."
    with writing(folder), files.locked(folder / f".{remote.name}.lock"):
        part = folder / f".{remote.name}.part"
        for attempt in range(ATTEMPTS):
            if path.exists():  # another process has fetched it
                return path
            resumed = part.exists() and part.stat().st_size > 0
            try:
                _append(remote.url, part)
            except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
                refused = isinstance(error, HTTPError) and 400 <= error.code < 500
                if refused or attempt == ATTEMPTS - 1:
                    reason = str(error) or type(error).__name__
                    raise ConnectionError(
                        f"Cannot download {remote.name} ({reason}). {by_hand}"
                    ) from error
                continue
            if files.file_sha256(part) == remote.sha256:
                part.replace(path)
                return path
            part.unlink()
            if not resumed:  # what an older download left may have been the wrong part
                break
    raise ValueError(
        f"What {remote.url} sent is not the file that was published (its sha256 differs). "
        f"{by_hand}"
    )


def published(remote: Remote, name: str, root: Path | str | None) -> Path:
    """The path of `remote` in folder `name` of a root, downloaded unless it is in one of them.

    It is the published file.

    Raises:
        ConnectionError, ValueError: as `fetch`; the file is damaged, or another.

    Examples:
        >>> import hashlib
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "letters").mkdir()
        >>> _ = (root / "letters" / "all.zip").write_bytes(b"data")
        >>> remote = Remote("https://example.org/all.zip", hashlib.sha256(b"data").hexdigest())
        >>> published(remote, "letters", root).name
        'all.zip'
    """
    path = locate(root, f"{name}/{remote.name}") or fetch(remote, roots(root)[-1] / name)
    if files.file_sha256(path) != remote.sha256:
        raise damaged(path, f"its sha256 is not that of {remote.url}")
    return path


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        ValueError: the file is truncated or changed.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "images.npz", label=np.arange(3))
        >>> load_npz(folder / "images.npz")["label"].tolist()
        [0, 1, 2]
    """
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 of arrays with their names, types and shapes.

    Examples:
        >>> arrays_sha256({"label": np.arange(3, dtype=np.int64)})[:12]
        '4359ad8e54ba'
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def load_tree(path: Path) -> dict[str, bytes]:
    """The files of a .zip or of a folder, by their paths in it.

    Raises:
        ValueError: the .zip is truncated or changed.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_bytes(b"data")
        >>> load_tree(folder)
        {'a.txt': b'data'}
    """
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}
    with reading(path), zipfile.ZipFile(path) as archive:
        names = sorted(i.filename for i in archive.infolist() if not i.is_dir())
        return {name: archive.read(name) for name in names}


def damaged(path: Path, why: object) -> ValueError:
    """Return the error of a damaged file, with the remedy.

    Examples:
        >>> str(damaged(Path("all.zip"), "no zip file"))
        'all.zip is damaged (no zip file): delete it, and get it again.'
    """
    return ValueError(f"{path} is damaged ({why}): delete it, and get it again.")


@contextmanager
def reading(path: Path, part: str = "") -> Iterator[None]:
    """Raise the error `damaged` where the contents of a file cannot be understood.

    Args:
        part: what is read, for the message.

    Examples:
        >>> with reading(Path("all.zip"), "labels"):
        ...     int("three")
        Traceback (most recent call last):
        ValueError: all.zip is damaged (labels: invalid literal for int() with base 10: \
'three'): delete it, and get it again.
    """
    try:
        yield
    except _MALFORMED as error:
        raise damaged(path, f"{part}: {error}" if part else error) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once all of it is on the disk.

    Raises:
        OSError: as `writing`.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "glyphs.npz"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"data")
        >>> path.read_bytes()
        b'data'
    """
    with writing(path.parent), files.replacing(path) as file:
        yield file


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make `folder`, and raise an error that names a remedy if the disk refuses.

    Raises:
        OSError: `folder` cannot be made or written in.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp()) / "new"
        >>> with writing(folder):
        ...     print(folder.is_dir())
        True
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            f"Cannot write in {folder} ({error.strerror or error}): make room there, or set "
            "XDG_CACHE_HOME to a folder that can be written."
        ) from error


@contextmanager
def bar(description: str, total: float | None, *, in_bytes: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error, if that is a terminal; its task is number 0.

    Examples:
        >>> with bar("reading", total=3) as progress:
        ...     progress.advance(progress.task_ids[0])
        ...     progress.tasks[0].completed
        1
    """
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
    if in_bytes:
        columns.append(DownloadColumn())
    quiet = not console.is_terminal
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        progress.add_task(description, total=total)
        yield progress


def _append(url: str, part: Path) -> None:
    """Downloads what `part` has not got yet; ConnectionError when the server stops early."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "quickstudy", "Range": f"bytes={start}-"})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing comes after `start`: all of it is here
            return
        raise
    with response:
        whole = response.status != 206  # the server does not resume
        start = 0 if whole else start
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            part.open("wb" if whole else "ab") as file,
            bar(url.rsplit("/", 1)[1], total, in_bytes=True) as progress,
        ):
            progress.update(progress.task_ids[0], completed=start)
            while block := response.read(BLOCK):
                file.write(block)
                progress.advance(progress.task_ids[0], len(block))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes came")
