"""The index file of a mapping library: what opening needs to know of every mapping.

Each line is a record of one file of the library: its size and time of change, and what was read
from it. A record counts only while these two are the file's. So the index may be old, torn by a
kill, or deleted: what it lacks is read from the files of the mappings, and appended.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy import __version__
from quickstudy.core.task import Json
from quickstudy.storage.files import replace_file

INDEX_FILE = "index.jsonl"


class Record(NamedTuple):
    """What the index has of a file.

    Examples:
        >>> Record("a@1.safetensors", {"class": "MAML"}, "mean", "{}", torch.ones(2)).file
        'a@1.safetensors'
    """

    file: str
    learner: Json  # of its base
    embedded_by: Json
    layout: str
    embedding: Tensor


def append_records(folder: Path, records: Iterable[Record], *, afresh: bool = False) -> None:
    """Add records of files to the index, where the folder can be written.

    Args:
        afresh: replace the index.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a@1.safetensors").write_bytes(b"")
        >>> append_records(folder, [Record("a@1.safetensors", "", "", "", torch.ones(2))])
        >>> read_index(folder)[0]["a@1.safetensors"].embedding
        tensor([1., 1.])
    """
    lines = list[str]()
    for record in records:
        with suppress(FileNotFoundError):
            lines.append(json.dumps(_to_json(record, _stamp((folder / record.file).stat()))))
    # a new line first, so that half a line before it spoils no other
    data = "".join(f"\n{line}" for line in lines).encode()
    with suppress(OSError):  # without an index, files are read
        if afresh:
            replace_file(folder / INDEX_FILE, data)
        elif data:
            with (folder / INDEX_FILE).open("ab") as file:
                file.write(data)


def read_index(folder: Path) -> tuple[dict[str, Record], list[str], bool]:
    """Read the index of a folder.

    Returns:
        The records of the files that have not changed since, by name of the file; the names of
        all files; and whether most records of the index are of no use.

    Examples:
        >>> read_index(Path("nowhere"))
        ({}, [], False)
    """
    stamps = dict[str, list[int]]()
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        stamps = {
            entry.name: _stamp(entry.stat())
            for entry in entries
            if entry.name.endswith(".safetensors")
        }
    try:
        lines = (folder / INDEX_FILE).read_bytes().split(b"\n")
    except OSError:
        lines = []
    records = dict[str, Record]()
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # half a line
            content = json.loads(line)
            if (
                content["version"] == __version__
                and stamps.get(content["file"]) == content["stamp"]
            ):
                records[content["file"]] = _from_json(content)
    return records, sorted(stamps), len(lines) > 2 * len(records) + 100


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


def _to_json(record: Record, stamp: list[int]) -> dict[str, Json]:
    values = record.embedding.detach().cpu().contiguous()
    return {
        "version": __version__,  # others name the parts of states by other names
        "stamp": stamp,
        **record._asdict(),
        "embedding": base64.b64encode(values.view(torch.uint8).numpy().tobytes()).decode(),
        "dtype": str(values.dtype).removeprefix("torch."),
    }


def _from_json(content: Mapping[str, Any]) -> Record:
    data = bytearray(base64.b64decode(content["embedding"]))
    embedding = torch.frombuffer(data, dtype=getattr(torch, content["dtype"]))
    others = {name: content[name] for name in ("file", "learner", "embedded_by", "layout")}
    return Record(**others, embedding=embedding)
