"""Softmax over support examples, of which some are padding."""

import torch
from torch import Tensor

from quickstudy.core.torch_private import all_tasks


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

    It is -inf for a class without a vote. Nothing underflows, and the derivative is finite. The
    cost is that of the votes that are not 0, so that of an example does not grow with classes.

    Examples:
        >>> log_votes(torch.zeros(1, 2), torch.eye(2, 3)).exp()
        tensor([[1., 1., 0.]])
    """
    voted = votes > 0
    if torch.compiler.is_compiling() or score.is_meta:  # the number of votes is not known
        terms = score[:, :, None] + torch.where(voted, votes, 1).log()  # (Q, S, C)
        terms = terms.masked_fill(~voted, torch.finfo(score.dtype).min)
        return terms.logsumexp(1).masked_fill(~voted.any(0), -torch.inf)
    most = max(1, int(all_tasks(voted.sum(1)).max()))  # classes that one example votes for
    classes = voted.byte().topk(most, 1).indices  # (S, K)
    votes, dtype = votes.gather(1, classes), score.dtype
    score = score.float() if dtype.itemsize < 4 else score  # sums of bfloat16 lose their terms
    terms = score[:, :, None] + torch.where(votes > 0, votes, 1).log()  # (Q, S, K)
    terms = terms.masked_fill(votes <= 0, torch.finfo(terms.dtype).min).flatten(1)
    classes = classes.flatten().expand_as(terms)
    limits = torch.finfo(terms.dtype)  # infinite scores have no differences
    highest = terms.new_full((len(score), voted.shape[1]), limits.min)
    highest = highest.scatter_reduce(1, classes, terms.detach(), "amax").clamp_max(limits.max)
    ratios = (terms - highest.gather(1, classes)).exp()
    total = torch.zeros_like(highest).scatter_add(1, classes, ratios)
    present = voted.any(0)
    logs = torch.where(total == 0, 1, total).log() + highest
    return logs.masked_fill(~present, -torch.inf).to(dtype)
