"""Labelled data to draw tasks from.

`labelled` has the type of every data set, `Labelled`, and its splits; `files` downloads, checks
and caches; `pictures` decodes images. Any other file reads one source. A new one has a function
that returns a `Labelled`, `Splits` of classes or a `TrainTest` of examples, with the citation,
the licence and the sha256 of what it downloads.
"""

from quickstudy.datasets.arrays import arrays, digits, from_torch, huggingface
from quickstudy.datasets.cifar import cifar10, cifar100
from quickstudy.datasets.folder import folder, folder_splits
from quickstudy.datasets.glyphs import glyphs
from quickstudy.datasets.labelled import (
    Labelled,
    Splits,
    TrainTest,
    merge,
    split_classes,
    split_examples,
)
from quickstudy.datasets.mnist import fashion_mnist, mnist
from quickstudy.datasets.omniglot import omniglot, omniglot_runs
from quickstudy.datasets.published import caltech101, emoji

__all__ = [
    "Labelled",
    "Splits",
    "TrainTest",
    "arrays",
    "caltech101",
    "cifar10",
    "cifar100",
    "digits",
    "emoji",
    "fashion_mnist",
    "folder",
    "folder_splits",
    "from_torch",
    "glyphs",
    "huggingface",
    "merge",
    "mnist",
    "omniglot",
    "omniglot_runs",
    "split_classes",
    "split_examples",
]
