"""Files on disk: atomic replacement, digests, locks, and errors that name a remedy."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import torch

from quickstudy import __version__
from quickstudy.core.task import Json

_FULL = "free some space, or choose a folder on another disk"
_CLOSED = "choose a folder that you may write to"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
}


class CheckpointError(ValueError):
    """A stored file cannot be written or read. The message gives the reason and a remedy.

    Examples:
        >>> import quickstudy as qs
        >>> try:
        ...     qs.storage.read_facts("nowhere")
        ... except qs.storage.CheckpointError as error:
        ...     print(error)
        There is no checkpoint in nowhere: name a folder that has a run.json.
    """


# Writing


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` in one rename, once all of it is on the disk.

    A process that is killed at any moment leaves the old file or the new one. An error leaves
    the old file, and no temporary file.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole or not at all")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('whole or not at all', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the contents of `path` by `data`, in one instant.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "new" / "numbers.json"
        >>> replace_file(path, b"[1, 2]")
        >>> path.read_text()
        '[1, 2]'
    """
    with replacing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut, where the system can.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> sync_folder(Path(tempfile.mkdtemp()))
        >>> sync_folder(Path("nowhere"))  # the folder cannot be opened: nothing happens
    """
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_error(place: object, error: OSError, otherwise: str) -> CheckpointError:
    """Return the error for a disk that refuses to write, with its remedy.

    Args:
        otherwise: the remedy if the system's reason suggests none.

    Examples:
        >>> print(write_error("runs/a", OSError(28, "No space left on device"), "try again"))
        Cannot write runs/a (No space left on device): free some space, or choose a folder on \
another disk.
    """
    remedy = _REMEDIES.get(error.errno or 0, otherwise)
    return CheckpointError(f"Cannot write {place} ({error.strerror or error}): {remedy}.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let the processes of one machine take turns, where the system has file locks.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with locked(Path(tempfile.mkdtemp()) / ".lock"):
        ...     print("alone")
        alone
    """
    with path.open("w") as file:
        with suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Reading and checking


def read_bytes(path: Path, *, missing: str, unreadable: str) -> bytes:
    """Return the contents of a file.

    Args:
        missing: the message if there is no such file.
        unreadable: the remedy if the system refuses to read it, a sentence without its
            beginning.

    Raises:
        CheckpointError: the file is missing or cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> read_bytes(Path("nowhere"), missing="No such model.", unreadable="")
        Traceback (most recent call last):
        quickstudy.storage.files.CheckpointError: No such model.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(missing) from None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): make it readable{unreadable}"
        ) from error


def check_format(content: Mapping[str, Json], place: str, expected: int) -> None:
    """Raise unless a file has the format that this version reads.

    Examples:
        >>> check_format({"format": 1}, "The file a", 1)
        >>> check_format({"format": 2, "versions": {"quickstudy": "9.0"}}, "The file a", 1)
        Traceback (most recent call last):
        quickstudy.storage.files.CheckpointError: The file a has format 2, and this version of \
quickstudy reads format 1: use the version that wrote it (9.0).
    """
    if content.get("format") != expected:
        raise CheckpointError(
            f"{place} has format {content.get('format')}, and this version of quickstudy reads "
            f"format {expected}: use the version that wrote it "
            f"({content.get('versions', {}).get('quickstudy', 'unknown')})."
        )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> path.touch()
        >>> file_sha256(path)[:12]
        'e3b0c44298fc'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Mapping[str, Json]) -> str:
    """Return the sha256 of a JSON object without its own entry `sha256`.

    Examples:
        >>> content = {"format": 1}
        >>> content["sha256"] = json_sha256(content)
        >>> content["sha256"] == json_sha256(content)
        True
    """
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# What files record


def versions() -> dict[str, str]:
    """Return the versions that a file records.

    Examples:
        >>> list(versions())
        ['quickstudy', 'torch']
    """
    return {"quickstudy": __version__, "torch": str(torch.__version__)}


def class_name(value: object) -> str:
    """Return the name by which files record the class of a value.

    Examples:
        >>> class_name(1.5)
        'float'
    """
    return type(value).__name__


def to_json(name: str, value: Json) -> Json:
    """Return a fact as JSON gives it back.

    Raises:
        CheckpointError: the fact is no JSON.

    Examples:
        >>> to_json("shape", (3, 28, 28))
        [3, 28, 28]
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The fact `{name}` is no JSON ({error}): "
            "give numbers, text, and lists and dictionaries of these."
        ) from error
