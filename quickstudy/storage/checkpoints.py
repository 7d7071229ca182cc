"""Checkpoints: tensors in safetensors, everything else in JSON, nothing ever unpickled.

A checkpoint is a folder:

    run.json                        facts, versions, and the name, size and sha256 of:
    learner-1a2b3c4d.safetensors    the learner's parameters and buffers
    optimizer-5e6f7a8b.safetensors  the tensors of the optimizer's state

Tensor files are named after their contents and `run.json` is replaced last, in one rename.
So a process that is killed at any moment leaves the old checkpoint or the new one.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from quickstudy.core.task import Json
from quickstudy.storage import renamed
from quickstudy.storage.files import (
    CheckpointError,
    check_format,
    class_name,
    json_sha256,
    read_bytes,
    replace_file,
    sync_folder,
    to_json,
    versions,
    write_error,
)
from quickstudy.storage.learner_tensors import learner_tensors, plain_name, unwrapped
from quickstudy.storage.tree_json import pack, tensor_kind, unpack

FORMAT = 1
RUN_FILE = "run.json"
_TEMPORARY = r"(\.[0-9a-f]{8})?\.tmp"
_OURS = re.compile(
    rf"(learner|optimizer)-[0-9a-f]{{8}}\.safetensors({_TEMPORARY})?|run\.json{_TEMPORARY}"
)
# the entries of a schedule's state that are settings
_LENGTHS = {"T_max", "T_0", "T_mult", "total_steps", "total_iters", "step_size"}
_LENGTHS |= {"milestones", "_milestones"}


def save(
    folder: str | Path,
    learner: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    **facts: Json,
) -> None:
    """Write a checkpoint to `folder`. It replaces the old one as a whole.

    With several processes, save in one of them.

    Args:
        learner: a learner, or one inside DDP or `torch.compile`.
        facts: JSON that `load` returns, such as the step, the seed, the recipe.

    Raises:
        CheckpointError: a value is neither a tensor nor JSON, or the disk refuses. The old
            contents of `folder` are intact.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> folder = tempfile.mkdtemp()
        >>> qs.save(folder, qs.MAML(qs.nets.MLP(1, 1)), step=100)
        >>> qs.load(folder, qs.MAML(qs.nets.MLP(1, 1)))
        {'step': 100}
    """
    folder = Path(folder)
    tensors, tied = learner_tensors(learner)
    extra: dict[str, Tensor] = {}
    content: dict[str, Json] = {
        "format": FORMAT,
        "versions": versions(),
        "facts": {name: to_json(name, value) for name, value in facts.items()},
        "learner": {"class": class_name(unwrapped(learner)), "tied": tied},
        "optimizer": optimizer
        and {
            "class": class_name(optimizer),
            "parameters": _parameters(optimizer, learner),
            "state": pack(optimizer.state_dict(), "optimizer", extra),
        },
        "scheduler": scheduler
        and {
            "class": class_name(scheduler),
            "state": pack(scheduler.state_dict(), "scheduler", extra),
        },
    }
    files = {"learner": tensors} | ({"optimizer": extra} if extra else {})
    try:
        content["files"] = {label: _write(folder, label, files[label]) for label in files}
        content["sha256"] = json_sha256(content)
        replace_file(
            folder / RUN_FILE, f"{json.dumps(content, indent=1)}\n".encode()
        )  # commits
        sync_folder(folder.parent)
    except OSError as error:
        reason = write_error(f"the checkpoint {folder}", error, "choose another folder")
        raise CheckpointError(
            f"{reason} The checkpoint that was there before, if any, is intact."
        ) from error
    finally:
        _sweep(folder)


def load(
    folder: str | Path,
    learner: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
) -> dict[str, Json]:
    """Load a checkpoint into a learner, an optimizer and a scheduler.

    They must be built with the same settings as the saved ones.

    Returns:
        The facts that were saved with them.

    Raises:
        CheckpointError: a file is missing, truncated or changed, it has another format, or
            the objects do not fit. Nothing has been changed then.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> folder = tempfile.mkdtemp()
        >>> qs.save(folder, qs.MAML(qs.nets.MLP(1, 1)), step=100)
        >>> try:
        ...     qs.load(folder, qs.MAML(qs.nets.MLP(2, 1)))
        ... except qs.storage.CheckpointError as error:
        ...     print("another learner" in str(error))
        True
    """
    folder = Path(folder)
    content = _read(folder)
    files: dict[str, Json] = content["files"]

    described, stored_ties = files["learner"]["tensors"], content["learner"]["tied"]
    current, ties = learner_tensors(learner)
    today = renamed.parameters(learner, [*described, *stored_ties], [*current, *ties])
    tensors = {today[n]: tensor for n, tensor in _tensors(folder, files["learner"]).items()}
    kinds = {today[name]: kind for name, kind in described.items()}
    tied = {today[name]: today[owner] for name, owner in stored_ties.items()}
    here = {name: tensor_kind(tensor) for name, tensor in current.items()} | ties
    _check_learner(folder, here, kinds | tied)
    tensors |= {name: tensors[owner] for name, owner in tied.items()}

    extra: dict[str, Tensor] = {}
    if "optimizer" in files and (optimizer is not None or scheduler is not None):
        extra = _tensors(folder, files["optimizer"])
    for label, target in ("optimizer", optimizer), ("scheduler", scheduler):
        if target is not None:
            _check_class(folder, label, target, content[label])
    schedule = {} if scheduler is None else unpack(content["scheduler"]["state"], extra)
    if scheduler is not None:
        _check_schedule(folder, scheduler.state_dict(), schedule)
    if optimizer is not None:
        groups = content["optimizer"]["parameters"]
        groups = [[today.get(name, name) for name in group] for group in groups]
        if _parameters(optimizer, learner) != groups:
            raise CheckpointError(
                f"The optimizer holds other parameters, or in another order, than the one in "
                f"{folder}. Give it the parameters and groups that it had then."
            )
        optimizer.load_state_dict(unpack(content["optimizer"]["state"], extra))
    if scheduler is not None:
        scheduler.load_state_dict(schedule)
    bare = unwrapped(learner)
    bare.load_state_dict({key: tensors[plain_name(key)] for key in bare.state_dict()})
    return content["facts"]


def read_facts(folder: str | Path) -> dict[str, Json]:
    """Return the facts of a checkpoint without reading its tensors.

    Raises:
        CheckpointError: there is no checkpoint, or `run.json` is damaged.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> folder = tempfile.mkdtemp()
        >>> qs.save(folder, qs.MAML(qs.nets.MLP(1, 1)), step=3, seed=0)
        >>> qs.storage.read_facts(folder)
        {'step': 3, 'seed': 0}
    """
    return _read(Path(folder))["facts"]


def read_versions(folder: str | Path) -> dict[str, str]:
    """Return the versions of quickstudy and torch that wrote a checkpoint.

    Raises:
        CheckpointError: as `read_facts`.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> folder = tempfile.mkdtemp()
        >>> qs.save(folder, qs.MAML(qs.nets.MLP(1, 1)))
        >>> list(read_versions(folder))
        ['quickstudy', 'torch']
    """
    return _read(Path(folder))["versions"]


def _parameters(optimizer: Optimizer, learner: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in every group. They identify an optimizer."""
    names = {id(p): plain_name(key) for key, p in unwrapped(learner).named_parameters()}
    return [
        [names.get(id(p), f"not the learner's: {tensor_kind(p)}") for p in group["params"]]
        for group in optimizer.param_groups
    ]


