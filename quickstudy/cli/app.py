"""The command line: `quickstudy --help`."""

import importlib
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import tyro

from quickstudy import __version__
from quickstudy.cli import catalogue

# each command by its file and function; the file is imported when the command runs
GROUPS: dict[str, dict[str, str]] = {
    "Start here": {"demo": "demo.demo", "list": "listing.list_"},
    "Train and evaluate": {
        "train": "train.train",
        "evaluate": "results.evaluate",
        "report": "results.report",
        "compare": "results.compare",
        "stream": "train.stream",
        "reproduce": "reproduce.reproduce",
        "diagnose": "train.diagnose",
    },
    "Classify, compare and group images": {
        "adapt": "adapt.adapt",
        "predict": "predict.predict",
        "verify": "vision.verify",
        "cluster": "vision.cluster",
    },
}
COMMANDS = {name: place for group in GROUPS.values() for name, place in group.items()}
PATH_OPTIONS = ("--out", "--run", "--support")
RECIPE_COMMANDS = ("train", "stream")  # whose options are the settings of a recipe
SIGTERM_CODE = 128 + signal.SIGTERM
USAGE = """usage: quickstudy COMMAND [OPTIONS]

Learning to learn, on PyTorch.
"""
FOOTER = """
quickstudy COMMAND --help describes the options of a command.
quickstudy --version prints the version.
quickstudy --tyro-print-completion {bash,zsh,tcsh} prints a completion script for your shell.
COMMAND --debug shows the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    The exit code is 0 on success, 2 after an error, which is printed as one sentence, 130 after
    Ctrl-C and 143 after SIGTERM.

    Examples:
        >>> try:
        ...     main(["--version"])
        ... except SystemExit as stop:
        ...     print(stop.code)
        quickstudy 0.2.0
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        with _as_program():
            _dispatch(given)
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code in (130, SIGTERM_CODE):
            again = "quickstudy " + " ".join(given)
            resumable = given[:1] in (["train"], ["stream"], ["demo"], ["reproduce"])
            hint = f". Progress is saved. Continue with: {again}" if resumable else "."
            print(f"Stopped{hint}", file=sys.stderr)
        sys.exit(code)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, ValueError | OSError | ImportError | ArithmeticError)
        kind = "Error" if expected else f"Error ({type(error).__name__})"
        hint = "" if expected or debug else " Add --debug to see the traceback."
        print(f"{kind}: {error}{hint}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


@contextmanager
def _as_program() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143), which closes files, and print warnings as a line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(SIGTERM_CODE))
    form = warnings.formatwarning
    warnings.formatwarning = lambda message, *place, **line: f"Warning: {message}\n"
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        warnings.formatwarning = form


def _dispatch(given: list[str]) -> None:
    name, options = (given or ["--help"])[0], given[1:]
    if name in ("-h", "--help"):
        return print(_overview())
    if name == "--version":
        return print(f"quickstudy {__version__}")
    if name.startswith("--tyro-"):
        return _complete(given)
    if name not in COMMANDS:
        raise catalogue.no_such("command", name, COMMANDS)
    _refuse_empty_paths(options)
    if name in RECIPE_COMMANDS and (not options or options[0].startswith("-")):
        print(_recipe_help(name))
        return None if options in (["-h"], ["--help"]) else sys.exit(2)
    command = _load(name)
    if name in RECIPE_COMMANDS:
        return command(options[0], options[1:])
    # `--json` alone, without a pair `--no-json`
    tyro.cli(
        command, prog=f"quickstudy {name}", args=options, config=(tyro.conf.FlagCreatePairsOff,)
    )


def _refuse_empty_paths(options: list[str]) -> None:
    """An unset variable of a shell, as in `--out "$DIR"`, would be the current directory."""
    for option in PATH_OPTIONS:
        if f"{option}=" in options or (option, "") in pairwise(options):
            raise ValueError(f"{option} is empty: name a file or folder, or leave it out.")


def _load(name: str) -> Callable[..., Any]:
    file, function = COMMANDS[name].split(".")
    return getattr(importlib.import_module(f"quickstudy.cli.{file}"), function)


def _summary(name: str) -> str:
    file, function = COMMANDS[name].split(".")
    return catalogue.summaries(Path(__file__).with_name(f"{file}.py"))[function]


def _overview() -> str:
    lines = [USAGE]
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<11}{_summary(name)}" for name in names), ""]
    return "\n".join(lines) + FOOTER


def _recipe_help(name: str) -> str:
    return "\n".join(
        [
            f"usage: quickstudy {name} RECIPE [OPTIONS]",
            "",
            _summary(name),
            "",
            f"quickstudy {name} RECIPE --help describes the settings of a recipe.",
            "",
            "Recipes:",
            *(f"  {recipe:<28}{text}" for recipe, text in catalogue.recipes().items()),
            "",
            f"Example: quickstudy {name} glyphs_protonet --steps 200 --out runs/short",
        ]
    )


def _complete(given: list[str]) -> None:
    """Let tyro write the completion script, for which it needs every command at once."""
    stand_ins = dict.fromkeys(RECIPE_COMMANDS, _recipe_command)
    commands = {name: _load(name) for name in COMMANDS} | stand_ins
    tyro.extras.subcommand_cli_from_dict(commands, prog="quickstudy", args=given)


def _recipe_command(recipe: tyro.conf.Positional[str]) -> None:
    """Train and evaluate a recipe."""
