"""CIFAR-10 and CIFAR-100: 32 x 32 photographs, 50,000 to train on and 10,000 to test on.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The archives are of
the "binary version". The Python version is pickled, and unpickling can run code of the file.
"""

import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.datasets.files import Remote, published
from quickstudy.datasets.labelled import Labelled, TrainTest

PIXELS = 3 * 32 * 32  # bytes of a picture, by channel, row and column; labels come before
CIFAR10 = Remote(  # both sums as TensorFlow Datasets has them
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CIFAR100 = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)


def cifar10(*, root: Path | str | None = None) -> TrainTest:
    """Read photographs of six animals and four vehicles: x (N, 3, 32, 32) uint8.

    Args:
        root: where the official `cifar-10-binary.tar.gz` is, and else is downloaded to, in its
            folder `cifar10`. None: looked for in $QUICKSTUDY_DATA and then in the cache, and
            downloaded to the cache.

    Raises:
        ConnectionError: the file is not there, and cannot be downloaded.
        ValueError: the file is not the one that was published.

    Examples:
        >>> cifar10().train  # doctest: +SKIP
        Labelled(cifar10, train: 50,000 examples uint8 (3, 32, 32) of 10 classes)
    """
    names = *(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"
    path = published(CIFAR10, "cifar10", root)
    *train, test, text = _read(path, [f"cifar-10-batches-bin/{name}" for name in names])
    (x, y), (test_x, test_y) = _records(b"".join(train), 1), _records(test, 1)
    classes = tuple(text.decode().split())
    return TrainTest(
        Labelled(x, y, classes, name="cifar10", split="train"),
        Labelled(test_x, test_y, classes, name="cifar10", split="test"),
    )


def cifar100(*, root: Path | str | None = None) -> TrainTest:
    """Read photographs of 100 classes, five in each of 20 groups: x (N, 3, 32, 32) uint8.

    `root`, and what is raised, as for `cifar10`; the file is `cifar-100-binary.tar.gz`, the
    folder `cifar100`.

    Examples:
        >>> cifar100().train  # doctest: +SKIP
        Labelled(cifar100, train: 50,000 examples uint8 (3, 32, 32) of 100 classes in 20 groups)
    """
    path = published(CIFAR100, "cifar100", root)
    names = ["train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"]
    train, test, *texts = _read(path, [f"cifar-100-binary/{name}" for name in names])
    (x, group, y), (test_x, _, test_y) = _records(train, 2), _records(test, 2)
    classes, group_names = (tuple(text.decode().split()) for text in texts)
    groups = torch.zeros(len(classes), dtype=torch.int64)
    groups[y] = group  # all pictures of a class have the same group
    return TrainTest(
        Labelled(x, y, classes, groups, group_names, "cifar100", "train"),
        Labelled(test_x, test_y, classes, groups, group_names, "cifar100", "test"),
    )


def _read(path: Path, names: list[str]) -> list[bytes]:
    """Return the contents of files of a .tar.gz by name; write nothing to the disk."""
    contents: dict[str, bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name in names else None
            if file is not None:
                contents[member.name] = file.read()
    return [contents[name] for name in names]


def _records(data: bytes, labels: int) -> tuple[Tensor, ...]:
    """Return the pictures of a file, and each of the labels in front of every picture."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, labels + PIXELS)
    x = rows[:, labels:].reshape(-1, 3, 32, 32).copy()
    return torch.from_numpy(x), *torch.from_numpy(rows[:, :labels].T.astype(np.int64, "C"))
