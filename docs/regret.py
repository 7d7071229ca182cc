"""Draws the regret of agents on bandits against the number of pulls, for the page of
meta-reinforcement learning: docs/regret.svg.

    python docs/regret.py [RUN]

RUN is the folder of a run of the recipe `rl_bandit`, whose policy is drawn as well, on bandits
of as many arms and with as many pulls; without one there are 5 arms and 100 pulls.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from scipy.stats import t as student
from torch import Generator, Tensor

from quickstudy import Actor, runs
from quickstudy.core.tree import tree_map
from quickstudy.environments import (
    BernoulliBandit,
    epsilon_greedy,
    gittins,
    greedy,
    play,
    rollout,
    thompson,
    ucb1,
)

ROOT = Path(__file__).resolve().parent.parent
COUNT = 5000  # bandits
QUANTILE = student.ppf(0.975, COUNT - 1)  # for intervals of 95 %


def main(folders: list[str]) -> None:
    """Writes the picture."""
    run = runs.reopen(folders[0]) if folders else None
    settings: dict[str, Any] = run.settings if run else {"arms": 5, "pulls": 100}
    bandit, pulls = BernoulliBandit(settings["arms"]), settings["pulls"]
    tasks = bandit.tasks(COUNT, Generator().manual_seed(0))
    agents = {
        "greedy": greedy,
        "ε-greedy, ε = 0.01": epsilon_greedy(0.01),
        "Thompson": thompson,
        "UCB1, c = 0.2": ucb1(0.2),
        "Gittins": gittins(pulls),
    }
    rewards = {n: play(a, tasks, pulls, Generator().manual_seed(1)) for n, a in agents.items()}
    if run is not None:
        label = {"rl2": "RL²", "snail": "SNAIL policy"}[settings["learner"]]
        rewards[f"{label}, learned"] = acted(run, bandit, tasks, pulls)
    rcParams["svg.hashsalt"] = "regret"  # the same numbers make the same file
    sheet = Figure((6.4, 3.6), layout="constrained")
    axes = sheet.add_subplot()
    for name, paid in rewards.items():
        regret = (tasks.amax(-1, keepdim=True) - paid).cumsum(-1)
        mean, wide = regret.mean(0), QUANTILE * regret.std(0) / COUNT**0.5
        (line,) = axes.plot(range(1, pulls + 1), mean, label=name, zorder=3)
        band = {"color": line.get_color(), "alpha": 0.2, "linewidth": 0}
        axes.fill_between(range(1, pulls + 1), mean - wide, mean + wide, **band)
    axes.set(xlabel="pulls", ylabel="regret", xlim=(1, pulls), ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    sheet.savefig(ROOT / "docs" / "regret.svg", metadata={"Date": None})


def acted(run: runs.Run, bandit: BernoulliBandit, tasks: Tensor, pulls: int) -> Tensor:
    """The rewards (T, pulls) of a run's policy."""
    actor = run.experiment.learner.eval()
    assert isinstance(actor, Actor)
    begun = tree_map(lambda leaf: leaf.expand(len(tasks), *leaf.shape), actor.initial_state())
    options = {"state": begun[0], "memory": begun[1], "episodes": pulls, "trial": True}
    found = rollout(bandit, tasks, actor.act, Generator().manual_seed(1), **options)
    return found.reward.sum(-1)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1:])
