"""Softmax over support examples, of which some are padding."""

import torch
from torch import Tensor


def attention(score: Tensor, weight: Tensor) -> Tensor:
    """Return the softmax of scores (Q, S), each counted `weight` (S,) times: (Q, S); zeros if
    there is only padding.

    Examples:
        >>> attention(torch.zeros(1, 3), torch.tensor([1.0, 1.0, 0.0]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    present = weight > 0
    score = score + torch.where(present, weight, 1).log()
    lowest = torch.finfo(score.dtype).min  # a softmax of -inf alone is NaN
    return score.masked_fill(~present, lowest).softmax(-1) * present


def log_votes(score: Tensor, votes: Tensor) -> Tensor:
    """Return log of sum over examples of exp(score) * votes: (Q, S), (S, C) -> (Q, C).

    It is -inf for a class without a vote. Nothing underflows, and the derivative is finite.

    Examples:
        >>> log_votes(torch.zeros(1, 2), torch.eye(2, 3)).exp()
        tensor([[1., 1., 0.]])
    """
    voted = votes > 0
    terms = score[:, :, None] + torch.where(voted, votes, 1).log()  # (Q, S, C)
    terms = terms.masked_fill(~voted, torch.finfo(score.dtype).min)
    return terms.logsumexp(1).masked_fill(~voted.any(0), -torch.inf)
