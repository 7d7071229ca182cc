"""Writes the map of the library: its layers, files and public names, from the code itself.

python docs/map.py            writes it into the pages
python docs/map.py --check    fails if one of them is out of date
"""

import ast
import os
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "quickstudy"
DOCS = ROOT / "docs"
PAGES = [ROOT / "CONTRIBUTING.md", DOCS / "map.md", DOCS / "reference" / "names.md"]
BLOCK = re.compile(r"<!-- map: (packages|files|names) -->\n.*?<!-- /map -->", re.DOTALL)


def summary(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    return first_sentence(ast.get_docstring(parse(file)))


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring; periods of "et al." and of initials end none."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^l.]\.)\s(?=[A-Z`$])|(?<=[^t] al\.)\s(?=[A-Z`$])", first)[0]


@cache
def parse(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text())


def layers() -> list[str]:
    """The layers of the import contract that exist, from the top to the bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = [name.strip("()") for name in contracts["contracts"][0]["layers"]]
    return [name for name in names if source(PACKAGE / name) is not None]


def source(place: Path) -> Path | None:
    """The file of a package or module."""
    files = place / "__init__.py", place.with_suffix(".py")
    return next((file for file in files if file.exists()), None)


def packages() -> str:
    """A table of layers, the top first."""
    rows = ["| Layer | What is in it |", "| --- | --- |"]
    for name in layers():
        file = source(PACKAGE / name)
        assert file is not None
        rows.append(f"| `{name}` | {summary(file)} |")
    return "\n".join(rows)


def files() -> str:
    """Every file with its first sentence, by package."""
    lines: list[str] = []
    for name in layers():
        place = PACKAGE / name
        if not place.is_dir():
            continue
        for folder in [
            place,
            *sorted(p for p in place.iterdir() if (p / "__init__.py").exists()),
        ]:
            title = folder.relative_to(PACKAGE).as_posix()
            lines += [f"### {title}", "", summary(folder / "__init__.py"), ""]
            modules = sorted(p for p in folder.glob("*.py") if p.name != "__init__.py")
            lines += [f"- `{module.name}`: {summary(module)}" for module in modules]
            lines += [""] if modules else []
    return "\n".join(lines).strip()


def names() -> str:
    """Every public name with its first sentence and file, linked to its entry in the docs."""
    entries: dict[tuple[Path, str], str] = {}
    for page in sorted(DOCS.rglob("*.md")):
        for entry in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE):
            link = os.path.relpath(page, DOCS / "reference")
            entries.setdefault(definition(entry), f"{link}#{entry}")
    public: dict[tuple[Path, str], str] = {}
    for package in (PACKAGE, *sorted(file.parent for file in PACKAGE.rglob("*/__init__.py"))):
        prefix = ".".join(package.relative_to(PACKAGE.parent).parts)
        for name in exported(package):
            public.setdefault(definition(f"{prefix}.{name}"), f"{prefix}.{name}")
    rows = ["| Name | What it is | File |", "| --- | --- | --- |"]
    for (file, name), path in sorted(public.items(), key=lambda item: item[1].lower()):
        shown = f"`{path.replace('quickstudy', 'qs', 1)}`"
        link = entries.get((file, name))
        cells = (
            f"[{shown}]({link})" if link else shown,
            first_sentence(docstring(file, name)).replace("|", "\\|"),
            f"`{file.relative_to(PACKAGE).as_posix()}`",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def exported(package: Path) -> list[str]:
    """The names that the table of contents of a package imports, without modules."""
    stub = package / "__init__.pyi"
    tree = parse(stub if stub.exists() else package / "__init__.py")
    return [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module and source(package / (alias.asname or alias.name)) is None
    ]


def definition(path: str) -> tuple[Path, str]:
    """The file that defines what a dotted path means, and its name there."""
    *parts, name = path.split(".")
    file = source(ROOT.joinpath(*parts))
    if source(ROOT.joinpath(*parts, name)) is not None or file is None:
        return ROOT.joinpath(*parts, name), ""  # a module
    tables = [file.with_suffix(".pyi"), file] if file.name == "__init__.py" else [file]
    for table in tables:
        for node in parse(table).body if table.exists() else ():
            if isinstance(node, ast.ImportFrom) and name in (
                imported := {alias.asname or alias.name: alias.name for alias in node.names}
            ):
                base = parts[: len(parts) - node.level + 1] if node.level else []
                return definition(".".join([*base, node.module or "", imported[name]]))
    return file, name


def docstring(file: Path, name: str) -> str | None:
    """The docstring of a class or function, or the string after an assignment."""
    body = parse(file).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = after.value if isinstance(after, ast.Expr) else None
            return str(value.value) if isinstance(value, ast.Constant) else None
    return None


def renewed(text: str) -> str:
    """A page with its blocks as the code is now."""
    made = {"packages": packages, "files": files, "names": names}
    return BLOCK.sub(
        lambda block: f"<!-- map: {block[1]} -->\n\n{made[block[1]]()}\n\n<!-- /map -->", text
    )


def main(arguments: list[str]) -> int:
    """Write or check the pages; 1 if a checked page is out of date."""
    stale = [page for page in PAGES if renewed(page.read_text()) != page.read_text()]
    if "--check" in arguments:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is out of date: run python docs/map.py")
        return int(bool(stale))
    for page in stale:
        page.write_text(renewed(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
