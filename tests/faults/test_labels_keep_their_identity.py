"""Two labels never become one, and a label comes back as it was given, or is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import quickstudy as qs

X = 10 * np.eye(4)
IDS = [2**60 + 1, 2**60 + 3, 2**60 + 5, 2**60 + 7]
DAYS = np.array(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"], "M8[D]")
CLASSIFIERS = [qs.FewShotClassifier, qs.LifelongClassifier]

KINDS: dict[str, Any] = {
    "large": IDS,
    "large, unsigned": np.array([2**63 + 1, 2**63 + 3, 1, 2], np.uint64),
    "objects": np.array([2**60 + 1, 2**60 + 3, 1, 2], object),
    "nullable": pd.Series(IDS, dtype="Int64"),
    "nullable, unsigned": pd.Series(IDS, dtype="UInt64"),
    "categorical numbers": pd.Series(pd.Categorical(IDS)),
    "categorical text": pd.Series(pd.Categorical(list("cbad"), categories=list("dcba"))),
    "tensor": torch.tensor(IDS),
    "booleans": np.array([True, False, True, False]),
    "booleans as objects": np.array([True, False, True, False], object),
    "nullable booleans": pd.Series([True, False, True, False], dtype="boolean"),
    "text": ["a", "é", "日本", ""],
    "pandas text": pd.Series(list("abcd"), dtype="string"),
    "whole floats": np.array([1.0, 2.0, -3.0, 1e9]),
    "days": DAYS,
    "nanoseconds": DAYS.astype("M8[ns]"),
    "durations": np.array([1, 2, 3, 4], "m8[s]"),
}


def plain(labels: Any) -> list[Any]:
    return np.asarray(labels).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_labels_come_back(classifier: type[Any], kind: str) -> None:
    labels = KINDS[kind]
    model = classifier().fit(X, labels)
    found = model.predict(X)
    if kind.startswith("b") or "booleans" in kind:  # each class has two examples
        assert plain(model.classes_) == [False, True]
        return
    assert plain(found) == plain(labels)
    assert [type(label) for label in plain(found)] == [type(x) for x in plain(labels)]


@pytest.mark.parametrize(
    "kind", ["large", "large, unsigned", "nullable", "text", "whole floats"]
)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_labels_come_back_from_a_file(classifier: type[Any], kind: str, tmp_path: Path) -> None:
    model = classifier().fit(X, KINDS[kind])
    model.save(tmp_path / "model.safetensors")
    other = classifier.load(tmp_path / "model.safetensors")
    assert plain(other.predict(X)) == plain(KINDS[kind])
    assert other.classes_.dtype == model.classes_.dtype


JOINED: dict[str, tuple[Any, Any]] = {
    "int64, uint64": (np.array(IDS[:2], np.int64), np.array(IDS[2:], np.uint64)),
    "uint64, int64": (np.array(IDS[:2], np.uint64), np.array(IDS[2:], np.int64)),
    "small, large": (np.array([1, 2], np.int8), np.array(IDS[2:])),
    "past int64": (np.array([1, 2]), np.array([2**63 + 1, 2**63 + 3], np.uint64)),
    "short, long text": (np.array(["a", "b"]), np.array(["cccccc", "d"])),
    "text, objects": (np.array(["a", "b"]), np.array(["c", "d"], object)),
    "days, nanoseconds": (DAYS[:2], DAYS[2:].astype("M8[ns]")),
    "whole floats": (np.array([1, 2]), np.array([3.0, 4.0])),
}


@pytest.mark.parametrize("kind", JOINED)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_labels_of_two_dtypes(classifier: type[Any], kind: str) -> None:
    first, second = JOINED[kind]
    model = classifier().partial_fit(X[:2], first).partial_fit(X[2:], second)
    expected = [*first, *second]
    assert all(a == b for a, b in zip(model.predict(X), expected, strict=True))
    assert len(model.classes_) == 4
    # the same labels again, of the other dtype, are no new classes
    model.partial_fit(X[:2], first.astype(model.classes_.dtype))
    model.partial_fit(X[2:], second)
    assert len(model.classes_) == 4
    assert all(a == b for a, b in zip(model.predict(X), expected, strict=True))


def test_expected_classes_of_another_dtype() -> None:
    first, second = JOINED["int64, uint64"]
    model = qs.FewShotClassifier().partial_fit(X[:2], first, classes=second)
    assert plain(model.partial_fit(X[2:], second).predict(X)) == IDS


REFUSED: dict[str, tuple[Any, Any]] = {
    "integers, floats": (np.array(IDS[:2]), np.array([1.0, 2.0])),
    "floats, integers": (np.array([1.0, 2.0]), np.array(IDS[2:])),
    "negative, past int64": (np.array([-1, 0]), np.array([2**63 + 1, 2], np.uint64)),
    "text, numbers": (np.array(["1", "2"]), np.array([1, 2])),
    "days, numbers": (DAYS[:2], np.array([1, 2])),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_labels_that_no_array_holds_are_refused(classifier: type[Any], kind: str) -> None:
    first, second = REFUSED[kind]
    model = classifier().partial_fit(X[:2], first)
    with pytest.raises(ValueError, match=r"would become|Mix of label|cannot be distinguished"):
        model.partial_fit(X[2:], second)
    assert plain(model.predict(X[:2])) == plain(first)


@pytest.mark.parametrize(
    "labels", [[2**60 + 1, 2.0, 3, 4], [1, "a", 2, "b"], [2**63 + 1, -1, 1, 2]]
)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_lists_of_several_kinds_are_refused(classifier: type[Any], labels: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"The label .* would become .*: give all labels"):
        classifier().fit(X, labels)


@pytest.mark.parametrize("classes", [np.array(IDS), np.array(IDS, np.uint64)])
def test_the_label_of_the_unknown_changes_no_other(classes: np.ndarray) -> None:
    model = qs.FewShotClassifier(unknown=-1, threshold=-1.0).fit(X, classes)
    assert plain(model.predict(np.vstack([X, 99 * X]))) == IDS + [-1] * 4
    with pytest.raises(ValueError, match="would become"):
        qs.FewShotClassifier(unknown=-1.0, threshold=-1.0).fit(X, classes)


def test_verifiers_tell_large_labels_apart() -> None:
    labels = pd.Series([2**60 + 1, 2**60 + 1, 2**60 + 2, 2**60 + 2], dtype="Int64")
    assert qs.FewShotVerifier().fit(X, labels).pairs_ == (2, 4)


MISSING: dict[str, Any] = {
    "NaN beside text": [np.nan, "a", "b", "a"],
    "NaN in pandas": pd.Series(["a", np.nan, "b", "a"]),
    "NA in pandas": pd.Series(["a", pd.NA, "b", "a"], dtype="string"),
    "None beside text": ["a", None, "b", "a"],
    "None in an array": np.array(["a", None, "b", "a"], object),
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_missing_labels_are_no_class(classifier: type[Any], kind: str) -> None:
    with pytest.raises(ValueError, match="A label is missing"):
        classifier().fit(X, MISSING[kind])
    with pytest.raises(ValueError, match="A label is missing"):
        qs.datasets.arrays(X, MISSING[kind])


MERGED: dict[str, Any] = {
    "text and numbers": ["1", 1, 2, 3],
    "large integers and floats": [2**60 + 1, 2**60 + 2, 0.5, 1],
}


@pytest.mark.parametrize("kind", MERGED)
def test_labels_of_a_data_set(kind: str) -> None:
    with pytest.raises(ValueError, match="would become"):
        qs.datasets.arrays(X, MERGED[kind])


def test_values_of_a_data_set_are_seen() -> None:
    y = [0, 1, 0, 1]
    with pytest.raises(ValueError, match="mask hides values"):
        qs.datasets.arrays(np.ma.masked_greater(X, 5), y)
    with pytest.raises(ValueError, match="mask hides values"):
        qs.datasets.arrays(X, np.ma.masked_equal(y, 1))
    with pytest.raises(ValueError, match="are complex"):
        qs.datasets.arrays(X + 1j, y)
    with pytest.raises(ValueError, match="are sparse"):
        qs.datasets.arrays(torch.tensor(X).to_sparse(), y)
