"""What a learner knows after examples, as one small file: safetensors, never unpickled.

The tensors of a state lie beside a JSON text that says how they are nested, which learner they
belong to (by sha256), and whatever else the writer has to say. Both are checked when read.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from quickstudy.core.task import Json
from quickstudy.learner import Learner
from quickstudy.storage.checkpoints import (
    _REMEDIES,
    CheckpointError,
    _class,
    _digest,
    _kind,
    _learner_state,
    _replace,
    _sync,
    _versions,
)

FORMAT = 1


def write(
    path: Path, key: str, about: Mapping[str, Json], tensors: Mapping[str, Tensor]
) -> dict[str, Json]:
    """Makes `path` such a file, in one instant, and returns what `read` will say of it.

    Args:
        key: of our entry in the metadata: one for each kind of file.

    Raises:
        CheckpointError: the disk refuses. A file that was there before is intact.
    """
    said: dict[str, Json] = {"format": FORMAT, "versions": _versions(), **about}
    said["tensors"] = fingerprint(tensors)
    said["sha256"] = _digest(said)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, safetensors.torch.save(dict(tensors), {key: json.dumps(said)}))
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            path.with_name(f"{path.name}.tmp").unlink()
        raise CheckpointError(
            f"Cannot write {path} ({error.strerror or error}): "
            f"{_REMEDIES.get(error.errno or 0, 'choose another place')}."
        ) from error
    return said


def read(
    path: Path, key: str, *, kind: str, writer: str, again: str
) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """What a file says of itself, checked, and its tensors.

    Args:
        kind: what the file should be, in words.
        writer: what writes such files, in words.
        again: what to do where the file is damaged, a sentence.

    Raises:
        CheckpointError: the file is missing, truncated or changed, or of another format.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no file {path}: name one that {writer} wrote."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): make it readable, or name another file."
        ) from error
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"][key])
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no {kind}, or it is truncated or damaged ({error}). {again}"
        ) from error
    except KeyError:
        raise CheckpointError(
            f"{path} is no {kind}: name a file that {writer} wrote."
        ) from None
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {about.get('format')}, and this version of quickstudy reads "
            f"format {FORMAT}: use the version that wrote it "
            f"({about.get('versions', {}).get('quickstudy', 'not said')})."
        )
    if about.get("sha256") != _digest(about) or about["tensors"] != fingerprint(tensors):
        raise CheckpointError(f"{path} was changed: its sha256 is another. {again}")
    return about, tensors


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {_kind(tensor)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def identity(learner: Learner[Any]) -> dict[str, Json]:
    """The class and the sha256 of the parameters and buffers."""
    return {"class": _class(learner), "sha256": fingerprint(_learner_state(learner)[0])}


# A state as JSON that names its tensors. Nothing is unpickled or imported: a NamedTuple is one
# that the file of the learner, or of a part of it, knows by that name.


def state_types(learner: Learner[Any]) -> dict[tuple[str, ...], Any]:
    """The NamedTuple classes known where the learner's classes are defined, by their name and
    fields."""
    owners = {kind.__module__ for part in learner.modules() for kind in type(part).__mro__}
    known = (thing for owner in sorted(owners) for thing in vars(sys.modules[owner]).values())
    kinds = (k for k in known if isinstance(k, type) and issubclass(k, tuple))
    return {(k.__name__, *getattr(k, "_fields")): k for k in kinds if hasattr(k, "_fields")}  # noqa: B009


def pack(
    tree: Any, name: str, tensors: dict[str, Tensor], types: Mapping[tuple[str, ...], Any]
) -> Json:
    """`tree` as JSON, its tensors moved to `tensors` under names that are paths."""

    def adaptation_trace(items: Mapping[str, Any]) -> dict[str, Json]:
        return {
            key: pack(part, f"{name}/{key}" if name else key, tensors, types)
            for key, part in items.items()
        }

    if isinstance(tree, Tensor) and name not in tensors:
        copy = tree.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        tensors[name] = copy
        return name
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": adaptation_trace(tree)}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields: dict[str, Any] = tree._asdict()  # pyright: ignore[reportAttributeAccessIssue]
        if (_class(tree), *fields) in types:
            return {"class": _class(tree), "fields": adaptation_trace(fields)}
    elif isinstance(tree, tuple):
        return {
            "tuple": list(
                adaptation_trace({str(i): part for i, part in enumerate(tree)}).values()
            )
        }
    raise CheckpointError(
        f"`{name or 'state'}` is a {_class(tree)}, which a file cannot hold: a state is made "
        "of tensors, dictionaries with text for keys, tuples, and NamedTuples defined at the "
        "top level of the learner's file."
    )


def unpack(
    nest: Json, tensors: Mapping[str, Tensor], types: Mapping[tuple[str, ...], Any]
) -> Any:
    """The inverse of `pack`."""
    match nest:
        case {"class": name, "fields": fields}:
            if (name, *fields) not in types:
                raise CheckpointError(
                    f"The state is a {name} of {', '.join(fields)}, which this version of the "
                    "learner does not have: use the version that saved it."
                )
            parts = {key: unpack(part, tensors, types) for key, part in fields.items()}
            return types[(name, *fields)](**parts)
        case {"dict": items}:
            return {key: unpack(part, tensors, types) for key, part in items.items()}
        case {"tuple": parts}:
            return tuple(unpack(part, tensors, types) for part in parts)
    return tensors[nest]
