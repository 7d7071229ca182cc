"""What classical agents earn on Bernoulli bandits, beside what was published.

Total reward of n pulls of k arms with probabilities uniform in [0, 1]; the mean over bandits
± its 95 % interval, and in brackets the number of RL² (Duan et al., 2016, arXiv:1611.02779,
table 1), a mean of 1,000. As there, the constants of UCB1 and ε-greedy are the best of a few,
on other bandits. Indices of Gittins are those for a finite horizon; the paper approximates. RL²
is what its recipe has recorded, on 10,000 bandits of its own.

    python -m benchmarks.bandits --out FILE.json
"""

import argparse
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from benchmarks.common import recorded, write
from quickstudy.environments import (
    BernoulliBandit,
    at_random,
    epsilon_greedy,
    gittins,
    greedy,
    play,
    thompson,
    ucb1,
)
from quickstudy.evaluation.report import half_width

PAPER = {  # by (n, k)
    (10, 5): {"random": 5.0, "Gittins": 6.6, "Thompson": 5.7, "UCB1": 6.7, "ε-greedy": 6.6,
              "greedy": 6.6, "RL²": 6.7},
    (10, 10): {"random": 5.0, "Gittins": 6.6, "Thompson": 5.5, "UCB1": 6.7, "ε-greedy": 6.6,
               "greedy": 6.6, "RL²": 6.7},
    (100, 5): {"random": 49.9, "Gittins": 78.3, "Thompson": 74.7, "UCB1": 78.0,
               "ε-greedy": 75.4, "greedy": 74.8, "RL²": 78.7},
    (100, 10): {"random": 49.9, "Gittins": 82.8, "Thompson": 76.7, "UCB1": 82.4,
                "ε-greedy": 77.4, "greedy": 77.1, "RL²": 83.5},
}  # fmt: skip
UCB1, EPSILON = (0.1, 0.15, 0.2, 0.3, 0.5, 1.0), (0.01, 0.02, 0.05, 0.1, 0.2)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def earned(agent: Any, arms: int, pulls: int, count: int, seed: int) -> Tensor:
    """Total rewards (count,); a seed means the same bandits for every agent."""
    tasks = BernoulliBandit(arms).tasks(count, seeded(seed))
    return play(agent, tasks, pulls, seeded(seed + 1)).sum(-1)


def best(make: Any, constants: tuple[float, ...], arms: int, pulls: int, count: int) -> Any:
    """The agent with the constant that earns most, and the constant."""
    means = [earned(make(c), arms, pulls, count, 10).mean().item() for c in constants]
    constant = constants[means.index(max(means))]
    return make(constant), constant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    rows = []
    for (pulls, arms), published in PAPER.items():
        bounds, c = best(ucb1, UCB1, arms, pulls, options.count // 4)
        explores, epsilon = best(epsilon_greedy, EPSILON, arms, pulls, options.count // 4)
        agents = {
            "random": at_random,
            "Gittins": gittins(pulls),
            "Thompson": thompson,
            "UCB1": bounds,
            "ε-greedy": explores,
            "greedy": greedy,
        }
        row: dict[str, Any] = {"pulls": pulls, "arms": arms}
        for name, agent in agents.items():
            total = earned(agent, arms, pulls, options.count, 0)
            half = half_width(total)
            row[name] = f"{total.mean():.2f} ± {half:.2f} ({published[name]})"
        learned = recorded(f"rl_bandit_rl2_{arms}_arms_{pulls}_pulls", "total reward")
        row |= {"RL²": f"{learned} ({published['RL²']})", "c of UCB1": c, "ε": epsilon}
        rows.append(row)
    title = f"Total reward on {options.count:,} Bernoulli bandits (published: RL², table 1)"
    write("bandits", title, rows, options.out, count=options.count)


if __name__ == "__main__":
    main()
