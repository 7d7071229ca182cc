"""Data sets from memory and from other libraries."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core.labels import require_same_labels
from quickstudy.datasets.labelled import Labelled
from quickstudy.datasets.pictures import Channels, Size, to_pixels


def arrays(
    x: Any,
    y: Any,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Labelled:
    """Return labelled data from arrays, tensors or lists.

    Args:
        x: (N, *features); bytes stay bytes, and other numbers become floats.
        y: (N,) labels of any kind that sorts: numbers, strings.
        classes: names, by label, when labels are indices; None: the labels themselves,
            sorted, are the names.

    Raises:
        ValueError: what `Labelled` raises; or a label is missing, or would become another
            beside the others; or values are hidden by a mask, or complex.

    Examples:
        >>> arrays([[0.0], [1.0], [2.0]], ["a", "b", "a"])
        Labelled(arrays, all: 3 examples float32 (1,) of 2 classes)
    """
    if np.ma.is_masked(x) or np.ma.is_masked(y):
        raise ValueError(f"A mask hides values of {name}: fill them in, or leave them out.")
    if isinstance(x, Tensor) and x.layout != torch.strided:
        raise ValueError(f"The examples of {name} are sparse: give x.to_dense().")
    values = torch.as_tensor(x if isinstance(x, Tensor) else np.asarray(x))
    if values.is_complex():
        raise ValueError(f"The examples of {name} are complex: give torch.view_as_real(x).")
    if values.dtype != torch.uint8 and values.dtype not in (torch.float16, torch.bfloat16):
        values = values.to(torch.get_default_dtype())
    labels = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
    if labels.ndim == 1:
        original = list(y) if isinstance(y, list | tuple) else labels.tolist()
        require_same_labels(original, labels)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"A label of {name} is NaN or infinite: give every example a class.")
    if labels.ndim != 1:
        raise ValueError(
            f"The labels of {name} are of shape {labels.shape}: give one label per example, "
            "y.argmax(-1) if they are one-hot rows."
        )
    if classes is None:
        kinds, index = np.unique(labels, return_inverse=True)
        return Labelled(values, torch.from_numpy(index), tuple(map(str, kinds)), name=name)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"With `classes`, labels of {name} must be whole numbers, not names.")
    return Labelled(
        values, torch.from_numpy(labels.astype(np.int64)), tuple(classes), name=name
    )


def digits(*, size: int = 8) -> Labelled:
    """Return the 1,797 handwritten digits of scikit-learn: x (1797, 1, size, size) uint8,
    ink 255, and 10 classes.

    They are 8 x 8 (counts of ink in 4 x 4 pixels, 0 … 16), and are enlarged with Pillow's
    LANCZOS filter to other sizes; 28 is what Omniglot and `glyphs` have. Of Alpaydin & Kaynak,
    "Optical recognition of handwritten digits", UCI repository, 1998.

    Examples:
        >>> digits()
        Labelled(digits, all: 1,797 examples uint8 (1, 8, 8) of 10 classes)
    """
    from sklearn.datasets import load_digits

    counts, labels = load_digits(return_X_y=True)
    images = np.round(counts.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    x = np.stack([to_pixels(Image.fromarray(image), (size, size), 1) for image in images])
    return arrays(x, labels, classes=[str(d) for d in range(10)], name="digits")


def from_torch(
    dataset: Any,
    *,
    size: Size | None = None,
    channels: Channels = 3,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> Labelled:
    """Read a map-style torch data set whose items are (example, label) into memory.

    Args:
        dataset: has `len` and `[]`; an example is a tensor, an array or a Pillow image.
        size: (height, width), or one number for both, that Pillow images are brought to;
            None: they are all of one size.
        channels: of Pillow images: 1 or 3.
        classes: names by label; None: `dataset.classes` if there, or else the labels.

    Raises:
        ValueError: an item is no pair, or its label no single one; examples differ in shape,
            or some are bytes and some are not;
            what `arrays` raises.

    Examples:
        >>> from_torch([(torch.zeros(2), 0), (torch.ones(2), 1)], name="pairs")
        Labelled(pairs, all: 2 examples float32 (2,) of 2 classes)
    """
    name = type(dataset).__name__ if name is None else name
    pairs = (_pair(dataset[i], name) for i in range(len(dataset)))
    classes = getattr(dataset, "classes", None) if classes is None else classes
    return _collect(pairs, size, channels, classes, name)


def huggingface(
    dataset: Any,
    *,
    split: str = "train",
    image: str = "image",
    label: str = "label",
    size: Size | None = None,
    channels: Channels = 3,
) -> Labelled:
    """Read a Hugging Face data set into memory.

    Args:
        dataset: one that is loaded, or a name for `datasets.load_dataset(name, split=split)`.
        image: the column of examples: images, or lists of numbers.
        label: the column of labels.
        size: (height, width), or one number for both, that images are brought to.
        channels: of images: 1 or 3.

    Raises:
        ImportError: `dataset` is a name, and the package `datasets` is not installed.
        ValueError: there is no such column; examples differ in shape.

    Examples:
        >>> huggingface("AI-Lab-Makerere/beans", label="labels", size=84)  # doctest: +SKIP
        Labelled(AI-Lab-Makerere/beans, train: 1,034 examples uint8 (3, 84, 84) of 3 classes)
    """
    name = dataset if isinstance(dataset, str) else "huggingface"
    if isinstance(dataset, str):
        try:
            from datasets import load_dataset  # pyright: ignore
        except ImportError as error:
            raise ImportError(
                f"Loading {dataset!r} needs the package `datasets`: pip install datasets."
            ) from error
        dataset = load_dataset(dataset, split=split)
    for column in (image, label):
        if column not in dataset.features:
            there = ", ".join(dataset.features)
            raise ValueError(f"{name} has no column {column!r}: it has {there}.")
    pairs = ((row[image], row[label]) for row in dataset)
    return _collect(
        pairs, size, channels, getattr(dataset.features[label], "names", None), name
    )


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(
            f"An item of {name} is a {type(item).__name__}, and no pair of an example and a "
            "label: choose the two, as in `from_torch([(item[0], item[1]) for item in data])`."
        )
    return item[0], item[1]


def _collect(
    pairs: Any,
    size: Size | None,
    channels: Channels,
    classes: Sequence[str] | None,
    name: str,
) -> Labelled:
    x, y = [], []
    for example, label in pairs:
        if isinstance(example, Image.Image):
            shape = (example.height, example.width) if size is None else size
            example = to_pixels(example, shape, channels)
        x.append(torch.as_tensor(np.asarray(example)))
        if np.asarray(label).size != 1:
            raise ValueError(
                f"A label of {name} is of shape {np.asarray(label).shape}: give one label per "
                "example, label.argmax() if it is a one-hot row."
            )
        y.append(label.item() if isinstance(label, Tensor) else label)
        if x[-1].dtype != x[0].dtype and torch.uint8 in (x[-1].dtype, x[0].dtype):
            raise ValueError(
                f"Example {len(x) - 1} of {name} is of {x[-1].dtype} and the first of "
                f"{x[0].dtype}: bytes are divided by 255 and other numbers are not, so give "
                "all as bytes or none."
            )
        if x[-1].shape != x[0].shape:
            raise ValueError(
                f"Example {len(x) - 1} of {name} is of shape {tuple(x[-1].shape)} and the "
                f"first of {tuple(x[0].shape)}: give `size`, or bring them to one shape."
            )
    if not x:
        raise ValueError(f"{name} has no examples: give at least one.")
    return arrays(torch.stack(x), y, classes=classes, name=name)
