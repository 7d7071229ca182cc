"""Labelled data to draw tasks from."""

from quickstudy.datasets.labelled import Labelled, Splits
from quickstudy.datasets.omniglot import omniglot

__all__ = ["Labelled", "Splits", "omniglot"]
