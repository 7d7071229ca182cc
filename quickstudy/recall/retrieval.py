"""Retrieval of past tasks: task embeddings, their index, and means of states."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds, HasInitialParams
from quickstudy.core.linear import nonzero
from quickstudy.core.task import Examples, Json
from quickstudy.core.tree import tree_map
from quickstudy.evaluation import pairwise
from quickstudy.learner import Learner
from quickstudy.recall.store import Entry
from quickstudy.recall.task_memory import flat
from quickstudy.storage.state_file import tensors_sha256

Embed = Callable[[Examples], Tensor]


class Index(NamedTuple):
    """The embeddings of many tasks as one matrix.

    Examples:
        >>> from pathlib import Path
        >>> entry = Entry(Path("a@1.safetensors"), "layout", torch.tensor([3.0, 4.0]))
        >>> index = build_index(["a"], [entry], torch.device("cpu"))
        >>> index.nearest(torch.tensor([1.0, 0.0]), 1)[0][0]
        'a'
    """

    names: list[str]
    rows: dict[str, int]  # by name
    directions: Tensor  # (M, D)  of the tasks' embeddings
    layouts: dict[str, int]
    layout: Tensor  # (M,)

    def nearest(
        self, direction: Tensor, k: int, mask: Tensor | None = None
    ) -> list[tuple[str, float]]:
        """Return the `k` names of the largest cosines, and these, the largest first.

        Args:
            direction: (D,) of length 1.
            mask: (M,) booleans, the tasks that may be returned. None: all.
        """
        cosines = self.directions @ direction
        if mask is not None:
            cosines, k = cosines.masked_fill(~mask, -torch.inf), min(k, int(mask.sum()))
        best, places = cosines.topk(min(k, len(cosines)))
        pairs = zip(places.tolist(), best.clamp(-1, 1).tolist(), strict=True)
        return [(self.names[place], cosine) for place, cosine in pairs]


def build_index(names: list[str], entries: list[Entry], device: torch.device) -> Index:
    """Return the index of entries by name.

    Examples:
        >>> build_index([], [], torch.device("cpu")).directions.shape
        torch.Size([0, 0])
    """
    distinct = dict.fromkeys(entry.layout for entry in entries)
    layouts = {layout: number for number, layout in enumerate(distinct)}
    embeddings = [entry.embedding for entry in entries if entry.embedding is not None]
    matrix = torch.stack(embeddings) if embeddings else torch.zeros(0, 0)
    return Index(
        names,
        {name: row for row, name in enumerate(names)},
        F.normalize(matrix, dim=-1).to(device),
        layouts,
        torch.tensor([layouts[entry.layout] for entry in entries], device=device),
    )


def task_embedding(learner: Learner[Any], support: Examples) -> Tensor:
    """Return the embedding (D,) of a task.

    It is the mean embedding of the examples if the learner has the capability `Embeds`, and the
    adapted minus the initial parameters if it has `HasInitialParams`.

    Raises:
        ValueError: the learner has neither.

    Examples:
        >>> import quickstudy as qs
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
        >>> support = Examples(x, torch.eye(2), torch.ones(2))
        >>> task_embedding(qs.PrototypicalNetwork(nn.Identity()), support).tolist()
        [2.0, 1.0]
    """
    if isinstance(learner, Embeds):
        share = support.weight / nonzero(support.weight.sum())
        return share @ pairwise.embed(learner, support.x)
    initial = initial_params(learner)
    if initial is not None:
        before, after = flat(initial), flat(learner.adapt(support))
        if before.shape == after.shape:
            return after - before
    raise ValueError(
        f"{type(learner).__name__} has neither a module `embed` nor initial_params() of the "
        "form of its states, by which its tasks could be compared: give the library a function "
        "`embed` of a support set to a vector, or declare the capability."
    )


def embedding_identity(embed: Embed | None) -> Json:
    """Return text that identifies an embedding of tasks: its name, and its parameters' digest.

    Examples:
        >>> embedding_identity(None)
        'task_embedding'
    """
    if isinstance(embed, nn.Module):
        return f"{type(embed).__name__} {tensors_sha256(dict(embed.state_dict()))[:12]}"
    named = task_embedding if embed is None else embed
    return getattr(named, "__qualname__", type(named).__name__)


def initial_params(learner: Learner[Any]) -> Any:
    """Return the learner's initial parameters; None if it has none.

    Examples:
        >>> import quickstudy as qs
        >>> initial_params(qs.PrototypicalNetwork(nn.Identity())) is None
        True
    """
    return learner.initial_params() if isinstance(learner, HasInitialParams) else None


def mean_state(shares: Tensor, states: Any) -> Any:
    """Return the mean of stacked states, weighted by shares (K,).

    Raises:
        ValueError: a tensor does not hold real numbers.

    Examples:
        >>> mean_state(torch.tensor([0.25, 0.75]), {"b": torch.tensor([[0.0], [4.0]])})
        {'b': tensor([3.])}
    """

    def mean(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            raise ValueError(
                f"The states have tensors of {leaf.dtype}, which have no mean: use `ensemble`, "
                "which averages predictions instead."
            )
        return torch.tensordot(shares.to(leaf.dtype), leaf, 1)

    return tree_map(mean, states)
