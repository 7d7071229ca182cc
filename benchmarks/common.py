"""What every benchmark shares: a table for people, JSON for the record."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quickstudy.runs import hardware, stored


def write(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], out: Path | None, **more: Any
) -> None:
    """Prints rows of one shape as a table, and stores them with date and hardware."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    if out is not None:
        date = datetime.now(UTC).date().isoformat()
        record = {"benchmark": name, "title": title, "rows": list(rows), **more}
        record |= {"date": date, "hardware": hardware()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")


def recorded(result: str, metric: str) -> str:
    """What a stored result of one row says, mean ± 95 % interval; nothing where it is not
    recorded."""
    for row in stored().get(result, {"measured": {}})["measured"].values():
        return f"{row[metric]['mean']:#.4g} ± {row[metric]['interval']:.2g}"
    return ""
