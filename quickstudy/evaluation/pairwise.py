"""What a learner makes of inputs outside of any task: embeddings, and how alike two inputs are.

For learners that compare: those with a module `embed`, (N, *features) -> (N, D). How alike two
embeddings are is said by the learner's `similarity`, otherwise by minus their squared distance.
A learner may also have, instead of `embed`, a method `pair_logits` of two batches of inputs,
(N, *features) each, to (N,).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.core.similarity import Similarity, negative_squared_distance
from quickstudy.learner import Learner

CHUNK = 256  # inputs that are embedded, and embeddings that are compared with others, at once


def embed(learner: Learner[Any], x: Tensor) -> Tensor:
    """The embeddings (N, D) of inputs x (N, *features); maps of features are flattened.

    Raises:
        ValueError: the learner has no module `embed`.
    """
    net = _embedding(learner)
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} has no module `embed` that makes embeddings: give a "
            "learner that compares, such as PrototypicalNetwork."
        )
    return torch.cat([net(part).flatten(1) for part in x.split(CHUNK)])


def similarity(learner: Learner[Any], a: Tensor, b: Tensor) -> Tensor:
    """How alike two inputs are, pair by pair: (N, *features) twice -> (N,); more is more alike.

    Raises:
        ValueError: the learner does not compare.
    """
    own = _of_inputs(learner)
    if own is not None:
        pairs = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
        return torch.cat([own(*pair) for pair in pairs])
    compare = _of_embeddings(learner)
    pair = vmap(lambda x, y: compare(x[None], y[None])[0, 0])
    return pair(embed(learner, a), embed(learner, b))


def similarities(learner: Learner[Any], a: Tensor, b: Tensor) -> Tensor:
    """How alike every one of a (A, *features) is to every one of b (B, *features): (A, B).

    Raises:
        ValueError: the learner does not compare.
    """
    own = _of_inputs(learner)
    if own is not None and getattr(learner, "similarity", None) is None:
        return torch.cat([own(x.expand_as(b), b)[None] for x in a.split(1)])
    compare, those = _of_embeddings(learner), embed(learner, b)
    return torch.cat([compare(part, those) for part in embed(learner, a).split(CHUNK)])


def compares(learner: Learner[Any]) -> bool:
    """Whether `similarity` can be asked."""
    return _of_inputs(learner) is not None or isinstance(_embedding(learner), nn.Module)


def require_distance(learner: Learner[Any]) -> None:
    """Refuses a learner whose logits only say which class is nearest, and not how near.

    Those of learners that have a `similarity` or `pair_logits` are similarities, larger for what
    is more alike, and can be compared from query to query.

    Raises:
        ValueError: the learner has none.
    """
    if _of_inputs(learner) is None and not callable(getattr(learner, "similarity", None)):
        raise ValueError(
            f"The logits of {type(learner).__name__} are no similarities, so they cannot tell "
            "what is far from every class: give a learner that has a `similarity`, such as "
            "PrototypicalNetwork."
        )


def _embedding(learner: Learner[Any]) -> Any:
    return getattr(learner, "embed", None)


def _of_inputs(learner: Learner[Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
    return getattr(learner, "pair_logits", None)


def _of_embeddings(learner: Learner[Any]) -> Similarity:
    own = getattr(learner, "similarity", None)
    return negative_squared_distance if own is None else own
