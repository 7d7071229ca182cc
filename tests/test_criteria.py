"""Criteria and metrics against scikit-learn, torch.distributions and loops."""

import pytest
import torch
from sklearn import metrics
from torch.distributions import Normal

import quickstudy as qs
from quickstudy.core.criteria import weighted_mean

pytestmark = pytest.mark.usefixtures("double")

WEIGHT = torch.tensor([1.0, 3.0, 0.0, 0.5, 2.0])


def examples(y: torch.Tensor) -> qs.Examples:
    return qs.Examples(torch.zeros(len(y), 1), y, WEIGHT.to(y))


def test_a_weighted_mean_of_nothing_is_0():
    assert weighted_mean(torch.randn(3), torch.zeros(3)) == 0


def test_cross_entropy_and_accuracy_are_those_of_scikit_learn():
    logits, label = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 2])
    task = examples(torch.eye(3)[label])
    expected = metrics.log_loss(label, logits.softmax(-1), sample_weight=WEIGHT)
    assert qs.cross_entropy(logits, task).item() == pytest.approx(expected)
    expected = metrics.accuracy_score(label, logits.argmax(-1), sample_weight=WEIGHT)
    assert qs.core.accuracy(logits, task).item() == pytest.approx(expected)


def test_squared_error_is_a_sum_over_columns_and_a_mean_over_examples():
    prediction, y = torch.randn(5, 3), torch.randn(5, 3)
    columns = [
        metrics.mean_squared_error(y[:, c], prediction[:, c], sample_weight=WEIGHT)
        for c in range(3)
    ]
    result = qs.squared_error(prediction, examples(y)).item()
    assert result == pytest.approx(sum(columns))


def test_gaussian_nll_is_a_sum_over_columns_and_a_mean_over_examples():
    prediction = Normal(torch.randn(5, 3), torch.rand(5, 3) + 0.1)
    y = torch.randn(5, 3)
    nats = -prediction.log_prob(y).sum(-1)
    expected = (nats * WEIGHT).sum() / WEIGHT.sum()
    torch.testing.assert_close(qs.core.gaussian_nll(prediction, examples(y)), expected)
