"""Draws what policies earn against how long they have acted in training, for the page of
meta-reinforcement learning: docs/rl_cheetah.svg and docs/rl_navigation.svg, from
recipes/results/rl_*.json.

    python docs/curves.py

A line is the mean over seeds of the return after adapting, dotted before it, of tasks drawn for
validation; its band is from the lowest seed to the highest. Of what is not meta-trained, and of
a policy that was trained without adapting, there is a horizontal line: the return after
adapting of the tests. What has not been measured is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import quickstudy as qs
from quickstudy import runs

ROOT = Path(__file__).resolve().parent.parent
CURVES = {
    "maml_trpo": "MAML, TRPO",
    "maml_ppo": "MAML, PPO",
    "e_maml": "E-MAML, TRPO",
    "promp": "ProMP",
    "pearl": "PEARL",
}
LINES = {"pretrained": "pretrained", "scratch": "from scratch", "untrained": "untrained"}


class Picture(NamedTuple):
    """The results of a recipe, in a panel for each value of a setting."""

    recipe: str
    setting: str | None = None
    panels: Mapping[Any, str] = {None: ""}  # value: title


PICTURES = (
    Picture("rl_cheetah", "task", {"dir": "forwards or backwards", "vel": "at a velocity"}),
    Picture("rl_navigation"),
)


def main(folder: Path = ROOT / "docs") -> list[Path]:
    """Writes the pictures that there are results for."""
    rcParams["svg.hashsalt"] = "curves"  # the same numbers make the same file
    stored = [each for each in runs.stored().values() if "learner" in each["settings"]]
    written = []
    for name, setting, panels in PICTURES:
        found = [each for each in stored if each["recipe"] == name]
        kinds = {title: [r for r in found if r["settings"].get(setting) == value]
                 for value, title in panels.items()}  # fmt: skip
        kinds = {title: results for title, results in kinds.items() if results}
        if not kinds:
            continue
        sheet = Figure((3.2 + 3.2 * len(kinds), 3.6), layout="constrained")
        for axes, (title, results) in zip(
            sheet.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True
        ):
            draw(axes, results)
            axes.set(title=title, xlabel="steps in the environment", xscale="log")
            axes.spines[["top", "right"]].set_visible(False)
        sheet.axes[0].set_ylabel("return of an episode")
        sheet.axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        written.append(folder / f"{name}.svg")
        sheet.savefig(written[-1], metadata={"Date": None})
    return written


def draw(axes: Axes, results: Sequence[Any]) -> None:
    """All learners that there are results of."""
    for i, (learner, label) in enumerate((CURVES | LINES).items()):
        seeds = [each for each in results if each["settings"]["learner"] == learner]
        style: dict[str, Any] = {"color": f"C{i}", "label": label}
        if learner in LINES and seeds:
            rows = [next(iter(each["measured"].values())) for each in seeds]
            level = np.mean([row["return after"]["mean"] for row in rows])
            axes.axhline(float(level), linestyle="--", linewidth=1, **style)
        elif seeds:
            settings = seeds[0]["settings"]
            experiment = runs.find(seeds[0]["recipe"]).recipe(**settings)
            after = history(seeds, "validation return after")
            before = history(seeds, "validation return before")
            steps = [acted(experiment, step) for step in after]
            returns = np.array(list(after.values()))
            axes.plot(steps, returns.mean(1), **style)
            axes.fill_between(
                steps, returns.min(1), returns.max(1), color=f"C{i}", alpha=0.2, linewidth=0
            )
            means = np.array(list(before.values())).mean(1)
            axes.plot(steps, means, ":", color=f"C{i}")


def history(results: Sequence[Any], metric: str) -> dict[int, list[float]]:
    """By the step of training, of each result; of steps after which all were validated."""
    each = [{entry["step"]: entry[metric] for entry in r["history"]} for r in results]
    shared = [step for step in each[0] if all(step in one for one in each)]
    return {step: [one[step] for one in each] for step in shared}


def acted(experiment: runs.Experiment, step: int) -> int:
    """Steps in the environment that training has taken by a step of it."""
    train = experiment.train
    if isinstance(train, qs.tasks.OffPolicyTasks):
        rollouts, tasks = train.rollouts, len(train.replay.write_count)
        tasks += train.collect * ((step - 1) // train.every)
    else:
        assert isinstance(train, qs.tasks.Rollouts)
        rollouts, tasks = train, step * experiment.meta_batch_size
    return tasks * 2 * rollouts.episodes * rollouts.environment.horizon


if __name__ == "__main__":
    main()
