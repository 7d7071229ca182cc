"""Values that a mask hides, dates and tensors are not taken as numbers in silence."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Flatten

import quickstudy as qs
from quickstudy.estimators import cluster

X = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]])
Y = np.array([0, 0, 1, 1])
MASK = np.arange(8).reshape(4, 2) == 3
ESTIMATORS = [
    qs.FewShotClassifier,
    qs.LifelongClassifier,
    qs.FewShotRegressor,
    qs.FewShotVerifier,
]


def use(model: Any, rows: Any) -> Any:
    if isinstance(model, qs.FewShotVerifier):
        return model.decision_function(rows, rows)
    return model.predict(rows)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ma.masked_array(X, MASK), "hides values by a mask"),
        (X.astype("datetime64[D]"), "dates or times"),
        (X.astype("timedelta64[s]"), "dates or times"),
    ],
)
def test_inputs_are_refused(estimator: Any, bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator().fit(bad, Y)
    model = estimator().fit(X, Y)
    with pytest.raises(ValueError, match=message):
        use(model, bad)
    with pytest.raises(ValueError, match=message):
        cluster(qs.PrototypicalNetwork(Flatten()), bad, 2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_hidden_labels_are_refused(estimator: Any) -> None:
    with pytest.raises(ValueError, match="y hides values by a mask"):
        estimator().fit(X, np.ma.masked_array(Y, [True, False, False, False]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_tensors_and_masks_that_hide_nothing_are_arrays(estimator: Any) -> None:
    expected = use(estimator().fit(X, Y), X)
    tensor = torch.tensor(X, dtype=torch.float32)
    for form in (tensor.bfloat16(), tensor.requires_grad_(), np.ma.masked_array(X)):
        np.testing.assert_allclose(use(estimator().fit(form, Y), form), expected, atol=1e-6)


def test_text_is_no_value() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        qs.FewShotRegressor().fit(X, np.array(["a", "b", "c", "d"]))
