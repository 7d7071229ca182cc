"""Names and summaries of what there is, read from files without importing them."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from quickstudy.hints import suggest

PACKAGE = Path(__file__).parents[1]
DATASETS = ("caltech101", "digits", "emoji", "glyphs", "omniglot")  # that a name alone gives


@cache
def summaries(file: Path) -> dict[str, str]:
    """Return the first paragraph of each docstring in a Python file.

    Returns:
        Summaries by name of the function or class; that of the file itself is under "".

    Examples:
        >>> summaries(PACKAGE / "cli" / "catalogue.py")[""]
        'Names and summaries of what there is, read from files without importing them.'
    """
    tree = ast.parse(file.read_text("utf-8"))
    parts = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    texts = {"": ast.get_docstring(tree)} | {n.name: ast.get_docstring(n) for n in parts}
    return {name: " ".join((t or "").split("\n\n")[0].split()) for name, t in texts.items()}


def learners() -> dict[str, str]:
    """Return the learners by name, each with a summary.

    A class has the summary of its file, and a function, which is a variant, its own.

    Examples:
        >>> learners()["MAML"]
        'Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017, arXiv:1703.03400).'
        >>> "anil" in learners()
        True
    """
    names = {
        alias.name: PACKAGE / f"{(node.module or '').replace('.', '/')}.py"
        for node in ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("learners.")
        for alias in node.names
    }
    return {
        name: summaries(file)[name if name.islower() else ""] for name, file in names.items()
    }


def datasets() -> dict[str, str]:
    """Return the data sets that a name alone gives, each with a summary.

    Examples:
        >>> list(datasets())
        ['caltech101', 'digits', 'emoji', 'glyphs', 'omniglot']
    """
    every = {
        name: text
        for file in sorted((PACKAGE / "datasets").glob("*.py"))
        for name, text in summaries(file).items()
    }
    return {name: every[name] for name in DATASETS}


def recipes() -> dict[str, str]:
    """Return the recipes that came with quickstudy, each with a summary.

    Examples:
        >>> "glyphs_protonet" in recipes()
        True
    """
    # in the installed package, or beside it in a checkout
    files = sorted(
        file
        for place in (PACKAGE / "recipes", PACKAGE.parent / "recipes")
        for file in place.glob("[a-z]*.py")
    )
    return {file.stem: summaries(file)[""] for file in files}


def no_such(kind: str, name: str, names: Iterable[str]) -> ValueError:
    """Return the error for a name that does not exist, with the nearest name that does.

    Examples:
        >>> print(no_such("command", "tarin", ["list", "train"]))
        There is no command 'tarin'. Did you mean 'train'?
    """
    return ValueError(f"There is no {kind} {name!r}. {suggest(name, names)}")
