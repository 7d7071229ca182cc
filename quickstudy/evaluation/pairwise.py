"""Embeddings of inputs and similarities of pairs, outside of any task.

For learners that compare: `Embeds`, `ComparesEmbeddings` or `ComparesInputs` of
`quickstudy.capabilities`. Embeddings are compared by the learner's `similarity`, or else by
minus their squared distance.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from quickstudy.capabilities import (
    ComparesEmbeddings,
    ComparesInputs,
    Embeds,
    PredictsSimilarities,
)
from quickstudy.core.similarity import Similarity, compare, negative_squared_distance
from quickstudy.learner import Learner

State = TypeVar("State")
CHUNK = 256  # inputs that are embedded, and embeddings that are compared with others, at once


class LoopedLearner(Learner[State]):
    """A learner made of another, run task by task: its metrics are computed outside of torch.

    Examples:
        >>> LoopedLearner.execution
        'loop'
    """

    execution = "loop"

    def __init__(self, learner: Learner[Any]):
        super().__init__()
        self.learner = learner


def embed(learner: Learner[Any], x: Tensor) -> Tensor:
    """Return the embeddings (N, D) of inputs x (N, *features). Maps of features are flattened.

    Raises:
        ValueError: the learner does not embed.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> embed(learner, torch.ones(3, 2, 2)).shape
        torch.Size([3, 4])
    """
    if not isinstance(learner, Embeds):
        raise ValueError(
            f"{type(learner).__name__} has no module `embed` that makes embeddings: give a "
            "learner that compares, such as PrototypicalNetwork, or declare the capability "
            "`Embeds`."
        )
    return torch.cat([learner.embed(part).flatten(1) for part in x.split(CHUNK)])


def similarity(learner: Learner[Any], a: Tensor, b: Tensor) -> Tensor:
    """Return how similar two inputs are, row by row: (N, *features) twice -> (N,).

    Raises:
        ValueError: the learner does not compare.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> similarity(learner, torch.zeros(2, 3), torch.ones(2, 3)).tolist()
        [-3.0, -3.0]
    """
    if isinstance(learner, ComparesInputs):
        pairs = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
        return torch.cat([learner.pair_logits(*pair) for pair in pairs])
    similarity = _similarity_of_embeddings(learner)
    pair = vmap(lambda x, y: compare(similarity, x[None], y[None])[0, 0])
    return pair(embed(learner, a), embed(learner, b))


def similarities(learner: Learner[Any], a: Tensor, b: Tensor) -> Tensor:
    """Return how similar each of a (A, *features) is to each of b (B, *features): (A, B).

    Raises:
        ValueError: the learner does not compare.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.PrototypicalNetwork(torch.nn.Flatten())
        >>> similarities(learner, torch.zeros(1, 3), torch.ones(2, 3)).tolist()
        [[-3.0, -3.0]]
    """
    if isinstance(learner, ComparesInputs) and not isinstance(learner, Embeds):
        return torch.cat([learner.pair_logits(x.expand_as(b), b)[None] for x in a.split(1)])
    similarity, keys = _similarity_of_embeddings(learner), embed(learner, b)
    parts = embed(learner, a).split(CHUNK)
    return torch.cat([compare(similarity, part, keys) for part in parts])


def compares(learner: Learner[Any]) -> bool:
    """Return whether `similarity` accepts the learner.

    Examples:
        >>> import quickstudy as qs
        >>> compares(qs.PrototypicalNetwork(torch.nn.Flatten()))
        True
        >>> compares(qs.MAML(qs.nets.MLP(4, 3)))
        False
    """
    return isinstance(learner, Embeds | ComparesInputs)


def require_distance(learner: Learner[Any]) -> None:
    """Raise an error unless the learner's logits are similarities.

    Similarities can be compared across queries. Other logits rank the classes of one query, and
    say nothing about its distance to all of them.

    Raises:
        ValueError: the logits are no similarities.

    Examples:
        >>> import quickstudy as qs
        >>> require_distance(qs.PrototypicalNetwork(torch.nn.Flatten()))
    """
    if not isinstance(learner, PredictsSimilarities):
        raise ValueError(
            f"The logits of {type(learner).__name__} are no similarities, so they cannot tell "
            "what is far from every class: give a learner that predicts similarities, such as "
            "PrototypicalNetwork, or declare the capability `PredictsSimilarities`."
        )


def _similarity_of_embeddings(learner: Learner[Any]) -> Similarity:
    return (
        learner.similarity
        if isinstance(learner, ComparesEmbeddings)
        else negative_squared_distance
    )
