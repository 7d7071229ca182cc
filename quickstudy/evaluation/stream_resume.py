"""Files that an interrupted evaluation of streams continues from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quickstudy.core.task import Examples, Json
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.evaluation.stream_measures import Row
from quickstudy.learner import Learner
from quickstudy.storage.files import CheckpointError, replace_file


def save_histories(
    path: Path, card: Mapping[str, Json], histories: list[list[Row]], state: Any
) -> None:
    """Write the rows and the state of streams, as a whole or not at all.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_histories(folder / "stream-1.safetensors", {}, [[]], {"a": torch.ones(1)})
        >>> [file.name for file in folder.iterdir()]
        ['stream-1.safetensors']
    """
    tensors = {f"{n:05d}": leaf.contiguous() for n, leaf in enumerate(leaves(state))}
    facts = {"card": json.dumps(card, sort_keys=True), "histories": json.dumps(histories)}
    replace_file(path, save(tensors, facts))


def load_histories(
    path: Path, card: Mapping[str, Json], learner: Learner[Any], support: Examples
) -> tuple[list[list[Row]], Any]:
    """Read what `save_histories` wrote.

    Args:
        path: the file.
        card: of the streams, which must be that of the file.
        learner: of the same class.
        support: the first experience of a stream, from which the structure of a state follows.

    Returns:
        The rows of every stream, and the state of all.

    Raises:
        CheckpointError: the file is damaged, or of other streams, or of another learner.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.FineTuning(torch.nn.Linear(2, 2))
        >>> examples = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> path = Path(tempfile.mkdtemp()) / "stream-1.safetensors"
        >>> save_histories(path, {"seed": 1}, [[{"number": 0}]], learner.adapt(examples))
        >>> histories, state = load_histories(path, {"seed": 1}, learner, examples)
        >>> histories, sorted(state)
        ([[{'number': 0}]], ['bias', 'weight'])
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = [file.get_tensor(name) for name in sorted(file.keys())]
        histories = json.loads(facts["histories"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it to start this stream again."
        ) from error
    if json.loads(facts["card"]) != json.loads(json.dumps(card)):
        raise CheckpointError(
            f"{path} is of other streams, or of another learner: choose another folder."
        )
    with evaluating(learner) as copy:  # for the structure of a state only
        like = copy.adapt(support.take(slice(1)))
    if len(leaves(like)) != len(tensors):
        raise CheckpointError(f"{path} is of another learner: choose another folder.")
    remaining = iter(tensors)

    def next_tensor(_: Tensor) -> Tensor:
        return next(remaining).to(support.x.device)

    return histories, tree_map(next_tensor, like)