def _check_learner(folder: Path, here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raise unless two learners have the same names, each of one kind or owner."""
    wrong = {
        "it lacks": [name for name in here if name not in there],
        "it has in excess": [name for name in there if name not in here],
        "other are": [
            f"{name} ({there[name]} there, {here[name]} here)"
            for name in here
            if name in there and there[name] != here[name]
        ],
    }
    if any(wrong.values()):
        reasons = (f"{what} {_some(names)}" for what, names in wrong.items() if names)
        raise CheckpointError(
            f"The checkpoint {folder} is of another learner than this: {'; '.join(reasons)}. "
            "Build the learner with the settings and the dtype that it was saved with."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _check_class(folder: Path, label: str, target: object, saved: Json) -> None:
    if saved is None:
        raise CheckpointError(f"The checkpoint {folder} has no {label}: load it without one.")
    if class_name(target) not in (saved["class"], renamed.OPTIMIZERS.get(saved["class"])):
        raise CheckpointError(
            f"The {label} of the checkpoint {folder} is of class {saved['class']}, not "
            f"{class_name(target)}: make one of that class, or load without it."
        )


def _check_schedule(folder: Path, here: dict[str, Any], there: dict[str, Any]) -> None:
    """Raise if two schedules have other lengths: loading would keep the stored one's."""
    for name in sorted(_LENGTHS & here.keys() & there.keys()):
        if here[name] != there[name]:
            raise CheckpointError(
                f"The schedule of the checkpoint {folder} has {name}={there[name]}, and this "
                f"one has {here[name]}: build it as it was then, or load without it."
            )
    for parts in zip(here.get("_schedulers", ()), there.get("_schedulers", ()), strict=False):
        _check_schedule(folder, *parts)


# Files


def _write(folder: Path, label: str, tensors: Mapping[str, Tensor]) -> dict[str, Json]:
    """Write the tensors to a file named after its contents, and describe it."""
    layout = torch.contiguous_format
    copies = {  # so that no two share memory, which the file format cannot express
        name: tensor.detach().to("cpu", copy=True, memory_format=layout)
        for name, tensor in tensors.items()
    }
    data = safetensors.torch.save(copies)
    digest = hashlib.sha256(data).hexdigest()
    name = f"{label}-{digest[:8]}.safetensors"
    replace_file(folder / name, data)
    kinds = {key: tensor_kind(tensor) for key, tensor in tensors.items()}
    return {"name": name, "size": len(data), "sha256": digest, "tensors": kinds}


def _sweep(folder: Path) -> None:
    """Delete the files of older saves, and of saves that were cut short."""
    names: Iterable[str] = ()
    if (folder / RUN_FILE).exists():
        try:
            names = {file["name"] for file in _read(folder)["files"].values()}
        except CheckpointError:
            return  # the owner of the files is unknown
    with suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in names:
                path.unlink()


_AGAIN = "Copy it again from where it came from, or use another checkpoint."


def _read(folder: Path) -> dict[str, Json]:
    """Return the contents of `run.json`, checked."""
    path = folder / RUN_FILE
    missing = f"There is no checkpoint in {folder}: name a folder that has a {RUN_FILE}."
    try:
        data = read_bytes(path, missing=missing, unreadable=", or name another folder.")
        content = json.loads(data)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is no JSON. {_AGAIN}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} is not of a checkpoint: name another folder.")
    check_format(content, f"The checkpoint {folder}", FORMAT)
    if content.get("sha256") != json_sha256(content):
        raise CheckpointError(f"{path} is damaged: its sha256 is another. {_AGAIN}")
    return content


def _tensors(folder: Path, file: Json) -> dict[str, Tensor]:
    """Return the tensors of a file that `run.json` describes, checked."""
    path = folder / file["name"]
    data = read_bytes(path, missing=f"{path} is missing. {_AGAIN}", unreadable=f". {_AGAIN}")
    if len(data) != file["size"]:
        raise CheckpointError(
            f"{path} is damaged: it has {len(data)} bytes, not {file['size']}. {_AGAIN}"
        )
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise CheckpointError(f"{path} is damaged: its sha256 is another. {_AGAIN}")
    return safetensors.torch.load(data)
