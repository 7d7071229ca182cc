"""`quickstudy list`: the learners, data sets, recipes and results."""

from rich.console import Console
from rich.table import Table

from quickstudy.cli import catalogue
from quickstudy.cli.options import AsJson, dumps


def list_(*, results: bool = False, as_json: AsJson = False) -> None:
    """List the learners, data sets and recipes.

    Example: quickstudy list

    Args:
        results: List the stored results instead, with their numbers.

    Examples:
        >>> list_(as_json=True)  # doctest: +ELLIPSIS
        {
         "learners": {
          "ConditionalNeuralProcess": ...
    """
    if results:
        from quickstudy import runs
        from quickstudy.cli.results import result_rows  # loads torch, unlike the rest

        kinds = {
            "results": {
                name: "; ".join(result_rows(entry)) for name, entry in runs.stored().items()
            }
        }
    else:
        kinds = {
            "learners": catalogue.learners(),
            "datasets": catalogue.datasets(),
            "recipes": catalogue.recipes(),
        }
    if as_json:
        return print(dumps(kinds))
    for kind, entries in kinds.items():
        table = Table("name", "summary", title=kind, title_justify="left", expand=True)
        for name, summary in entries.items():
            table.add_row(name, summary)
        Console().print(table)
