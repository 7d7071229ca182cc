"""Options that several commands share, and how results are printed."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from tyro.conf import Positional, arg

RunFolder: TypeAlias = Positional[Annotated[Path, arg(metavar="RUN", help="Folder of a run.")]]
Device: TypeAlias = Annotated[str, arg(help="Device to compute on: cpu or cuda.")]
AsJson: TypeAlias = Annotated[bool, arg(name="json", help="Print JSON.")]
Invert: TypeAlias = Annotated[
    bool,
    arg(help="Swap dark and light. Letters that come with quickstudy are light on dark."),
]
SkipUnreadable: TypeAlias = Annotated[
    bool, arg(help="Skip files that are not images instead of stopping.")
]
Execution: TypeAlias = Annotated[
    Literal["recipe", "auto", "vmap", "loop", "compiled"],
    arg(
        help="How to execute tasks. auto times the ways first; a resumed run keeps its way. "
        "recipe is as the recipe sets."
    ),
]
MemoryLimit: TypeAlias = Annotated[
    str | None,
    arg(help="Most memory that a step may take, such as 8GiB. Measures which execution fits."),
]


def dumps(data: Any) -> str:
    """Return data as indented JSON.

    Examples:
        >>> print(dumps({"accuracy": 0.5}))
        {
         "accuracy": 0.5
        }
    """
    return json.dumps(data, indent=1)
