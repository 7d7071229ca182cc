"""Attention and votes against loops over examples."""

import math

import pytest
import torch

from quickstudy.core.attention import attention, log_votes

pytestmark = pytest.mark.usefixtures("double")

WEIGHT = [2.0, 0.5, 0.0, 3.0]  # one example is padding


def test_an_example_of_weight_w_counts_like_w_examples():
    score = torch.randn(3, 4)
    result = attention(score, torch.tensor(WEIGHT))
    for q in range(3):
        terms = [w * math.exp(s) for w, s in zip(WEIGHT, score[q].tolist(), strict=True)]
        expected = torch.tensor(terms) / sum(terms)
        torch.testing.assert_close(result[q], expected)


def test_an_example_of_weight_2_is_an_example_twice():
    score = torch.randn(3, 4)
    doubled = attention(score, torch.tensor([1.0, 2.0, 1.0, 1.0]))
    twice = attention(score[:, [0, 1, 1, 2, 3]], torch.ones(5))
    torch.testing.assert_close(doubled[:, 1], twice[:, 1] + twice[:, 2])
    torch.testing.assert_close(doubled[:, [0, 2, 3]], twice[:, [0, 3, 4]])


def test_votes_are_sums_of_exponentials():
    score, votes = torch.randn(3, 4), torch.rand(4, 5)
    votes[1] = 0  # padding
    votes[:, 2] = 0  # a class without a vote
    result = log_votes(score, votes)
    for q in range(3):
        for c in range(5):
            total = sum(math.exp(score[q, s]) * votes[s, c].item() for s in range(4))
            assert result[q, c].exp().item() == pytest.approx(total)
