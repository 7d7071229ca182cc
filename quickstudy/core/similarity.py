"""Similarities of embeddings, on which learners that compare are built.

A similarity is any function, or module, of embeddings (A, D) and (B, D) to a number for every
pair of them (A, B), larger for more similar ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core.linear import double, nonzero
from quickstudy.core.parameters import log_parameter

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_EXACT = ContextVar("exact comparisons", default=False)
_SMALL = 2**17  # differences (A, B, D) that cost less than a product of matrices
_BLOCK = 2**20  # differences in memory at once


@contextmanager
def exact_comparisons() -> Iterator[None]:
    """Let `compare` compare in float64, as estimators do.

    Far from the origin, similarities to two classes can be equal in single precision.

    Examples:
        >>> import torch
        >>> with exact_comparisons():
        ...     compare(cosine_similarity, torch.eye(1), torch.eye(1)).dtype
        torch.float64
    """
    token = _EXACT.set(True)
    try:
        yield
    finally:
        _EXACT.reset(token)


def compare(similarity: Similarity, a: Tensor, b: Tensor) -> Tensor:
    """Return the similarities (A, B) of (A, D) and (B, D).

    Within `exact_comparisons` they are float64, unless the similarity is a module that may have
    weights of another dtype.

    Examples:
        >>> import torch
        >>> compare(cosine_similarity, torch.tensor([[2.0, 0.0]]), torch.eye(2))
        tensor([[1., 0.]])
    """
    inner = similarity
    while isinstance(inner, ScaledSimilarity):
        inner = inner.similarity
    exact = not torch.compiler.is_compiling() and _EXACT.get()  # no compiler reads it
    if exact and not isinstance(inner, nn.Module):
        a, b = double(a), double(b)
    return similarity(a, b)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distance of every row of (A, D) to every row of (B, D).

    Many rows are compared by a product of matrices, |a|² + |b|² - 2 a·b, in float64 and about
    the mean of `b`. Where that cancels, between rows that are nearly equal, the value is the
    sum of squared differences. So small distances are as exact as large ones.

    Returns:
        Distances (A, B).

    Examples:
        >>> import torch
        >>> squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(2, 2))
        tensor([[25., 25.]])
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    x, y = double(a), double(b)
    small = a.numel() * len(b) <= _SMALL
    # compilers fuse the differences with their sum; mps has no float64
    if small or torch.compiler.is_compiling() or x.dtype != torch.float64 or x.is_meta:
        return (a[:, None] - b[None]).square().sum(-1)
    origin = torch.where(y.isfinite(), y, 0).detach().mean(0)
    centred, others = x - origin, y - origin
    lengths = centred.square().sum(1)[:, None] + others.square().sum(1)
    square = lengths - 2 * centred @ others.T
    tolerance = 1e-3 if dtype == torch.float64 else 1e-6  # float64 has 16 digits
    cancelled = ~(square >= tolerance * lengths)  # of infinite numbers too
    return _Differences.apply(square, cancelled, x, y).to(dtype)


class _Differences(torch.autograd.Function):
    """Squared distances (..., A, B) by differences where they are `cancelled` (..., A, B), and
    as they are elsewhere. The derivative is theirs: it cancels far less."""

    @staticmethod
    def forward(square: Tensor, cancelled: Tensor, a: Tensor, b: Tensor) -> Tensor:
        exact = square.clone()
        rows = cancelled.flatten(0, -2).nonzero()  # (N, 2)  row of `a`, column
        for row, column in (part.T for part in rows.split(max(1, _BLOCK // a.shape[-1]))):
            other = row // a.shape[-2] * b.shape[-2] + column
            difference = a.flatten(0, -2)[row] - b.flatten(0, -2)[other]
            exact.flatten(0, -2)[row, column] = difference.square().sum(-1)
        return exact

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is needed for the derivatives."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return tangents[0].clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> Any:
        batched = [
            tensor.expand(info.batch_size, *tensor.shape)
            if axis is None
            else tensor.movedim(axis, 0)
            for tensor, axis in zip(tensors, in_dims, strict=True)
        ]
        return _Differences.apply(*batched), 0


def unit(x: Tensor) -> Tensor:
    """Return the rows of (N, D) with length 1, however small or large they are; 0 stays 0.

    Examples:
        >>> import torch
        >>> unit(torch.tensor([[3e-30, 4e-30], [3e30, 4e30]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000]])
    """
    # the squares of the entries neither underflow nor overflow
    return F.normalize(x / nonzero(x.detach().abs().amax(-1, keepdim=True)), dim=-1)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle of every row of (A, D) to every row of (B, D): (A, B).

    It is computed in float64, since far from the origin all cosines are nearly 1.

    Examples:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.eye(2))
        tensor([[1., 0.]])
    """
    return (unit(double(a)) @ unit(double(b)).T).to(a.dtype)


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return minus the squared Euclidean distance of every row to every row: (A, B).

    Examples:
        >>> import torch
        >>> negative_squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([[-25.]])
    """
    return -squared_distance(a, b)


class ScaledSimilarity(nn.Module):
    """A similarity times a learned factor, the inverse of a temperature.

    Cosines need one: between -1 and 1, they are too close together for a softmax.

    Args:
        scale: the initial factor, above 0; learning keeps it above 0.

    Examples:
        >>> import torch
        >>> similarity = ScaledSimilarity(scale=10.0)
        >>> similarity(torch.eye(2), torch.eye(2)).round()
        tensor([[10.,  0.],
                [ 0., 10.]], grad_fn=<RoundBackward0>)
    """

    def __init__(self, similarity: Similarity = cosine_similarity, scale: float = 10.0):
        super().__init__()
        self.similarity, self.log_scale = similarity, log_parameter("scale", scale)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(A, D), (B, D) -> (A, B)."""
        return self.log_scale.exp() * self.similarity(a, b)
