"""What streams consist of."""

import math
from functools import partial
from itertools import islice

import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets.labelled import Labelled, split_examples
from quickstudy.tasks.examples import rotate_images
from quickstudy.tasks.recurring_classes import recurring
from quickstudy.tasks.scenarios import class_incremental, permuted, rotated, split_domains
from quickstudy.tasks.streams import Streams


def images(classes: int = 6, each: int = 10) -> Labelled:
    """Of which every one has a value of its own."""
    x = torch.arange(1, classes * each + 1).float()[:, None, None, None]
    y = torch.arange(classes).repeat_interleave(each)
    return Labelled(x.expand(-1, 1, 4, 4).clone(), y, tuple("abcdef"[:classes]), name="images")


TRAIN, TEST = split_examples(images(), 0.5)


def values(x: torch.Tensor) -> list[float]:
    return x.flatten(1)[:, 0].tolist()


def test_each_class_comes_once_with_all_its_examples_and_its_own_test():
    stream = class_incremental(TRAIN, TEST, per_task=2, seed=3)
    assert len(stream) == 3
    arrived = [v for task in stream for v in values(task.support.x)]
    assert sorted(arrived) == sorted(values(TRAIN.x))
    for number, (support, query) in enumerate(stream):
        columns = {2 * number, 2 * number + 1}  # in the order of their arrival
        assert set(support.y.argmax(1).tolist()) == columns
        assert set(query.y.argmax(1).tolist()) == columns
        assert support.y.shape == (10, 6)
        of_train = {v for v in values(support.x)} | {v for v in values(query.x)}
        owner = {(v - 1) // 10 for v in of_train}
        assert len(owner) == 2  # the same two classes in both


def test_a_seed_says_everything_and_another_another_order():
    first, again, other = (class_incremental(TRAIN, TEST, seed=s) for s in (1, 1, 2))
    assert torch.equal(first[1].support.x, again[1].support.x)
    assert any(
        not torch.equal(a.support.x, b.support.x) for a, b in zip(first, other, strict=True)
    )
    assert torch.equal(first[-1].query.x, first[2].query.x)


def test_blurred_boundaries_mix_neighbours_and_keep_every_example():
    stream = class_incremental(TRAIN, TEST, per_task=1, blur=0.3, seed=0)
    arrived = [v for task in stream for v in values(task.support.x)]
    assert sorted(arrived) == sorted(values(TRAIN.x))
    strayed = [
        abs(label - number)
        for number, task in enumerate(stream)
        for label in task.support.y.argmax(1).tolist()
    ]
    assert 0 < sum(strayed) < 15
    assert max(strayed) <= 2
    for number, task in enumerate(stream):
        assert set(task.query.y.argmax(1).tolist()) == {number}


def test_examples_of_a_class_can_be_few_and_tasks_fewer_than_classes():
    stream = class_incremental(TRAIN, TEST, per_task=2, tasks=2, examples=3)
    assert [len(task.support.x) for task in stream] == [6, 6]
    assert stream[0].support.y.shape == (6, 4)
    assert len(stream[0].query.x) == 10


def test_split_domains_have_the_same_labels():
    stream = split_domains(TRAIN, TEST, per_task=2)
    for task in stream:
        assert task.support.y.shape[1] == 2
        assert task.support.y.sum(0).tolist() == [5, 5]
    assert stream.card()["tasks"] == "domain-incremental, split"


def test_permuted_features_are_the_same_in_support_and_query():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(12, 1, 4, 4).clone()
    y = torch.arange(2).repeat(6)
    data = Labelled(x, y, ("a", "b"))
    stream = permuted(data, data, tasks=3, examples=4)
    for support, query in stream:
        assert torch.equal(support.x[0], query.x[0])
        assert support.x[0].flatten().sort().values.tolist() == list(range(16))
    assert not torch.equal(stream[0].support.x[0], stream[1].support.x[0])


def test_rotations_rise_and_quarter_turns_are_exact():
    x = torch.rand(2, 3, 6, 6)
    for quarter in range(4):
        expected = torch.rot90(x, quarter, (-2, -1))
        torch.testing.assert_close(
            rotate_images(x, 90 * quarter), expected, rtol=1e-4, atol=1e-4
        )
    wide = torch.zeros(1, 1, 5, 9)
    wide[0, 0, 2, 4:] = 1  # from the centre to the right
    up = rotate_images(wide, 90)[0, 0]
    assert up[:3, 4].sum() > 2.4  # now from the centre upwards
    assert up[3:].abs().sum() < 0.1
    stream = rotated(TRAIN, TEST, tasks=4, examples=7)
    assert [len(task.support.x) for task in stream] == [7] * 4
    assert len(stream[2].query.x) == len(TEST)
    assert stream.card()["degrees"] == 180


def test_recurring_classes_have_bouts_a_long_tail_and_newcomers():
    data = datasets.digits()
    train, test = split_examples(data, 0.7)
    stream = recurring(train, test, tasks=30, examples=60, stay=0.9, tail=1.0, seed=1)
    label = torch.cat([task.support.y.argmax(1) for task in stream])
    same = (label[1:] == label[:-1]).float().mean()
    assert 0.88 < same < 0.97  # 0.9, and the next bout may be of the same class
    counts = torch.bincount(label, minlength=10)
    assert counts[0] > 2 * counts[5:].max()
    first = [int((label == c).nonzero()[0]) for c in range(10) if (label == c).any()]
    assert first == sorted(first)  # columns are in the order of arrival
    assert first[3] > 20
    for support, query in islice(stream, 3):
        assert set(query.y.argmax(1).tolist()) == set(support.y.argmax(1).tolist())


def test_what_recurs_drifts():
    still = recurring(TRAIN, TEST, tasks=3, examples=8)
    moved = recurring(TRAIN, TEST, tasks=3, examples=8, drift=30)
    assert torch.equal(still[0].query.x, moved[0].query.x)
    assert not torch.allclose(still[2].query.x, moved[2].query.x)
    expected = rotate_images(still[2].query.x, 60)
    torch.testing.assert_close(moved[2].query.x, expected)


def test_streams_by_seed_are_tasks_of_their_beginnings():
    streams = Streams(partial(class_incremental, TRAIN, TEST, examples=4))
    batch = streams.sample(3, torch.Generator().manual_seed(0))
    assert batch.support.x.shape == (3, 8, 1, 4, 4)
    assert "seed" not in streams.card()
    assert math.isclose(streams.stream(5)[0].support.y.sum(), 8)


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="Lower `tasks`"):
        class_incremental(TRAIN, TEST, per_task=4, tasks=2)
    with pytest.raises(ValueError, match="lower `examples`"):
        class_incremental(TRAIN, TEST, examples=6)
    with pytest.raises(ValueError, match="split_examples"):
        class_incremental(TRAIN, TEST.select([0, 1]))
    with pytest.raises(ValueError, match="to draw an experience"):
        permuted(TRAIN, TEST, examples=100)
    with pytest.raises(ValueError, match="probability"):
        recurring(TRAIN, TEST, stay=1.0)
    flat = Labelled(torch.rand(6, 3), torch.arange(6) % 2, ("a", "b"))
    with pytest.raises(ValueError, match="only images"):
        rotated(flat, flat)
    with pytest.raises(ValueError, match="can drift"):
        recurring(flat, flat, drift=1.0)
    with pytest.raises(ValueError, match="one stream at a time"):
        uneven = split_examples(datasets.digits(), 0.5)
        Streams(partial(class_incremental, *uneven)).sample(4, torch.Generator())
