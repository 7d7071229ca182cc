"""Writes the map of the library: its layers, packages and files, from the code itself.

python docs/map.py            writes it into CONTRIBUTING.md and docs/map.md
python docs/map.py --check    fails if one of them is out of date
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "quickstudy"
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "map.md"]
BLOCK = re.compile(r"<!-- map: (packages|files) -->\n.*?<!-- /map -->", re.DOTALL)


def summary(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", first)[0].removeprefix("r").strip()


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


def renewed(text: str) -> str:
    """A page with its blocks as the code is now."""
    made = {"packages": packages, "files": files}
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
