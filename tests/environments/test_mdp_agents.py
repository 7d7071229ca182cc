"""Planning against every policy there is; beliefs against counting, and what they earn."""

from itertools import product

import torch
from torch import Generator, Tensor

from quickstudy.core.tree import unstack
from quickstudy.environments import (
    MDP,
    TabularMDP,
    expected_mdp,
    plan,
    play_mdp,
    sampled_mdp,
)


def test_a_plan_is_the_best_of_all_policies() -> None:
    process = TabularMDP(2, 2, horizon=3)
    tasks = process.tasks(4, Generator().manual_seed(0))
    for single, table in zip(unstack(tasks), plan(tasks, 3), strict=True):
        q_values = {}
        for choices in product(range(2), repeat=6):  # an action for each step and state
            value = torch.zeros(2)
            for step in reversed(range(3)):
                rows = [choices[2 * step + state] for state in range(2)]
                value = torch.stack(
                    [
                        single.means[s, a] + single.transitions[s, a] @ value
                        for s, a in enumerate(rows)
                    ]
                )
            q_values[choices] = value[0].item()
        best = max(q_values.values())
        assert abs(best - process.best_return(single).item()) < 1e-5
        assert abs(q_values[tuple(table.argmax(-1).flatten().tolist())] - best) < 1e-5


def test_beliefs_are_posteriors() -> None:
    visits, paid = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2)
    visits[0, 0, 1, 1], paid[0, 0, 1] = 8, 30.0
    believed = expected_mdp(visits, paid, Generator())
    torch.testing.assert_close(believed.transitions[0, 0, 1], torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(believed.transitions[0, 1, 1], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(believed.means[0, 0], torch.tensor([1.0, 31 / 9]))
    many, much = (each.expand(20_000, *each.shape[1:]) for each in (visits, paid))
    drawn = sampled_mdp(many, much, Generator().manual_seed(0))
    chance, mean = drawn.transitions[:, 0, 1, 1], drawn.means[:, 0, 1]
    assert abs(chance.mean() - 0.9) < 0.005  # Beta(9, 1)
    assert abs(chance.var() - 9 / 1100) < 0.0005
    assert abs(mean.mean() - 31 / 9) < 0.02 and abs(mean.var() - 1 / 9) < 0.01


def test_who_knows_more_earns_more() -> None:
    process, generator = TabularMDP(4, 3, horizon=5), Generator().manual_seed(0)
    tasks = process.tasks(500, generator)

    def knows(visits: Tensor, paid: Tensor, generator: Generator) -> MDP:
        return tasks

    earned = {
        name: play_mdp(belief, process, tasks, 8, Generator().manual_seed(1))
        for name, belief in (("all", knows), ("mean", expected_mdp), ("drawn", sampled_mdp))
    }
    best = torch.func.vmap(process.best_return)(tasks)
    assert abs(earned["all"].mean() - best.mean()) < 0.2
    for name in ("mean", "drawn"):
        assert earned[name][:, 0].mean() < 0.75 * best.mean()  # nothing is known at first
        assert 0.75 * best.mean() < earned[name][:, -1].mean() < best.mean()
