"""`from_torch` takes pairs of an example and one label, and refuses other items in words."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from quickstudy.datasets import from_torch

X, Y = torch.rand(12, 4), torch.arange(12) % 3


@pytest.mark.parametrize("labels", [Y, Y[:, None], Y[:, None, None]])
def test_one_label(labels: torch.Tensor) -> None:
    data = from_torch(TensorDataset(X, labels))
    assert torch.equal(data.y, Y)
    assert torch.equal(data.x, X)


@pytest.mark.parametrize(
    "labels",
    [F.one_hot(Y), (X > 0.5).long(), X.tolist(), [[]] * 12],
    ids=["one-hot rows", "attributes", "lists", "empty"],
)
def test_several_labels(labels: Any) -> None:
    pairs = list(zip(X, labels, strict=True))
    with pytest.raises(ValueError, match=r"of shape .*: give one label per example"):
        from_torch(pairs)


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(X, Y, torch.arange(12)),
        TensorDataset(X),
        [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)],
        ["ab", "cd"],
        torch.rand(3, 2),
    ],
    ids=["three", "one", "dictionaries", "text", "rows"],
)
def test_no_pair(dataset: Any) -> None:
    with pytest.raises(ValueError, match="no pair of an example and a label: choose the two"):
        from_torch(dataset)
