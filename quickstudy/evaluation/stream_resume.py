"""Files that an interrupted evaluation of streams continues from."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Json
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.stream_measures import Row
from quickstudy.learner import Learner
from quickstudy.storage import state_file
from quickstudy.storage.files import CheckpointError, to_json
from quickstudy.storage.tree_json import pack_state, unpack_state

KIND = "stream"


def save_histories(
    path: Path,
    key: Mapping[str, Json],
    learner: Learner[Any],
    histories: list[list[Row]],
    state: Any,
) -> None:
    """Write the rows and the state of streams, as a whole or not at all.

    Args:
        path: the file.
        key: all that the rows depend on, by what it is called in an error message.
        learner: whose state it is.
        histories: the rows of every stream.
        state: of all streams, after the last row.

    Raises:
        CheckpointError: the disk refuses, or the state is no nest of tensors.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import quickstudy as qs
        >>> path = Path(tempfile.mkdtemp()) / "stream-1.safetensors"
        >>> learner = qs.FineTuning(torch.nn.Linear(2, 2))
        >>> save_histories(path, {"seed": 1}, learner, [[{"number": 0}]], {"a": torch.ones(1)})
        >>> load_histories(path, {"seed": 1}, learner)
        ([[{'number': 0}]], {'a': tensor([1.])})
    """
    tensors: dict[str, Any] = {}
    nest = pack_state(state, "state", tensors, state_file.state_types(learner))
    about = {"key": dict(key), "histories": histories, "state": nest}
    state_file.write(path, KIND, about, tensors)


def load_histories(
    path: Path, key: Mapping[str, Json], learner: Learner[Any]
) -> tuple[list[list[Row]], Any]:
    """Read what `save_histories` wrote.

    Returns:
        The rows of every stream, and the state of all, on the learner's device.

    Raises:
        CheckpointError: the file is damaged, or its key is another.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import quickstudy as qs
        >>> path = Path(tempfile.mkdtemp()) / "stream-1.safetensors"
        >>> learner = qs.FineTuning(torch.nn.Linear(2, 2))
        >>> save_histories(path, {"seed": 1}, learner, [[]], {"a": torch.ones(1)})
        >>> try:
        ...     load_histories(path, {"seed": 2}, learner)
        ... except CheckpointError as error:
        ...     print(str(error).partition(" was ")[2])
        measured with another seed: choose another folder, or delete that file.
    """
    about, tensors = state_file.read(
        path,
        KIND,
        kind="evaluation of a stream",
        writer="`evaluate_stream` of this version",
        again="Delete it to start this stream again.",
    )
    stored = about["key"]
    others = [name for name, value in key.items() if stored.get(name) != to_json(name, value)]
    if others:
        raise CheckpointError(
            f"{path} was measured with another {', '.join(others)}: choose another folder, or "
            "delete that file."
        )
    state = unpack_state(about["state"], tensors, state_file.state_types(learner))
    device = device_of(learner)
    return about["histories"], tree_map(lambda leaf: leaf.to(device), state)


def can_continue(path: Path) -> bool:
    """Return whether there is a file to continue from.

    Version 0.1.0 did not store the learner that its rows are of. Its streams start again, with
    a warning.

    Examples:
        >>> can_continue(Path("stream-1.safetensors"))
        False
    """
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return True  # `load_histories` explains the error
    if KIND in metadata or "card" not in metadata:
        return True
    warnings.warn(
        f"{path} was written by version 0.1.0, which did not store the learner that it is of: "
        "this stream starts again.",
        stacklevel=3,
    )
    return False
