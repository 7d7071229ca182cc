"""Pictures of a memory have in them what its heads did."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from quickstudy import PrototypicalNetwork, SequenceLearner, Task, runs
from quickstudy.core.task import batches
from quickstudy.core.tree import tree_map
from quickstudy.nets import NTM, StackedLSTM
from quickstudy.reports.attention import _draw, draw_attention
from quickstudy.reports.html import LIGHT
from quickstudy.tasks import Copy
from quickstudy.testing.learners import Blobs

WORDS = Copy(4, length=(2, 5), ragged=True)


@pytest.fixture
def learner() -> SequenceLearner:
    return SequenceLearner(NTM(5, 4, hidden=8, slots=7, width=4, reads=2))


@torch.no_grad()
def test_weightings_are_those_of_every_step(learner: SequenceLearner):
    batch = Copy(4, length=(3, 3)).sample(1, torch.Generator())
    task = tree_map(lambda leaf: leaf[0], batch)
    found = learner.attention_weights(task)
    assert list(found) == ["read head 1", "read head 2", "write head 1"]
    state = learner.cell.initial_state()
    for step, x in enumerate(torch.cat([task.support.x, torch.zeros(3, 5)])):
        _, state = learner.cell.step(x, state)
        for head, each in enumerate(found.values()):
            torch.testing.assert_close(each[step], state.attention_weights[head])
    later = task.query.take(slice(2, None))
    for whole, part in zip(
        found.values(),
        learner.attention_weights(Task(task.support, later)).values(),
        strict=True,
    ):
        torch.testing.assert_close(part, whole[[0, 1, 2, 3, 6]])


def test_a_picture_for_each_head_of_the_steps_that_are_no_padding(
    learner: SequenceLearner, monkeypatch: pytest.MonkeyPatch
):
    drawn = {}

    def noted(axes: object, palette: object, *, name: str, **given: object):
        drawn[name] = given

    monkeypatch.setattr("quickstudy.reports.attention._draw", noted)
    html = draw_attention(learner, runs.Benchmark(WORDS, meta_batch_size=3))
    assert html.count("<picture>") == 3 and 'alt="the write head 1"' in html
    first = tree_map(lambda leaf: leaf[0], next(iter(batches(WORDS, 3, steps=1, seed=1))))
    length = int(first.query.weight.sum())
    for given in drawn.values():
        assert given["weights"].shape == (2 * length + 1, 7)
        assert given["n_support"] == length + 1
    assert learner.training


def test_slots_go_up_and_steps_to_the_right():
    axes = Figure().add_subplot()
    weighting = torch.rand(6, 9)
    _draw(axes, LIGHT, "read head 1", weighting, slice(2, 5), 4)
    (image,) = axes.images
    assert np.array_equal(np.asarray(image.get_array()), weighting[:, 2:5].T.numpy())
    assert image.get_extent() == [0.5, 6.5, 1.5, 4.5] and image.origin == "lower"
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [4.5, 4.5]


def test_nothing_is_drawn_of_learners_without_heads():
    assert (
        draw_attention(
            SequenceLearner(StackedLSTM(5, 4, hidden=4)),
            runs.Benchmark(WORDS, meta_batch_size=2),
        )
        == ""
    )
    assert (
        draw_attention(
            PrototypicalNetwork(nn.Linear(8, 4)), runs.Benchmark(Blobs(), meta_batch_size=2)
        )
        == ""
    )
