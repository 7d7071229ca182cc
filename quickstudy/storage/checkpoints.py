"""Checkpoints: tensors in safetensors, everything else in JSON, nothing ever unpickled.

A checkpoint is a folder:

    run.json                        facts, versions, and the name, size and sha256 of:
    learner-1a2b3c4d.safetensors    the learner's parameters and buffers
    optimizer-5e6f7a8b.safetensors  the tensors of the optimizer's state

Tensor files are named after their contents and `run.json` is replaced last, in one rename.
So a process that is killed at any moment leaves the old checkpoint or the new one.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from quickstudy.core.task import Json

FORMAT = 1
_RUN = "run.json"
_STEP = "step-" + 8 * "[0-9]"
_OURS = re.compile(r"(learner|optimizer)-[0-9a-f]{8}\.safetensors(\.tmp)?|run\.json\.tmp")


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message says why and what to do."""


def save(
    folder: str | Path,
    learner: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    **facts: Json,
) -> None:
    """Writes a checkpoint to `folder`, replacing the one that is there as a whole.

    With several processes, save in one of them.

    Args:
        learner: a learner, or one inside DDP or `torch.compile`.
        facts: what `load` is to return: the step, the seed, the recipe.

    Raises:
        CheckpointError: something is neither tensor nor JSON, or the disk refuses. What was
            in `folder` before is intact.
    """
    folder = Path(folder)
    tensors, tied = _learner_state(learner)
    extra: dict[str, Tensor] = {}
    content: dict[str, Json] = {
        "format": FORMAT,
        "versions": _versions(),
        "facts": {name: _json(name, value) for name, value in facts.items()},
        "learner": {"class": _class(_bare(learner)), "tied": tied},
        "optimizer": optimizer
        and {
            "class": _class(optimizer),
            "parameters": _parameters(optimizer, learner),
            "state": _pack(optimizer.state_dict(), "optimizer", extra),
        },
        "scheduler": scheduler
        and {
            "class": _class(scheduler),
            "state": _pack(scheduler.state_dict(), "scheduler", extra),
        },
    }
    files = {"learner": tensors} | ({"optimizer": extra} if extra else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content["files"] = {label: _write(folder, label, files[label]) for label in files}
        _sync(folder)
        content["sha256"] = _digest(content)
        _replace(folder / _RUN, (json.dumps(content, indent=1) + "\n").encode())  # the commit
        _sync(folder)
        _sync(folder.parent)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the checkpoint {folder} ({error.strerror or error}): "
            f"{_REMEDIES.get(error.errno or 0, 'choose another folder')}. "
            "The checkpoint that was there before, if any, is intact."
        ) from error
    finally:
        _sweep(folder)


def load(
    folder: str | Path,
    learner: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
) -> dict[str, Json]:
    """Puts what `save` wrote into a learner, optimizer and scheduler made as they were then.

    Returns:
        The facts that were saved with them.

    Raises:
        CheckpointError: a file is missing, truncated or changed, the format is another, or
            the objects do not fit. Nothing has been changed then.
    """
    folder = Path(folder)
    content = _read(folder)
    files: dict[str, Json] = content["files"]

    tensors = _tensors(folder, files["learner"])
    tied: dict[str, str] = content["learner"]["tied"]
    _check_learner(folder, learner, files["learner"]["tensors"], tied)
    tensors |= {name: tensors[owner] for name, owner in tied.items()}

    extra: dict[str, Tensor] = {}
    if "optimizer" in files and (optimizer is not None or scheduler is not None):
        extra = _tensors(folder, files["optimizer"])
    for label, given in ("optimizer", optimizer), ("scheduler", scheduler):
        if given is not None:
            _check_class(folder, label, given, content[label])
    if optimizer is not None:
        if _parameters(optimizer, learner) != content["optimizer"]["parameters"]:
            raise CheckpointError(
                f"The optimizer holds other parameters, or in another order, than the one in "
                f"{folder}. Give it the parameters and groups that it had then."
            )
        optimizer.load_state_dict(_unpack(content["optimizer"]["state"], extra))
    if scheduler is not None:
        scheduler.load_state_dict(_unpack(content["scheduler"]["state"], extra))
    bare = _bare(learner)
    bare.load_state_dict({key: tensors[_name(key)] for key in bare.state_dict()})
    return content["facts"]


def read_facts(folder: str | Path) -> dict[str, Json]:
    """The facts of a checkpoint, without its tensors.

    Raises:
        CheckpointError: there is none, or `run.json` is damaged.
    """
    return _read(Path(folder))["facts"]


