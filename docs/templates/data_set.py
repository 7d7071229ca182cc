"""NAME OF THE DATA: how many examples of what, of how many classes.

Authors, "Title", venue, year. Licence.
"""

from pathlib import Path

import torch

from quickstudy.datasets import Labelled, Splits, split_classes
from quickstudy.datasets.files import Remote, damaged, load_npz, published

FILE = Remote(  # say where the sum is from
    "https://example.org/patterns.npz",
    "0000000000000000000000000000000000000000000000000000000000000000",
)


def patterns(*, root: Path | str | None = None) -> Splits:
    """Return x (N, 1, 8, 8) uint8, with black 0, split 6 / 2 / 2 by class.

    A data set with official test examples returns a `TrainTest`, and one without any split a
    `Labelled`.

    Args:
        root: Folder whose folder `patterns` has the file; it is downloaded there if it is
            missing. None: $QUICKSTUDY_DATA, then the cache, which downloads go to.

    Raises:
        ConnectionError: The file is not there, and cannot be downloaded.
        ValueError: The file is not the one that was published.

    Examples:
        >>> patterns().train  # doctest: +SKIP
        Labelled(patterns, train: 120 examples uint8 (1, 8, 8) of 6 classes)
    """
    path = published(FILE, "patterns", root)
    data = load_npz(path)
    try:
        x, y = torch.from_numpy(data["images"])[:, None], torch.from_numpy(data["label"])
        classes = tuple(map(str, data["class_name"]))
    except KeyError as error:
        raise damaged(path, error) from error
    return split_classes(Labelled(x, y.long(), classes, name="patterns"), (0.6, 0.2, 0.2))
