"""What agents that plan earn in tabular MDPs, beside what was published.

Total reward of trials of n episodes in processes of 10 states and 5 actions, 10 steps each; the
mean over processes ± its 95 % interval, and in brackets the number of RL² (Duan et al., 2016,
arXiv:1611.02779, table 2). PSRL and the greedy agent begin with the distribution that processes
are drawn from, which the paper does not say of its own. RL² and the SNAIL policy are what
their recipe has recorded, on 1,000 processes of its own.

    python -m benchmarks.mdps --out FILE.json
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.common import recorded, write
from quickstudy.environments import (
    MDP,
    TabularMDP,
    categorical,
    expected_mdp,
    play_mdp,
    rollout,
    sampled_mdp,
)
from quickstudy.evaluation.report import half_width

PAPER = {
    10: {"random": 100.1, "PSRL": 138.1, "greedy": 134.8, "RL²": 156.2},
    25: {"random": 250.2, "PSRL": 408.8, "greedy": 368.8, "RL²": 445.7},
}

LEARNED = ("rl2", "snail")


def at_random(state: Any, memory: Any, policy_input: Any, noise: Tensor) -> Any:
    return memory, categorical(torch.zeros_like(noise), noise), ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    process, rows = TabularMDP(), []
    tasks = process.tasks(options.count, Generator().manual_seed(0))

    def knows(*ignored: object) -> MDP:
        return tasks

    agents = {"PSRL": sampled_mdp, "greedy": expected_mdp, "knows the process": knows}
    for episodes, published in PAPER.items():
        generator = Generator().manual_seed(1)
        wandered = rollout(process, tasks, at_random, generator, episodes=episodes)
        totals = {"random": wandered.reward.sum((1, 2))}
        for name, agent in agents.items():
            generator = Generator().manual_seed(1)
            totals[name] = play_mdp(agent, process, tasks, episodes, generator).sum(-1)
        row: dict[str, Any] = {"episodes": episodes}
        for name, total in totals.items():
            half = half_width(total)
            reference = f" ({published[name]})" if name in published else ""
            row[name] = f"{total.mean():.1f} ± {half:.1f}{reference}"
        rl2, snail = (
            recorded(f"rl_mdp_{x}_{episodes}_episodes", "total reward") for x in LEARNED
        )
        rows.append(row | {"RL²": f"{rl2} ({published['RL²']})", "SNAIL policy": snail})
    title = f"Total reward in {options.count:,} tabular MDPs (published: RL², table 2)"
    write("mdps", title, rows, options.out, count=options.count)


if __name__ == "__main__":
    main()
