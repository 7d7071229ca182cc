"""Labelled data to draw tasks from."""

from quickstudy.datasets.labelled import Labelled, Splits

__all__ = ["Labelled", "Splits"]
