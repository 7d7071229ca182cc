"""Whether a batch of tasks is one: tensors of fitting shapes, weights and labels of classes."""

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core.task import Examples
from quickstudy.core.torch_private import in_transform, is_functorch_wrapped_tensor, tree_leaves


def require_well_formed(learner: nn.Module, tasks: Any) -> None:
    """Raise an error if the examples of a batch of tasks are malformed.

    Otherwise the loss of labels that are NaN, say, or of classes by their number, would be 0.
    Values are looked at on a CPU only: elsewhere that would wait for the device.

    Args:
        learner: if it has `classifies`, and that is true, labels must be rows of classes.
        tasks: of which those parts are checked that are `Examples`.

    Raises:
        ValueError: names what is wrong, and the remedy.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy import Examples, Task
        >>> learner = qs.PrototypicalNetwork(nn.Identity())
        >>> x, weight = torch.zeros(1, 2, 4), torch.ones(1, 2)
        >>> numbers = Examples(x, torch.tensor([[[0.0], [2.0]]]), weight)
        >>> try:
        ...     require_well_formed(learner, Task(numbers, numbers))
        ... except ValueError as error:
        ...     print(error)
        Labels are no rows of classes: give one-hot rows, such as F.one_hot(y, ways).float().
    """
    if isinstance(tasks, Examples) or not isinstance(tasks, tuple):
        return
    classifies = getattr(learner, "classifies", False)
    for part in tasks:
        if not isinstance(part, Examples):
            continue
        _require_shapes(part)
        y, weight = part.y, part.weight
        unseen = in_transform() or y.device.type != "cpu" or weight.device.type != "cpu"
        if unseen or is_functorch_wrapped_tensor(y):
            continue
        if not bool((weight >= 0).all()):
            raise ValueError("A weight is negative or NaN: give 0 for padding, 1 for examples.")
        if classifies:
            _require_labels(y, weight)


def _require_shapes(part: Examples) -> None:
    for name, leaf in [(n, leaf) for n in part._fields for leaf in _leaves(part, n)]:
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"`{name}` of the tasks is a {type(leaf).__name__}, not a tensor: convert it, "
                "such as by torch.as_tensor."
            )
        if leaf.layout != torch.strided:
            raise ValueError(f"`{name}` of the tasks is sparse: give {name}.to_dense().")
    y, weight = part.y, part.weight
    if weight.ndim != 2 or y.shape[:2] != weight.shape:
        raise ValueError(
            f"The tasks' weights are {tuple(weight.shape)} and their targets {tuple(y.shape)}: "
            "give targets (T, N, C) and a weight to each example, (T, N)."
        )
    for leaf in _leaves(part, "x"):
        if leaf.shape[:2] != weight.shape:
            raise ValueError(
                f"The tasks have {tuple(weight.shape)} weights and inputs {tuple(leaf.shape)}: "
                "give inputs (T, N, ...), one for each target."
            )


def _leaves(part: Examples, name: str) -> list[Any]:
    values = getattr(part, name)
    return [values] if values is None else tree_leaves(values)


def _require_labels(y: Tensor, weight: Tensor) -> None:
    y = torch.where((weight > 0).view(*weight.shape, *[1] * (y.ndim - 2)), y, 0)
    if y.isnan().any():
        raise ValueError("A label is NaN: give the example a class, or the weight 0.")
    if (y < 0).any() or (y.sum(-1) > 1.01).any():
        order = "put the axis of classes last, and " if y.ndim > 3 else ""
        raise ValueError(
            f"Labels are no rows of classes: {order}give one-hot rows, such as "
            "F.one_hot(y, ways).float()."
        )
