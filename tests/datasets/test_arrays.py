import builtins
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from quickstudy.datasets import arrays, digits, from_torch, huggingface


def test_labels_of_any_kind():
    data = arrays([[1.5], [2], [3]], ["owl", "cat", "owl"])
    assert data.classes == ("cat", "owl")
    assert data.y.tolist() == [1, 0, 1]
    assert data.x.dtype == torch.float32
    assert arrays(np.zeros((2, 3)), [7, -1]).classes == ("-1", "7")
    assert arrays(torch.zeros(2, 3), torch.tensor([1, 0]), classes=["a", "b"]).y.tolist() == [
        1,
        0,
    ]
    assert arrays(np.zeros((2, 3), np.uint8), [0, 1]).x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [np.nan]], [0, 1], "Example 1 .*NaN"),
        ([[1.0], [2.0]], [0, np.nan], "label .*NaN"),
        ([[1.0], [2.0]], [0], "N = 1"),
        ([1.0, 2.0], [0, 1], r"x\[:, None\]"),
        ([[1.0], [2.0]], [[0, 1], [1, 0]], "argmax"),
        (np.zeros((0, 2)), [], "no examples"),
    ],
)
def test_bad_arrays(x: Any, y: Any, message: str):
    with pytest.raises(ValueError, match=message):
        arrays(x, y)


def test_names_need_indices():
    with pytest.raises(ValueError, match="whole numbers"):
        arrays([[1.0]], ["a"], classes=["a"])
    with pytest.raises(ValueError, match="there are 1 classes"):
        arrays([[1.0]], [1], classes=["a"])


def test_digits_are_those_of_scikit_learn():
    small, large = digits(), digits(size=28)
    counts, labels = load_digits(return_X_y=True)
    assert np.array_equal(np.round(small.x.flatten(1).numpy() * (16 / 255)), counts)
    assert np.array_equal(large.y, labels)
    assert large.x.shape == (1797, 1, 28, 28)
    assert large.x.float().mean() == pytest.approx(small.x.float().mean().item(), rel=0.03)


class Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[tuple[Any, Any]]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.items[index]


def test_torch_data_sets():
    tensors = Pairs([(torch.full((3, 2), float(i)), torch.tensor(i % 2)) for i in range(4)])
    data = from_torch(tensors, classes=["even", "odd"])
    assert data.classes == ("even", "odd")
    assert data.name == "Pairs"
    assert data.x[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.y.tolist() == [0, 1, 0, 1]
    pictures = Pairs([(Image.new("L", (5 + i, 9), i), "ab"[i]) for i in range(2)])
    data = from_torch(pictures, size=(4, 6), channels=1)
    assert data.x.shape == (2, 1, 4, 6)
    assert data.x.dtype == torch.uint8
    assert data.classes == ("a", "b")
    with pytest.raises(ValueError, match=r"Example 1 of Pairs .* give `size`"):
        from_torch(pictures)
    with pytest.raises(ValueError, match="no examples"):
        from_torch(Pairs([]))


class Rows(list[dict[str, Any]]):
    """Looks like a data set of Hugging Face's `datasets`."""

    features = {"image": None, "label": SimpleNamespace(names=["cat", "dog"])}  # noqa: RUF012


def test_hugging_face_data_sets():
    rows = Rows(
        {"image": Image.new("RGB", (8, 8), (i, 0, 0)), "label": i % 2} for i in range(3)
    )
    data = huggingface(rows)
    assert data.x.shape == (3, 3, 8, 8)
    assert data.x[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert [data.classes[c] for c in data.y] == ["cat", "dog", "cat"]
    with pytest.raises(ValueError, match=r"no column 'img': it has image, label"):
        huggingface(rows, image="img")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install datasets"):
        huggingface("mnist")
