"""Draws the wrong bits of copied sequences against their length, for the page of neural Turing
machines: docs/learners/ntm.svg, from recipes/results/copy_*.json.

    python docs/lengths.py
"""

import json
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
LABELS = {
    "ntm": "NTM, LSTM controller",
    "feed_forward": "NTM, feed-forward controller",
    "lstm": "LSTM, 3 layers of 256",
}


def main() -> None:
    """Writes the picture; what has not been measured is left out."""
    rcParams["svg.hashsalt"] = "lengths"  # the same numbers make the same file
    sheet = Figure((6.4, 3.4), layout="constrained")
    axes = sheet.add_subplot()
    chance = dict[int, float]()
    for key, label in LABELS.items():
        file = ROOT / "recipes" / "results" / f"copy_{key}.json"
        if not file.exists():
            continue
        measured = json.loads(file.read_text())["measured"]
        rows = {int(name[7:]): row for name, row in measured.items() if name[:7] == "length "}
        errors = [row["bit_errors"] for row in rows.values()]
        mean, wide = ([e[part] for e in errors] for part in ("mean", "interval"))
        axes.errorbar(list(rows), mean, yerr=wide, marker="o", capsize=3, label=label)
        chance |= {n: row["card"]["bits"] * n / 2 for n, row in rows.items()}
    axes.plot(list(chance), list(chance.values()), ":", color="grey", label="guessing")
    axes.axvline(20, color="lightgrey", zorder=0)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set(xlabel="length of the sequence", ylabel="wrong bits", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    sheet.savefig(ROOT / "docs" / "learners" / "ntm.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
