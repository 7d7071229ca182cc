"""Few-shot sampling: what a task promises, for every setting."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quickstudy import FewShot, batches
from quickstudy.datasets import Labelled


def numbered(classes: int = 12, each: int = 9, *, uneven: bool = False) -> Labelled:
    """Examples whose single feature is their own row number, in scrambled order."""
    y = torch.arange(classes).repeat_interleave(each)
    if uneven:
        y = torch.cat([y, torch.zeros(40, dtype=torch.long)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    x = torch.arange(len(y), dtype=torch.float32)[:, None]
    groups = torch.arange(classes) % 2
    return Labelled(x, y, tuple(map(str, range(classes))), groups, ("even", "odd"))


def draw(tasks: FewShot, size: int = 6, seed: int = 0) -> Any:
    return tasks.sample(size, torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    ways=st.integers(2, 6),
    shots=st.integers(1, 4),
    queries=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    uneven=st.booleans(),
)
def test_a_task_has_what_it_says(
    ways: int, shots: int, queries: int, seed: int, uneven: bool
) -> None:
    data = numbered(uneven=uneven)
    task = draw(FewShot(data, ways, shots, queries), seed=seed)
    for t in range(6):
        support, query = (part.x[t, :, 0].long() for part in task)
        assert len({*support.tolist(), *query.tolist()}) == ways * (shots + queries)
        for part, rows, each in ((task.support, support, shots), (task.query, query, queries)):
            assert part.y[t].sum(0).tolist() == [each] * ways
            for column in range(ways):  # a label is one class, of support and query alike
                classes = data.y[rows[part.y[t, :, column] == 1]]
                assert classes.unique().numel() == 1
        of_support = data.y[support][task.support.y[t].argmax(0)]
        of_query = data.y[query][task.query.y[t].argmax(0)]
        assert torch.equal(of_support, of_query)
        assert of_support.unique().numel() == ways


def test_every_class_and_example_is_drawn_equally_often() -> None:
    data = numbered(classes=10, each=5)
    task = draw(FewShot(data, 5, 1, 1), size=4000)
    hits = torch.bincount(task.support.x.flatten().long(), minlength=50).double()
    # 4000 tasks of 5 draw each of 50 rows 400 times in the mean; chi-square with 49 degrees
    # of freedom exceeds 95 once in ten thousand
    assert ((hits - 400) ** 2 / 400).sum() < 95
    places = task.support.y.argmax(-1).flatten(0, 1)  # order says nothing of the label
    first = torch.bincount(task.support.y[:, 0].argmax(-1), minlength=5).double()
    assert places.shape == (20_000,)
    assert ((first - 800) ** 2 / 800).sum() < 24


def test_a_batch_is_a_function_of_the_step() -> None:
    tasks = FewShot(numbered(), 3, 2, 2)
    steps = list(batches(tasks, 4, steps=5, seed=3))
    resumed = list(batches(tasks, 4, steps=5, start=3, seed=3))
    assert torch.equal(steps[3].query.x, resumed[0].query.x)


def test_variable_ways_and_shots_are_padded_by_weight() -> None:
    task = draw(FewShot(numbered(), (2, 5), (1, 3), 2), size=200)
    per_class = task.support.y.sum(1)  # (T, C)
    present = per_class > 0
    assert set(present.sum(1).tolist()) == {2, 3, 4, 5}
    assert set(per_class[present].tolist()) == {1, 2, 3}
    balanced = torch.where(present, per_class, per_class.max(1, keepdim=True).values)
    assert (balanced == balanced[:, :1]).all()
    assert torch.equal(task.support.y.sum(-1), task.support.weight)
    assert torch.equal(task.query.y.sum(1) > 0, present)
    uneven = draw(FewShot(numbered(), 4, (1, 3), 2, imbalanced=True), size=200)
    assert (uneven.support.y.sum(1).std(1) > 0).any()


def test_a_task_stays_within_a_superclass() -> None:
    data = numbered()
    task = draw(FewShot(data, 4, 1, 1, within_groups=True), size=60)
    assert data.groups is not None
    groups = data.groups[data.y[task.support.x[..., 0].long()]]
    assert (groups == groups[:, :1]).all()
    assert set(groups[:, 0].tolist()) == {0, 1}


@pytest.mark.parametrize("distractors", [0, 2])
def test_classes_in_order_have_the_same_label_in_every_task(distractors: int) -> None:
    data = numbered()
    tasks = FewShot(data, 4, 1, 1, unlabelled=1, distractors=distractors, ordered=True)
    task = draw(tasks, size=200)
    classes = data.y[task.query.x[..., 0].long()]  # (T, 4)
    by_label = classes.gather(1, task.query.y.argmax(1))  # by label
    assert (by_label.diff(dim=1) > 0).all() and set(by_label.flatten().tolist()) == set(
        range(12)
    )
    known = data.y[task.support.x[..., 0].long()]
    assert torch.equal(known.gather(1, task.support.y.argmax(1)), by_label)
    all_six = FewShot(data, 6, 1, 1, within_groups=True, ordered=True)
    task = draw(all_six, size=60)
    classes = data.y[task.query.x[..., 0].long()]
    assert torch.equal(classes // 2, task.query.y.argmax(-1))  # the groups are even and odd


@pytest.mark.parametrize(("ways", "distractors"), [(3, 0), (3, 2), ((2, 4), 2)])
def test_unlabelled_support_is_of_the_same_classes_and_of_distractors(
    ways: Any, distractors: int
) -> None:
    data = numbered()
    tasks = FewShot(data, ways, (1, 2), 2, unlabelled=3, distractors=distractors)
    task = draw(tasks, size=50)
    high = tasks.ways[1]
    assert task.support.y.shape == (50, (high + distractors) * 5, high)
    assert task.query.y.shape == (50, high * 2, high)
    assert torch.equal(task.query.y.sum(-1), task.query.weight)
    for support, query in zip(
        zip(*task.support, strict=True), zip(*task.query, strict=True), strict=True
    ):
        x, y, weight = support
        real = weight == 1
        labelled = y.any(-1)
        assert not labelled[~real].any()
        seen = [*x[real, 0].long().tolist(), *query[0][query[2] == 1, 0].long().tolist()]
        assert len(set(seen)) == len(seen)
        known = set(data.y[x[labelled, 0].long()].tolist())
        assert known == set(data.y[query[0][query[2] == 1, 0].long()].tolist())
        loose = torch.bincount(data.y[x[real & ~labelled, 0].long()], minlength=12)
        assert loose.tolist().count(3) == len(known) + distractors
        assert all(loose[c] == 3 for c in known) and set(loose.tolist()) == {0, 3}
    assert tasks.card()["unlabelled"] == 3
    assert "unlabelled" not in FewShot(data, 3, 1, 1).card()


def arrows() -> Labelled:
    """3 classes of 4 images of 4x4 bytes: a bright corner, and the class in the middle."""
    x = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    x[:, 0, 0, 0] = 255
    y = torch.arange(3).repeat_interleave(4)
    x[:, 0, 1:3, 1:3] = (y * 50)[:, None, None].to(torch.uint8)
    return Labelled(x, y, ("a", "b", "c"))


@pytest.mark.parametrize("rotations", ["classes", "random", "task"])
def test_rotations_turn_whole_classes(rotations: Any) -> None:
    ways = 8 if rotations == "classes" else 3
    task = draw(FewShot(arrows(), ways, 2, 2, rotations=rotations), size=50)
    x = torch.cat([task.support.x, task.query.x], 1)[:, :, 0]  # (T, N, 4, 4)
    y = torch.cat([task.support.y, task.query.y], 1).argmax(-1)
    corner = torch.stack([x[..., 0, 0], x[..., 3, 0], x[..., 3, 3], x[..., 0, 3]], -1)
    assert torch.equal(corner.sum(-1), torch.ones(x.shape[:2]))
    turns, middle = corner.argmax(-1), (x[..., 1, 1] * 255 / 50).round().long()
    assert set(turns.flatten().tolist()) == {0, 1, 2, 3}
    for t in range(50):
        seen = {(int(y[t, n]), int(turns[t, n]), int(middle[t, n])) for n in range(x.shape[1])}
        assert len(seen) == ways  # one turn and one class for each label
        if rotations == "classes":
            assert len({pair[1:] for pair in seen}) == ways
        if rotations == "task":
            assert len({turn for _, turn, _ in seen}) == 1


@pytest.mark.parametrize("rotations", [None, "classes", "random", "task"])
def test_tasks_with_their_own_inputs_in_place_are_the_same(rotations: Any) -> None:
    tasks = FewShot(arrows(), 3, 2, 2, rotations=rotations, normalise=(0.5, 0.25))
    replaced = tasks.with_inputs(torch.cat(list(tasks.inputs(size=5))))
    for expected, part in zip(draw(tasks), draw(replaced), strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=0)


def test_pixels_are_scaled_normalised_and_augmented() -> None:
    assert draw(FewShot(arrows(), 2, 1, 1)).support.x.max() == 1
    shifted = draw(FewShot(arrows(), 2, 1, 1, normalise=(0.5, 0.25))).support.x
    assert shifted.max() == 2 and shifted.min() == -2
    tasks = FewShot(
        arrows(), 2, 1, 1, augment=lambda x, g: x + torch.rand(x.shape[:2], generator=g).max()
    )
    assert torch.equal(draw(tasks).query.x, draw(tasks).query.x)
    assert draw(tasks).query.x.min() > 0


def test_the_card_tells_the_protocol() -> None:
    card = FewShot(arrows(), 2, 1, 1, rotations="random").card()
    assert (card["ways"], card["shots"], card["queries"]) == (2, 1, 1)
    assert card["rotations"] == "random" and card["hash"] == arrows().hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ways": 13}, "13 ways were asked for, but the data set has 12 classes"),
        ({"shots": 5, "queries": 5}, "fewer than 5 shots \\+ 5 queries = 10 examples"),
        ({"shots": (1, 5), "queries": 5}, "fewer than 5 shots \\+ 5 queries = 10 examples"),
        ({"ways": 1}, "ways=1"),
        ({"shots": 0}, "shots=0"),
        ({"shots": (3, 1)}, "in order"),
        ({"queries": 0}, "at least one query"),
        ({"rotations": "random"}, "square images"),
        ({"ways": 7, "within_groups": True}, "largest superclass has 6"),
        ({"rotations": "twice"}, "is not 'classes'"),
        ({"unlabelled": 8}, "1 shots \\+ 1 queries \\+ 8 unlabelled = 10 examples"),
        ({"unlabelled": 1, "distractors": 8}, "5 ways \\+ 8 distractors were asked for"),
        ({"distractors": 1}, "distractors need unlabelled"),
        ({"ways": (2, 5), "ordered": True}, "one number of ways"),
    ],
)
def test_impossible_tasks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(numbered(), **{"queries": 1, **arguments})
