"""Trajectories: against the data set that they are drawn from."""

from typing import Any

import pytest
import torch

from quickstudy.datasets import Labelled
from quickstudy.tasks import OnlineTrajectoryTasks
from tests.tasks.test_classification import numbered


def draw(tasks: OnlineTrajectoryTasks, size: int = 6, seed: int = 0) -> Any:
    return tasks.sample(size, torch.Generator().manual_seed(seed))


def test_classes_come_one_after_the_other_by_the_data_sets_labels():
    data = numbered()
    support, query = draw(OnlineTrajectoryTasks(data, ways=2, shots=3, replay_examples=7))
    assert support.x.shape == (6, 6, 1) and query.y.shape == (6, 13, 5)
    for part in (support, query):
        assert (part.y.sum(-1) == 1).all() and (part.weight == 1).all()
        assert (part.y.argmax(-1) == data.y[part.x[..., 0].long()]).all()
    label = support.y.argmax(-1)
    assert (label[:, :3] == label[:, :1]).all() and (label[:, 3:] == label[:, 3:4]).all()
    assert (label[:, 0] != label[:, 3]).all()
    assert all(len(set(rows)) == 6 for rows in support.x[..., 0].tolist())
    torch.testing.assert_close(query.x[:, :6], support.x)


def test_every_example_is_drawn_equally_often():
    support, query = draw(
        OnlineTrajectoryTasks(numbered(), ways=2, shots=3, replay_examples=5), size=4000
    )
    for part, each in ((support.x, 6), (query.x[:, 6:], 5)):
        counts = torch.bincount(part.flatten().long(), minlength=20)
        assert (counts - 200 * each).abs().max() < 6 * (200 * each) ** 0.5


def test_turned_classes_have_columns_of_their_own():
    pixels = torch.arange(4).float().reshape(1, 1, 2, 2).repeat(6, 1, 1, 1)
    data = Labelled(pixels, torch.arange(6) // 2, tuple("abc"), name="squares")
    tasks = OnlineTrajectoryTasks(data, ways=3, shots=2, replay_examples=4, rotations="classes")
    for part in draw(tasks, size=20):
        turns = part.y.argmax(-1) // 3
        assert part.y.shape[-1] == tasks.classes == 12 and turns.max() == 3
        for x, turn in zip(part.x.flatten(0, 1), turns.flatten().tolist(), strict=True):
            torch.testing.assert_close(x, torch.rot90(pixels[0], turn, (-2, -1)))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="1 to 5 ways of 1 to 4 shots"):
        OnlineTrajectoryTasks(numbered(), shots=5)
    with pytest.raises(ValueError, match="not 'classes'"):
        OnlineTrajectoryTasks(numbered(), rotations="random")  # pyright: ignore[reportArgumentType]


def test_a_card_says_what_was_drawn():
    card = OnlineTrajectoryTasks(numbered(), 2, 3).card()
    assert (card["ways"], card["shots"], card["remember"]) == (2, 3, 64)
