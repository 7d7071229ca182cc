"""The state of a learner after examples, as one small file: safetensors, never unpickled.

Beside the tensors lies a JSON text. It describes how they are nested, which learner they belong
to (by sha256), and whatever the writer adds. Both are checked when the file is read.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from quickstudy.core.task import Json
from quickstudy.storage import renamed
from quickstudy.storage.files import (
    CheckpointError,
    check_format,
    class_name,
    json_sha256,
    read_bytes,
    replace_file,
    versions,
    write_error,
)
from quickstudy.storage.learner_tensors import learner_tensors
from quickstudy.storage.tree_json import StateTypes, named_tuples, tensor_kind

FORMAT = 1


def write(
    path: Path, key: str, about: Mapping[str, Json], tensors: Mapping[str, Tensor]
) -> dict[str, Json]:
    """Replace the file `path` by tensors and a description, in one instant.

    Args:
        key: of the description in the metadata, one for each kind of file.

    Returns:
        The description, as `read` returns it.

    Raises:
        CheckpointError: the disk refuses. The old file is intact.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> list(write(path, "demo", {"name": "a"}, {"mean": torch.zeros(3)}))
        ['format', 'versions', 'name', 'tensors', 'sha256']
    """
    content: dict[str, Json] = {"format": FORMAT, "versions": versions(), **about}
    content["tensors"] = tensors_sha256(tensors)
    content["sha256"] = json_sha256(content)
    try:
        replace_file(path, safetensors.torch.save(dict(tensors), {key: json.dumps(content)}))
    except OSError as error:
        raise write_error(path, error, "choose another place") from error
    return content


def read(
    path: Path, key: str, *, kind: str, writer: str, again: str
) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Read and check a file.

    Args:
        kind: the kind of file, in words.
        writer: the writer of such files, in words.
        again: the remedy if the file is damaged, a sentence.

    Returns:
        The description and the tensors.

    Raises:
        CheckpointError: the file is missing, truncated or changed, or of another format.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> _ = write(path, "demo", {"name": "a"}, {"mean": torch.zeros(3)})
        >>> about, tensors = read(path, "demo", kind="demo", writer="`write`", again="")
        >>> about["name"], tensors
        ('a', {'mean': tensor([0., 0., 0.])})
    """
    data = read_bytes(
        path,
        missing=f"There is no file {path}: name one that {writer} wrote.",
        unreadable=", or name another file.",
    )
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
            f"{path} is no {kind}: name a file that {writer} wrote. {again}"
        ) from None
    check_format(about, str(path), FORMAT)
    if about.get("sha256") != json_sha256(about) or about["tensors"] != tensors_sha256(tensors):
        raise CheckpointError(f"{path} was changed: its sha256 is another. {again}")
    return about, tensors


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors with their names, dtypes and shapes.

    Examples:
        >>> import torch
        >>> tensors_sha256({"mean": torch.zeros(3)})[:12]
        'fb51c037bb6f'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor_kind(tensor)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def learner_id(learner: nn.Module) -> dict[str, Json]:
    """Return the class of a learner, and the sha256 of its parameters and buffers.

    Examples:
        >>> import quickstudy as qs
        >>> learner_id(qs.PrototypicalNetwork(qs.nets.MLP(2, 2)))["class"]
        'PrototypicalNetwork'
    """
    return learner_ids(learner)[0]


def learner_ids(learner: nn.Module) -> list[dict[str, Json]]:
    """Return every `learner_id` by which files may record a learner, today's first.

    Files of version 0.1.0 have the names of that version.

    Examples:
        >>> import quickstudy as qs
        >>> len(learner_ids(qs.PrototypicalNetwork(qs.nets.MLP(2, 2))))
        1
    """
    tensors, name = learner_tensors(learner)[0], class_name(learner)
    stored = renamed.stored_parameters(learner, tensors)
    digests = [tensors_sha256(tensors)]
    if any(old != today for today, old in stored.items()):
        digests.append(tensors_sha256({stored[key]: t for key, t in tensors.items()}))
    return [{"class": name, "sha256": digest} for digest in digests]


def state_types(learner: nn.Module) -> StateTypes:
    """Return the NamedTuple classes that a learner's states are made of, by name and fields.

    Names and fields of version 0.1.0 are there as well.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(qs.nets.MLP(2, 2))
        >>> state_types(learner)["Examples", "x", "y", "weight"] is qs.Examples
        True
    """
    return renamed.stored_kinds(learner, named_tuples(learner))
