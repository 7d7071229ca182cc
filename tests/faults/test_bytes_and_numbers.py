"""Bytes are divided by 255 and other numbers are not: one estimator takes one of the two."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quickstudy as qs

DIGITS = qs.datasets.digits()
X, Y = DIGITS.x[:200].numpy(), DIGITS.y[:200].numpy()
OTHERS = ["i8", "u2", "i4", "f4", "f8"]
ESTIMATORS = [qs.FewShotClassifier, qs.LifelongClassifier, qs.FewShotRegressor]


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bytes_then_numbers(estimator: type[Any], dtype: str) -> None:
    model = estimator().fit(X, Y)
    with pytest.raises(ValueError, match=r"fitted on bytes, and X has .*: give bytes always"):
        model.predict(X.astype(dtype))
    with pytest.raises(ValueError, match="fitted on bytes"):
        model.partial_fit(X.astype(dtype), Y)
    np.testing.assert_array_equal(model.predict(X), model.predict(X))


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_numbers_then_bytes(estimator: type[Any], dtype: str) -> None:
    model = estimator().partial_fit(X.astype(dtype), Y)
    with pytest.raises(ValueError, match="fitted on numbers, and X has uint8"):
        model.predict(X)
    with pytest.raises(ValueError, match="fitted on numbers"):
        model.partial_fit(X, Y)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fractions_are_the_bytes_that_were_divided(estimator: type[Any], dtype: str) -> None:
    fractions = (X / 255.0).astype(dtype)
    a, b = estimator().fit(X, Y), estimator().fit(fractions, Y)
    for model in (a, b):
        np.testing.assert_allclose(model.predict(X), model.predict(fractions), atol=1e-4)
    np.testing.assert_allclose(a.predict(X), b.predict(X), atol=1e-4)


def test_numbers_that_are_learned_later_count() -> None:
    model = qs.LifelongClassifier().fit(X / 255.0, Y)
    model.predict(X)
    model.partial_fit(X.astype("f8"), Y)
    with pytest.raises(ValueError, match="fitted on numbers"):
        model.predict(X)


def test_verifiers() -> None:
    verifier = qs.FewShotVerifier().fit(X[:50], Y[:50])
    with pytest.raises(ValueError, match="fitted on bytes"):
        verifier.predict(X.astype("i8"), X.astype("i8"))
    with pytest.raises(ValueError, match="fitted on bytes"):
        verifier.predict(X, X.astype("i8"))
    with pytest.raises(ValueError, match="fitted on bytes"):
        qs.FewShotVerifier().fit_pairs(X, X.astype("i8"), np.arange(200) % 2)


def test_a_loaded_model_remembers(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    qs.FewShotClassifier().fit(X, Y).save(path)
    with pytest.raises(ValueError, match="fitted on bytes"):
        qs.FewShotClassifier.load(path).predict(X.astype("i8"))


def test_a_fit_forgets() -> None:
    model = qs.FewShotClassifier().fit(X, Y).fit(X.astype("i8"), Y)
    model.predict(X.astype("f4"))


def test_tables_of_small_counts_stay_what_they_are() -> None:
    counts = np.arange(40).reshape(20, 2) % 7
    model = qs.FewShotClassifier().fit(counts, np.arange(20) % 2)
    np.testing.assert_array_equal(
        model.predict(counts.astype("i2")), model.predict(counts.astype("f8"))
    )
    with pytest.raises(ValueError, match="fitted on numbers"):
        model.predict(counts.astype("u1"))


MASKS = (X > 100).astype("u1")


@pytest.mark.parametrize("dtype", ["?", "f4", "f8"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bytes_of_a_mask_are_no_fractions(estimator: type[Any], dtype: str) -> None:
    """1 would become 1 / 255 in one of the two."""
    with pytest.raises(ValueError, match="fitted on bytes"):
        estimator().fit(MASKS, Y).predict(MASKS.astype(dtype))
    with pytest.raises(ValueError, match="fitted on numbers"):
        estimator().fit(MASKS.astype(dtype), Y).predict(MASKS)
    same = estimator().fit(MASKS, Y)
    np.testing.assert_array_equal(same.predict(MASKS), same.predict(MASKS.copy()))
    same.fit(X, Y).predict(MASKS)  # a dark picture


def test_examples_of_a_data_set_are_all_bytes_or_none() -> None:
    bytes_first = [(torch.full((1, 2, 2), 200, dtype=torch.uint8), 0), (torch.rand(1, 2, 2), 1)]
    for pairs in (bytes_first, bytes_first[::-1]):
        with pytest.raises(ValueError, match="give all as bytes or none"):
            qs.datasets.from_torch(pairs)
