"""The files of a mapping library: one for each version of each mapping, never changed."""

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import torch
from torch import Tensor

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Json
from quickstudy.core.tree import tree_map
from quickstudy.hints import suggest
from quickstudy.learner import Learner
from quickstudy.recall.index_file import Record, append_records, read_index
from quickstudy.storage.files import CheckpointError, replace_file, to_json, write_error
from quickstudy.storage.state_file import learner_id, learner_ids, read, state_types, write
from quickstudy.storage.tree_json import pack_state, tensor_kind, unpack_state

KEY = "quickstudy.mapping"  # of our entry in the metadata of a safetensors file
FILE = re.compile(r"(?P<name>.+)@(?P<version>[1-9]\d*)\.safetensors")
ATTENTION_FILE = "attention.json"
DEFAULT_TEMPERATURE = 0.1


@dataclass(frozen=True)
class LearnedMapping:
    """The adapted state of one task.

    Examples:
        >>> from dataclasses import fields
        >>> [field.name for field in fields(LearnedMapping)][:5]
        ['name', 'version', 'state', 'embedding', 'fit']
    """

    name: str
    version: int  # from 1; a name that is added again gets the next
    state: Any  # of the learner
    embedding: Tensor  # (D,)  of the task
    fit: Mapping[str, float]  # the learner's metrics on the mapping's own support set
    facts: Mapping[str, Json]  # given to `add`: a description, class names, ...
    examples: int  # of the support set
    date: str
    sha256: str  # of the tensors
    path: Path


class Entry(NamedTuple):
    """A file of the library, without the state.

    Examples:
        >>> Entry(Path("a@1.safetensors"), error="truncated").error
        'truncated'
    """

    path: Path
    layout: str = ""  # how the state is nested, with all shapes
    embedding: Tensor | None = None  # (D,)
    error: str = ""  # why it cannot be used


