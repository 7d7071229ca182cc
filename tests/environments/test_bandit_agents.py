"""Classical agents, against published indices, exact dynamic programming, published rewards."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Generator

from quickstudy.environments import (
    BernoulliBandit,
    at_random,
    epsilon_greedy,
    gittins,
    gittins_indices,
    greedy,
    play,
    thompson,
    ucb1,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_indices_of_small_horizons_in_closed_form():
    table = gittins_indices(3)
    wins, losses = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    torch.testing.assert_close(table[1], (wins + 1) / (wins + losses + 2), atol=1e-5, rtol=0)
    # two pulls, the second only after a win: (1/2 + 1/2 * 2/3) rewards in 3/2 pulls
    assert table[2, 0, 0].item() == pytest.approx(5 / 9, abs=1e-4)
    # three: after a win all others, 1/2 + 1/2 * 2 * 2/3 in 2 pulls, or those until a loss
    until_loss = (1 / 2 + 1 / 2 * (2 / 3 + 2 / 3 * 3 / 4)) / (1 + 1 / 2 * (1 + 2 / 3))
    assert table[3, 0, 0].item() == pytest.approx(max(7 / 12, until_loss), abs=1e-4)


def test_indices_are_the_published_ones():
    """Of Gittins (1979), discount 0.9; 60 pulls are as good as infinitely many."""
    table = gittins_indices(60, discount=0.9)[60 - 10]
    for wins, losses, index in ((0, 0, 0.7029), (1, 1, 0.6346), (2, 2, 0.6010), (9, 1, 0.8695)):
        assert table[wins, losses].item() == pytest.approx(index, abs=5e-4)


def best(pulls: int, discount: float, indices: torch.Tensor | None) -> float:
    """The expected reward of the best policy for two arms, or of the one by indices (either
    for the pulls that are left, or one table for all), by dynamic programming."""

    @cache
    def value(left: int, *counts: int) -> float:
        if left == 0:
            return 0.0
        values = []
        for arm in (0, 2):
            won, lost = list(counts), list(counts)
            won[arm] += 1
            lost[arm + 1] += 1
            chance = (1 + counts[arm]) / (2 + counts[arm] + counts[arm + 1])
            values.append(
                chance * (1 + discount * value(left - 1, *won))
                + (1 - chance) * discount * value(left - 1, *lost)
            )
        if indices is None:
            return max(values)
        table = indices if indices.ndim == 2 else indices[left]
        a, b = table[counts[0], counts[1]].item(), table[counts[2], counts[3]].item()
        return values[int(b > a)]

    return value(pulls, 0, 0, 0, 0)


def test_by_discounted_indices_two_arms_are_played_as_well_as_can_be():
    """The index theorem."""
    table = gittins_indices(45, discount=0.6)[30]
    assert best(14, 0.6, table) == pytest.approx(best(14, 0.6, None), abs=1e-3)  # 0.6^14 left
    assert best(14, 0.6, gittins_indices(14)[1]) < best(14, 0.6, None) - 1e-3  # greedy is not


def test_for_a_finite_horizon_indices_are_nearly_the_best():
    exact, greedily = best(12, 1, None), best(12, 1, gittins_indices(12)[1])
    indexed = best(12, 1, gittins_indices(12))
    assert greedily < indexed <= exact + 1e-9
    assert exact - indexed < 0.1 * (exact - greedily)


def test_play_earns_what_dynamic_programming_says():
    tasks = BernoulliBandit(2).tasks(20_000, seeded())
    rewards = play(gittins(8), tasks, 8, seeded(1)).sum(-1)
    assert rewards.mean().item() == pytest.approx(best(8, 1, gittins_indices(8)), abs=0.06)
    rewards = play(greedy, tasks, 8, seeded(1)).sum(-1)
    assert rewards.mean().item() == pytest.approx(best(8, 1, gittins_indices(8)[1]), abs=0.06)


@pytest.mark.parametrize(
    ("name", "agent", "few", "many"),
    [  # RL² (Duan et al., 2016), table 1: 5 arms, 10 and 100 pulls
        ("random", at_random, 5.0, 49.9),
        ("Gittins", None, 6.6, 78.3),
        ("Thompson", thompson, 5.7, 74.7),
        ("UCB1", ucb1(0.2), 6.7, 78.0),
        ("greedy", greedy, 6.6, 74.8),
    ],
)
def test_agents_earn_what_was_published(name: str, agent: Any, few: float, many: float):
    tasks = BernoulliBandit(5).tasks(2000, seeded())
    rewards = play(agent or gittins(100), tasks, 100, seeded(1))
    assert rewards.shape == (2000, 100)
    # two means of 1000 and 2000 bandits, whose rewards deviate by about 2.4 and 16
    assert rewards.sum(-1).mean().item() == pytest.approx(many, abs=1.8)
    if name != "Gittins":  # which plans for all 100
        assert rewards[:, :10].sum(-1).mean().item() == pytest.approx(few, abs=0.3)


def test_epsilon_is_how_often_an_agent_explores():
    tasks = torch.tensor([[1.0, 0.0]]).repeat(500, 1)
    rewards = play(epsilon_greedy(0.2), tasks, 50, seeded(1))
    assert rewards[:, 10:].mean().item() == pytest.approx(0.9, abs=0.02)
    assert torch.equal(rewards, play(epsilon_greedy(0.2), tasks, 50, seeded(1)))


def test_equal_scores_are_decided_at_random():
    tasks = torch.tensor([[0.0, 0.0, 1.0]]).repeat(3000, 1)
    assert play(greedy, tasks, 1, seeded(1)).mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_a_discount_above_one_is_refused():
    with pytest.raises(ValueError, match="counts all pulls alike"):
        gittins_indices(3, discount=1.1)
