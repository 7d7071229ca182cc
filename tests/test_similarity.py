"""Similarities against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import pairwise

from quickstudy.core import similarity
from quickstudy.core.similarity import ScaledSimilarity

pytestmark = pytest.mark.usefixtures("double")


def test_distances_and_cosines_are_those_of_scikit_learn():
    a, b = torch.randn(4, 3), torch.randn(5, 3)
    square = torch.tensor(pairwise.euclidean_distances(a, b, squared=True))
    cosine = torch.tensor(pairwise.cosine_similarity(a, b))
    torch.testing.assert_close(similarity.squared_distance(a, b), square)
    torch.testing.assert_close(similarity.negative_squared_distance(a, b), -square)
    torch.testing.assert_close(similarity.cosine_similarity(a, b), cosine)
    torch.testing.assert_close(ScaledSimilarity(scale=3.0)(a, b), 3 * cosine)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_positive_and_finite(scale: float):
    with pytest.raises(ValueError, match="give a positive number"):
        ScaledSimilarity(scale=scale)
