"""Counts of examples: `quickstudy classes`."""

from typing import Annotated

from tyro.conf import Positional, arg

from quickstudy import datasets
from quickstudy.cli import catalogue
from quickstudy.cli.options import AsJson, dumps
from quickstudy.datasets import Labelled


def classes(
    dataset: Positional[Annotated[str, arg(metavar="DATASET")]], *, as_json: AsJson = False
) -> None:
    """Count the examples of each class of a data set.

    The first paragraph is the summary that `quickstudy --help` shows.

    Example: quickstudy classes digits

    Args:
        dataset: Name of a data set (`quickstudy list`).

    Examples:
        >>> classes("digits", as_json=True)  # doctest: +ELLIPSIS
        {
         "0": 178,
         ...
    """
    if dataset not in catalogue.DATASETS:
        raise catalogue.no_such("data set", dataset, catalogue.DATASETS)
    data = getattr(datasets, dataset)()
    parts = [data] if isinstance(data, Labelled) else list(data)
    counts = {
        name: int((part.y == c).sum()) for part in parts for c, name in enumerate(part.classes)
    }
    if as_json:
        return print(dumps(counts))
    for name, count in counts.items():
        print(f"{name}: {count}")
