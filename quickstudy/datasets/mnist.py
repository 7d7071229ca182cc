"""MNIST, and Fashion-MNIST in its format: 28 x 28 pictures of ten classes, 60,000 to train on
and 10,000 to test on.

LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition",
1998. Xiao, Rasul & Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms", arXiv:1708.07747, 2017; MIT licence, copyright 2017 Zalando SE.
"""

import gzip
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.datasets.files import Remote, published
from quickstudy.datasets.labelled import Labelled, TrainTest

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PLACE = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the mirror of torchvision
MNIST = (  # all sums as TensorFlow Datasets has them
    Remote(
        f"{PLACE}/train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    Remote(
        f"{PLACE}/train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    Remote(
        f"{PLACE}/t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    Remote(
        f"{PLACE}/t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
FASHION_PLACE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # has no https
FASHION_MNIST = (
    Remote(
        f"{FASHION_PLACE}/train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    Remote(
        f"{FASHION_PLACE}/train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    Remote(
        f"{FASHION_PLACE}/t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    Remote(
        f"{FASHION_PLACE}/t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)


def mnist(*, root: Path | str | None = None) -> TrainTest:
    """Read handwritten digits: x (N, 1, 28, 28) uint8, ink 255.

    Args:
        root: where the four official `.gz` files are, and else are downloaded to, in its
            folder `mnist`. None: looked for in $QUICKSTUDY_DATA and then in the cache, and
            downloaded to the cache.

    Raises:
        ConnectionError: a file is not there, and cannot be downloaded.
        ValueError: a file is not the one that was published.

    Examples:
        >>> mnist().train  # doctest: +SKIP
        Labelled(mnist, train: 60,000 examples uint8 (1, 28, 28) of 10 classes)
    """
    return _load("mnist", MNIST, DIGITS, root)


def fashion_mnist(*, root: Path | str | None = None) -> TrainTest:
    """Read photographs of clothes: x (N, 1, 28, 28) uint8, on black.

    `root`, and what is raised, as for `mnist`; the folder is `fashion_mnist`.

    Examples:
        >>> fashion_mnist().test  # doctest: +SKIP
        Labelled(fashion_mnist, test: 10,000 examples uint8 (1, 28, 28) of 10 classes)
    """
    return _load("fashion_mnist", FASHION_MNIST, CLOTHES, root)


def _load(
    name: str, remotes: tuple[Remote, ...], classes: tuple[str, ...], root: Path | str | None
) -> TrainTest:
    x, y, test_x, test_y = map(_idx, [published(remote, name, root) for remote in remotes])
    return TrainTest(
        Labelled(x[:, None], y.long(), classes, name=name, split="train"),
        Labelled(test_x[:, None], test_y.long(), classes, name=name, split="test"),
    )


def _idx(path: Path) -> Tensor:
    """Return the bytes of a gzipped IDX file, in the shape of its header.

    The header: two zeros, 8 for bytes, the number of axes, and 4 bytes for the size of each.
    """
    data = bytearray(gzip.decompress(path.read_bytes()))
    axes = data[3]
    shape = [int.from_bytes(data[4 * i : 4 * i + 4]) for i in range(1, axes + 1)]
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 * (axes + 1)).view(shape)
