"""A mutation pass: change one operator of the code at a time and see whether its tests fail.

    make mutants                                             # every file, four mutants each
    python -m tests.mutation.mutate --each 20 --seed 1 quickstudy/core/losses.py

A mutant changes a sign, a factor, a comparison, an index, an axis, a reduction or a branch. The
tests of a file are its doctests and `test_NAME.py`, or those that `TESTS` lists. They run on a
copy of the tree, in a forked process. A survivor is either equivalent to the original, or shows
that a test is missing. The last line counts: tried / caught / survived.
"""

import argparse
import ast
import compileall
import importlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PRELOADED = ("numpy", "torch.func", "scipy.optimize", "sklearn.linear_model")  # slow imports
TESTS = {  # of files that no test file is named after
    "core/linear.py": ["learners/test_imaml.py"],
    "core/prototypes.py": ["learners/test_prototypical.py", "learners/test_simple_shot.py"],
    "evaluation/protocol.py": ["test_evaluate.py"],
    "evaluation/report.py": ["test_evaluate.py"],
    "learners/memory/sequence_learner.py": ["learners/test_ntm.py"],
}
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
METHODS = {
    "sum": "mean",
    "mean": "sum",
    "amax": "amin",
    "amin": "amax",
    "argmax": "argmin",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
    "clamp_min": "clamp_max",
}
WITH_AXIS = METHODS.keys() | {
    "cat",
    "cumsum",
    "flip",
    "log_softmax",
    "logsumexp",
    "softmax",
    "stack",
}


class Mutant(NamedTuple):
    """One change of a source file."""

    line: int
    before: str
    after: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a source, in the order of the lines."""
    lines = source.encode().splitlines(keepends=True)
    start = [sum(map(len, lines[:i])) for i in range(len(lines))]
    by_place: dict[tuple[int, int, str], Mutant] = {}
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for statement in function.body:
            for node in _expressions(statement):
                for after in map(ast.unparse, _changes(node)):
                    a = start[node.lineno - 1] + node.col_offset
                    z = start[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
                    code = source.encode()
                    mutated = (code[:a] + f"({after})".encode() + code[z:]).decode()
                    mutant = Mutant(node.lineno, ast.unparse(node), after, mutated)
                    by_place[a, z, after] = mutant
    return [by_place[key] for key in sorted(by_place)]


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Yield expressions, those of messages and annotations aside."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        return
    if isinstance(node, ast.expr):
        yield node
    annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    for child in ast.iter_child_nodes(node):
        if child not in annotations:
            yield from _expressions(child)


def _changes(node: Any) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BinOp(_, ast.FloorDiv() | ast.Pow(), _):
            yield node.left
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.Compare(left, [op], right) if type(op) in OPERATORS:
            yield ast.Compare(left, [OPERATORS[type(op)]()], right)
        case ast.UnaryOp(ast.USub(), ast.Constant()):
            return
        case ast.UnaryOp(ast.USub() | ast.Invert() | ast.Not(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Subscript(value, index) if (moved := _moved(index)) is not None:
            yield ast.Subscript(value, moved)
        case ast.Call(ast.Attribute(value, name), arguments, keywords):
            if name in METHODS and ast.unparse(value) != "self":
                yield ast.Call(ast.Attribute(value, METHODS[name]), arguments, keywords)
            for i, argument in enumerate(arguments):
                if name in WITH_AXIS and (moved := _moved(argument)) is not None:
                    changed = [*arguments[:i], moved, *arguments[i + 1 :]]
                    yield ast.Call(ast.Attribute(value, name), changed, keywords)
        case ast.Attribute(value, "T" | "mT"):
            yield value
        case ast.Constant(float(value)) if value > 1e-6:
            yield ast.Constant(2 * value)


def _moved(index: ast.expr) -> ast.expr | None:
    """Return another index or axis than this constant."""
    match index:
        case ast.Constant(int(value)) if not isinstance(value, bool):
            return ast.Constant(0 if value else 1)
        case ast.UnaryOp(ast.USub(), ast.Constant(int())):
            return ast.Constant(0)
    return None


def run(tree: Path, tests: list[str]) -> int:
    """Run tests of a copy of the tree in a forked process; return the status of pytest."""
    child = os.fork()
    if child == 0:
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]  # imported from the tree itself, not from the copy
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        options = ["-q", "-x", "--tb=no", "--no-header", "-p", "no:cacheprovider"]
        os._exit(pytest.main([*options, "-o", "timeout=100", *tests]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tests_of(file: Path) -> list[str]:
    """Return the paths of the tests that should notice a mutant of this file."""
    listed = TESTS.get(file.relative_to("quickstudy").as_posix())
    named = (path.relative_to(ROOT) for path in (ROOT / "tests").rglob(f"test_{file.stem}.py"))
    tests = [f"tests/{name}" for name in listed] if listed else sorted(map(str, named))
    return [str(file), *tests]


def copied_tree(folder: Path) -> Path:
    """Copy what the tests need, with compiled modules."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    compileall.compile_dir(folder / "quickstudy", quiet=1)
    return folder


def main() -> None:
    """Try mutants of each file, and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, help="all files of quickstudy by default"
    )
    parser.add_argument("--each", type=int, default=4, help="mutants of a file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(10)
    for name in PRELOADED:
        importlib.import_module(name)
    files = options.files or [p.relative_to(ROOT) for p in (ROOT / "quickstudy").rglob("*.py")]
    tried = survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copied_tree(Path(folder))
        for file in sorted(files):
            choices = mutants(source := (ROOT / file).read_text())
            random.Random(f"{options.seed} {file}").shuffle(choices)
            tests = tests_of(file)
            sys.dont_write_bytecode = False
            if not choices or run(tree, tests) != 0:
                print(f"{file}: {'its tests fail' if choices else 'nothing'} to mutate")
                continue
            sys.dont_write_bytecode = True  # a stale one would hide a mutant
            for compiled in (tree / file).parent.glob(f"__pycache__/{file.stem}.*"):
                compiled.unlink()
            for mutant in choices[: options.each]:
                (tree / file).write_text(mutant.source)
                caught = run(tree, tests) != 0
                tried, survived = tried + 1, survived + (not caught)
                verdict = "caught  " if caught else "SURVIVED"
                change = f"{mutant.before}  ->  {mutant.after}"
                print(f"{verdict} {file}:{mutant.line}  {change}", flush=True)
            (tree / file).write_text(source)
    print(f"{tried} tried / {tried - survived} caught / {survived} survived")


if __name__ == "__main__":
    main()