class MappingStore:
    """The mappings of one learner in a folder, by name and version.

    A file is written as a whole or not at all. A warning names each file that is damaged; all
    others stay usable. An index file has what opening needs to know of each.

    Args:
        embedding: identifies the function that embeds tasks.

    Raises:
        CheckpointError: the mappings in the folder are of another base, or another embedding.

    Examples:
        >>> import quickstudy as qs, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = MappingStore(Path(folder), qs.MAML(qs.nets.MLP(4, 3)), "mean")
        ...     store.names(), store.temperature()
        ([], 0.1)
    """

    def __init__(self, folder: Path, learner: Learner[Any], embedding: Json):
        self.folder, self.learner, self.embedding = folder, learner, embedding
        self._types, self._ids = state_types(learner), learner_ids(learner)
        self.entries: dict[str, dict[int, Entry]] = {}
        records, files, is_stale = read_index(folder)
        known = len(records)
        for file in files:
            match = FILE.fullmatch(file)
            if match:
                versions = self.entries.setdefault(unquote(match["name"]), {})
                versions[int(match["version"])] = self._open(folder / file, records)
        if is_stale:
            append_records(folder, records.values(), afresh=True)
        else:
            append_records(folder, list(records.values())[known:])
        self._is_clean = False  # whether temporary files were deleted

    def names(self) -> list[str]:
        """Return the names whose last version can be read, in alphabetical order."""
        return sorted(name for name in self.entries if not self.last(name).error)

    def versions(self, name: str) -> list[int]:
        """Return the versions of a mapping, the oldest first."""
        self.require(name)
        return sorted(self.entries[name])

    def last(self, name: str) -> Entry:
        """Return the entry of the last version."""
        versions = self.entries[name]
        return versions[max(versions)]

    def require(self, name: str) -> None:
        """Raise a ValueError if there is no mapping of that name."""
        if name not in self.entries:
            hint = suggest(name, self.entries, "`names()` lists those there are.")
            raise ValueError(f"There is no mapping {name!r} in {self.folder}. {hint}")

    def require_version(self, name: str, version: int) -> None:
        """Raise a ValueError if the mapping has no such version."""
        versions = self.versions(name)
        if version not in versions:
            raise ValueError(
                f"{name!r} has no version {version}: give one of "
                f"{', '.join(map(str, versions))}."
            )

    def load(self, name: str, version: int | None = None) -> LearnedMapping:
        """Read and check a mapping; None is the last version."""
        version = self.versions(name)[-1] if version is None else version
        self.require_version(name, version)
        path = self.entries[name][version].path
        return self._mapping(path, *_read(path))

    def check_base(self) -> None:
        """Raise a CheckpointError if the learner's parameters have changed."""
        if learner_id(self.learner) != self._ids[0]:
            raise CheckpointError(
                "The learner's parameters have changed since this library was opened, so that "
                "the mappings in it mean nothing to it: load the parameters as they were, or "
                "begin a library in another folder."
            )

    def add(
        self,
        name: str,
        state: Any,
        embedding: Tensor,
        *,
        examples: int,
        fit: Mapping[str, float],
        facts: Mapping[str, Json],
    ) -> LearnedMapping:
        """Write the next version of a mapping."""
        tensors = {"embedding": embedding.cpu()}
        metadata: dict[str, Json] = {
            "name": name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "learner": self._ids[0],
            "embedding": self.embedding,
            "state": pack_state(state, "state", tensors, self._types),
            "examples": examples,
            "fit": dict(fit),
            "facts": {key: to_json(key, value) for key, value in facts.items()},
        }
        version = max(self.entries.get(name, {}), default=0) + 1
        while (path := self.folder / _file_name(name, version)).exists():
            version += 1  # of another process, or on a disk to which "A" and "a" are the same
        if not self._is_clean:
            self._delete_temporary_files()
            self._is_clean = True
        metadata = write(path, KEY, {**metadata, "version": version}, tensors)
        entry = Entry(path, self.layout(state), tensors["embedding"])
        self.entries.setdefault(name, {})[version] = entry
        append_records(self.folder, [self._record(path, metadata, entry)])
        return self._mapping(path, metadata, tensors)

    def remove(self, name: str, version: int) -> None:
        """Delete a version of a mapping from the disk."""
        path = self.entries[name][version].path
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"Cannot delete {path} ({error.strerror}): make its folder writable."
            ) from error
        del self.entries[name][version]
        if not self.entries[name]:
            del self.entries[name]

    def reopen(self, name: str) -> None:
        """Check the last version again."""
        version = max(self.entries[name])
        self.entries[name][version] = self._open(self.entries[name][version].path, {})

    def embedding_size(self) -> int | None:
        """Return the number of features of the embeddings; None if there is no mapping."""
        entries = (entry for versions in self.entries.values() for entry in versions.values())
        embeddings = (entry.embedding for entry in entries if entry.embedding is not None)
        return next((len(embedding) for embedding in embeddings), None)

    def layout(self, state: Any) -> str:
        """Return how a state is nested, with all shapes."""
        tensors: dict[str, Tensor] = {}
        nest = pack_state(state, "state", tensors, self._types) if state is not None else None
        kinds = {key: tensor_kind(tensor) for key, tensor in tensors.items()}
        return json.dumps([nest, kinds], sort_keys=True)

    def temperature(self) -> float:
        """Return the temperature that `save_temperature` wrote, or the default."""
        path = self.folder / ATTENTION_FILE
        try:
            return float(json.loads(path.read_bytes())["temperature"])
        except FileNotFoundError:
            return DEFAULT_TEMPERATURE
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Cannot read the temperature in {path} ({error}): delete the file, and call "
                "`fit_attention` again, or give a temperature."
            ) from error

    def save_temperature(self, temperature: float, n_tasks: int) -> None:
        """Write the temperature, and the number of tasks that it was fitted to."""
        path = self.folder / ATTENTION_FILE
        text = json.dumps({"temperature": temperature, "tasks": n_tasks})
        try:
            replace_file(path, f"{text}\n".encode())
        except OSError as error:
            raise write_error(path, error, "make the folder writable") from error

    def device(self) -> torch.device:
        """Return the learner's device."""
        return device_of(self.learner)

    def to_device(self, tree: Any) -> Any:
        """Move all tensors to the learner's device."""
        return tree_map(lambda leaf: leaf.to(self.device()), tree)

    def _open(self, path: Path, records: dict[str, Record]) -> Entry:
        """Return the entry of a file, which is read and put into `records` if it is not there.

        Raises:
            CheckpointError: it is of another base or embedding.
        """
        record = records.get(path.name)
        if record is None:
            try:
                metadata, tensors = _read(path)
                state = unpack_state(metadata["state"], tensors, self._types)
            except CheckpointError as error:
                warnings.warn(f"Left out: {error}", stacklevel=4)
                return Entry(path, error=str(error))
            entry = Entry(path, self.layout(state), tensors["embedding"])
            record = records[path.name] = self._record(path, metadata, entry)
        saved, current = record.learner, self._ids[0]
        if saved not in self._ids:
            raise CheckpointError(
                f"{path} was adapted from another base: a {saved['class']} whose parameters "
                f"have the sha256 {saved['sha256'][:12]}…, and this is a {current['class']} "
                f"with {current['sha256'][:12]}…. Open the library with the learner that its "
                "mappings were adapted from, or begin one in another folder."
            )
        if self.embedding != record.embedded_by:
            raise CheckpointError(
                f"{path} was embedded by {record.embedded_by}, and this library is opened "
                f"with {self.embedding}: give the `embed` that it was begun with."
            )
        return Entry(path, record.layout, record.embedding)

    def _record(self, path: Path, metadata: Mapping[str, Json], entry: Entry) -> Record:
        assert entry.embedding is not None
        made_of = metadata["learner"], metadata["embedding"]
        return Record(path.name, *made_of, entry.layout, entry.embedding)

    def _mapping(
        self, path: Path, metadata: Mapping[str, Json], tensors: Mapping[str, Tensor]
    ) -> LearnedMapping:
        tensors = self.to_device(dict(tensors))
        return LearnedMapping(
            metadata["name"],
            metadata["version"],
            unpack_state(metadata["state"], tensors, self._types),
            tensors["embedding"],
            metadata["fit"],
            metadata["facts"],
            metadata["examples"],
            metadata["date"],
            metadata["tensors"],
            path,
        )

    def _delete_temporary_files(self) -> None:
        """Delete the temporary files of additions that were interrupted."""
        with suppress(OSError):
            for path in self.folder.glob("*@*.safetensors*.tmp"):
                path.unlink()


def _read(path: Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    metadata, tensors = read(
        path,
        KEY,
        kind="mapping",
        writer="a MappingLibrary",
        again="Copy it again from where it came from, or remove the mapping and add it anew.",
    )
    expected = _file_name(metadata["name"], metadata["version"])
    if path.name != expected:
        raise CheckpointError(
            f"{path} has another name than {expected}, which the library gave it: "
            "rename it back."
        )
    return metadata, tensors


def _file_name(name: str, version: int) -> str:
    """Return the file name of a mapping, whose name is any text."""
    return f"{quote(name, safe=' ')}@{version}.safetensors"