class Checkpoints:
    """The checkpoints of one run, in `folder/step-00001000` and so on.

    The last `keep` stay, and the best; a folder whose save was cut short does not count.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(
                f"keep={keep} would keep no checkpoint to resume from: give 1 or more."
            )
        self.folder, self.keep = Path(folder), keep

    def save(
        self,
        step: int,
        learner: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: LRScheduler | None = None,
        *,
        score: float | None = None,
        **facts: Json,
    ) -> Path:
        """Writes the checkpoint of `step`, with the facts `step` and `score`, then deletes
        those no longer wanted. The best is that of the highest score.

        Raises:
            CheckpointError: as `save`; or the folder has checkpoints of later steps.
        """
        path = self.folder / f"step-{step:08d}"
        latest = self.latest()
        if latest is not None and latest.name > path.name:
            raise CheckpointError(
                f"{self.folder} has a later checkpoint, {latest.name}: resume from that, "
                "delete it, or choose another folder."
            )
        save(path, learner, optimizer, scheduler, step=step, score=score, **facts)
        self._prune()
        return path

    def latest(self) -> Path | None:
        """The checkpoint of the last step, if there is any."""
        return max(self._complete(), default=None)

    def best(self) -> Path | None:
        """The checkpoint of the highest score (the earliest of equals), if one has a score."""
        scores: dict[Path, float] = {}
        for path in self._complete():
            with suppress(CheckpointError):  # a damaged one is not the best
                score = read_facts(path).get("score")
                if score is not None and not math.isnan(score):
                    scores[path] = score
        return max(scores, key=lambda path: scores[path], default=None)

    def _complete(self) -> list[Path]:
        """The checkpoints, in the order of their steps."""
        return sorted(run.parent for run in self.folder.glob(f"{_STEP}/{_RUN}"))

    def _prune(self) -> None:
        wanted = {*self._complete()[-self.keep :], self.best()}
        for path in set(self.folder.glob(_STEP)) - wanted:
            with suppress(OSError):
                (path / _RUN).unlink(missing_ok=True)  # first: what is left counts no more
                shutil.rmtree(path)


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


def _versions() -> dict[str, str]:
    from quickstudy import __version__  # which itself imports this module

    return {"quickstudy": __version__, "torch": str(torch.__version__)}


def _class(thing: object) -> str:
    return type(thing).__name__


def _json(name: str, value: Json) -> Json:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The fact `{name}` is no JSON ({error}): "
            "give numbers, text, and lists and dictionaries of these."
        ) from error


# The learner, the optimizer and the scheduler as named tensors and JSON


def _bare(learner: nn.Module) -> nn.Module:
    """The learner itself, out of DDP and `torch.compile`."""
    if isinstance(learner, DistributedDataParallel | nn.DataParallel):
        return _bare(learner.module)
    compiled = learner._modules.get("_orig_mod")
    return learner if compiled is None else _bare(compiled)


def _name(key: str) -> str:
    """A name that is the same whether or not a part of the learner is compiled."""
    return key.replace("_orig_mod.", "")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _learner_state(learner: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name; and for names that are tied to another's tensor, that name."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[int, str] = {}
    for key, tensor in _bare(learner).state_dict(keep_vars=True).items():
        name = _name(key)
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"`{name}` in the learner's state_dict is a {_class(tensor)}, not a tensor: "
                "make it a buffer."
            )
        if hasattr(tensor, "full_tensor"):
            raise CheckpointError(
                f"`{name}` is sharded over processes, by `fully_shard`: save with "
                "torch.distributed.checkpoint, or train under DDP."
            )
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            tensors[name] = tensor
        else:
            tied[name] = owner
    return tensors, tied


def _parameters(optimizer: Optimizer, learner: nn.Module) -> list[list[str]]:
    """The names of the parameters in every group, by which two optimizers are compared."""
    names = {id(p): _name(key) for key, p in _bare(learner).named_parameters()}
    return [
        [names.get(id(p), f"not the learner's: {_kind(p)}") for p in group["params"]]
        for group in optimizer.param_groups
    ]


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Json:
    """`value` as JSON, its tensors moved to `tensors` under their paths."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = [(key, _pack(part, f"{path}.{key}", tensors)) for key, part in value.items()]
        if isinstance(value, Counter):  # the milestones of MultiStepLR
            return {"$counter": items}
        # keys that are numbers would come back from JSON as text
        return dict(items) if all(isinstance(key, str) for key in value) else {"$dict": items}
    if isinstance(value, list | tuple):
        parts = [_pack(part, f"{path}.{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"`{path}` is a {_class(value)}, which a checkpoint cannot hold: it takes tensors, "
        "numbers, text, and lists and dictionaries of these."
    )


def _unpack(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    match value:
        case {"$tensor": path}:
            return tensors[path]
        case {"$counter": items}:
            return Counter({key: _unpack(part, tensors) for key, part in items})
        case {"$dict": items}:
            return {key: _unpack(part, tensors) for key, part in items}
        case {"$tuple": parts}:
            return tuple(_unpack(part, tensors) for part in parts)
        case dict():
            return {key: _unpack(part, tensors) for key, part in value.items()}
        case list():
            return [_unpack(part, tensors) for part in value]
    return value


def _check_learner(
    folder: Path, learner: nn.Module, saved: dict[str, str], tied: dict[str, str]
) -> None:
    tensors, own_tied = _learner_state(learner)
    own = {name: _kind(tensor) for name, tensor in tensors.items()}
    there, here = {**saved, **tied}, {**own, **own_tied}
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
        says = "; ".join(f"{what} {_some(names)}" for what, names in wrong.items() if names)
        raise CheckpointError(
            f"The checkpoint {folder} is of another learner than this: {says}. "
            "Build the learner with the settings and the dtype that it was saved with."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _check_class(folder: Path, label: str, given: object, saved: Json) -> None:
    if saved is None:
        raise CheckpointError(f"The checkpoint {folder} has no {label}: load it without one.")
    if saved["class"] != _class(given):
        raise CheckpointError(
            f"The {label} of the checkpoint {folder} is of class {saved['class']}, not "
            f"{_class(given)}: make one of that class, or load without it."
        )


# Files


def _write(folder: Path, label: str, tensors: Mapping[str, Tensor]) -> dict[str, Json]:
    """Writes the tensors to a file named after its contents, and describes it."""
    layout = torch.contiguous_format
    copies = {  # so that no two share memory, which the file format cannot express
        name: tensor.detach().to("cpu", copy=True, memory_format=layout)
        for name, tensor in tensors.items()
    }
    data = safetensors.torch.save(copies)
    digest = hashlib.sha256(data).hexdigest()
    name = f"{label}-{digest[:8]}.safetensors"
    _replace(folder / name, data)
    kinds = {key: _kind(tensor) for key, tensor in tensors.items()}
    return {"name": name, "size": len(data), "sha256": digest, "tensors": kinds}


def _replace(path: Path, data: bytes) -> None:
    """Makes `path` a file of `data`, in one instant."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync(folder: Path) -> None:
    """Makes the names in a folder outlive a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Deletes what older saves, or saves cut short, left beside the checkpoint."""
    names: Iterable[str] = ()
    if (folder / _RUN).exists():
        try:
            names = {file["name"] for file in _read(folder)["files"].values()}
        except CheckpointError:
            return  # whose files these are cannot be known
    with suppress(OSError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in names:
                path.unlink()


def _digest(content: dict[str, Json]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


_AGAIN = "Copy it again from where it came from, or use another checkpoint."


def _read(folder: Path) -> dict[str, Json]:
    """What `run.json` says, checked."""
    path = folder / _RUN
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no checkpoint in {folder}: name a folder that has a {_RUN}."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): make it readable, or name another folder."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is no JSON. {_AGAIN}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} is not of a checkpoint: name another folder.")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"The checkpoint {folder} has format {content['format']}, and this version of "
            f"quickstudy reads format {FORMAT}: use the version that wrote it "
            f"({content.get('versions', {}).get('quickstudy', 'not said')})."
        )
    if content.get("sha256") != _digest(content):
        raise CheckpointError(f"{path} is damaged: its sha256 is another. {_AGAIN}")
    return content


def _tensors(folder: Path, file: Json) -> dict[str, Tensor]:
    """The tensors of a file that `run.json` describes, checked."""
    path = folder / file["name"]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. {_AGAIN}") from None
    except OSError as error:
        raise CheckpointError(
            f"Cannot read {path} ({error.strerror}): make it readable. {_AGAIN}"
        ) from error
    if len(data) != file["size"]:
        raise CheckpointError(
            f"{path} is damaged: it has {len(data)} bytes, not {file['size']}. {_AGAIN}"
        )
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise CheckpointError(f"{path} is damaged: its sha256 is another. {_AGAIN}")
    return safetensors.torch.load(data)
