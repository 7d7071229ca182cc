import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quickstudy.datasets import Labelled, labelled, merge, split_classes, split_examples


def letters(**changes: Any) -> Labelled:
    """6 classes a … f of 2 examples each, whose value is their class; groups of two."""
    y = torch.arange(6).repeat(2)
    data = Labelled(
        y[:, None].to(torch.uint8),
        y,
        tuple("abcdef"),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        ("vowels", "stops", "rest"),
    )
    return dataclasses.replace(data, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(12)}, r"shape \(12,\)"),
        ({"x": torch.zeros(11, 1)}, r"N = 12"),
        ({"x": torch.zeros(12, 1, dtype=torch.int64)}, "torch.int64"),
        ({"y": torch.zeros(12, 6, dtype=torch.int64)}, r"int64 of shape \(N,\)"),
        ({"y": torch.zeros(12)}, "float32"),
        ({"y": torch.arange(12)}, "reach from 0 to 11, but there are 6 classes"),
        ({"y": torch.arange(12) - 1, "classes": tuple("abcdefghijkl")}, "reach from -1"),
        ({"x": torch.zeros(0, 1), "y": torch.zeros(0, dtype=torch.int64)}, "no examples"),
        ({"groups": torch.tensor([0, 1])}, r"shape \(2,\)"),
        ({"groups": torch.arange(6)}, "there are 3 group_names"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        letters(**changes)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_example_that_is_not_finite_is_named(bad: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labelled, "CHUNK", 16)  # bytes: two rows at a time
    x = torch.zeros(12, 2)
    x[7, 1] = bad
    with pytest.raises(ValueError, match="Example 7 of arrays has NaN"):
        letters(x=x)


def test_the_hash_is_of_content_and_not_of_layout(monkeypatch: pytest.MonkeyPatch):
    x = torch.rand(12, 3, 5)
    whole = letters(x=x).hash
    monkeypatch.setattr(labelled, "CHUNK", 100)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert letters(x=turned).hash == whole
    changed = x.clone()
    changed[11, 2, 4] += 1
    others = letters(x=changed), letters(x=x, y=torch.arange(6).repeat(2).flip(0))
    assert whole not in {other.hash for other in others}
    assert letters(x=x.view(12, 5, 3)).hash != whole


def test_select_relabels_in_the_order_given():
    part = letters().select(["e", 1, "a"], "some")
    assert part.classes == ("e", "b", "a")
    assert part.split == "some"
    assert [part.classes[c] for c in part.y] == ["abcdef"[int(v)] for v in part.x[:, 0]]
    assert part.groups is not None
    assert [part.group_names[g] for g in part.groups] == ["rest", "vowels", "vowels"]
    assert len(part) == 6


def test_neighbours_are_selected_without_a_copy():
    y = torch.arange(6).repeat_interleave(2)
    data = letters(x=torch.rand(12, 4), y=y)
    part = data.select([2, 3])
    assert part.x.data_ptr() == data.x[4].data_ptr()
    assert torch.equal(part.x, data.x[4:8])


@pytest.mark.parametrize("classes", [[], [0, 0], [6], [-1], ["g"]])
def test_classes_that_cannot_be_selected(classes: list[int | str]):
    with pytest.raises(ValueError, match=r"class"):
        letters().select(classes)


def test_merge_puts_together_what_select_took_apart():
    data = letters()
    back = merge(data.select([4, 0]), data.select([1, 2, 3, 5]))
    seen = {(back.classes[c], int(v)) for c, v in zip(back.y, back.x[:, 0], strict=True)}
    assert seen == set(zip("abcdef", range(6), strict=True))
    assert back.groups is not None
    names = [back.group_names[g] for g in back.groups]
    assert dict(zip(back.classes, names, strict=True))["d"] == "stops"
    with pytest.raises(ValueError, match="'a' is in two"):
        merge(data.select([0]), data.select([0]))
    with pytest.raises(ValueError, match="groups"):
        merge(data.select([0]), letters(groups=None, group_names=()).select([1]))


@given(st.integers(5, 60), st.integers(0, 5))
def test_splits_share_no_class_and_lose_none(number: int, seed: int):
    y = torch.arange(number)
    data = Labelled(y[:, None].float(), y, tuple(map(str, range(number))))
    splits = split_classes(data, (0.5, 0.25, 0.25), seed=seed)
    names = [name for part in splits for name in part.classes]
    assert sorted(names) == sorted(data.classes)
    assert len(splits.train.classes) == pytest.approx(number / 2, abs=0.5)
    again = split_classes(data, (0.5, 0.25, 0.25), seed=seed)
    assert [part.classes for part in splits] == [part.classes for part in again]


def test_groups_stay_whole_when_split_by_group():
    splits = split_classes(letters(), (0.4, 0.3, 0.3), by="group")
    assert [len(part.group_names) for part in splits] == [1, 1, 1]
    assert [len(part.classes) for part in splits] == [2, 2, 2]


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (1, 0, 0), (0.9, 0.05, 0.05)]
)
def test_fractions_that_give_no_three_parts(fractions: tuple[float, ...]):
    with pytest.raises(ValueError, match="fractions"):
        split_classes(letters(), fractions)
    with pytest.raises(ValueError, match="no groups"):
        split_classes(letters(groups=None), by="group")


@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_split_examples_gives_every_class_to_both_parts(sizes: list[int], seed: int):
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    y = y[torch.randperm(len(y))]
    x = torch.arange(len(y), dtype=torch.float32)[:, None]
    data = Labelled(x, y, tuple(map(str, sizes)), torch.zeros(len(sizes)).long(), ("all",))
    train, test = parts = split_examples(data, 0.5, seed=seed)
    expected = [round(size / 2) for size in sizes]  # halves to even, as numpy rounds
    assert train.y.bincount(minlength=len(sizes)).tolist() == expected
    assert sorted(x[0] for part in parts for x in part.x.tolist()) == x[:, 0].tolist()
    for part in parts:
        assert part.classes == data.classes and part.group_names == ("all",)
        assert torch.equal(part.y, y[part.x[:, 0].long()])  # labels stay with their examples
        assert (part.x[1:] > part.x[:-1]).all()  # in the order that they had
    assert [part.hash for part in split_examples(data, 0.5, seed=seed)] == [
        part.hash for part in parts
    ]
    one, rest = split_examples(data, per_class=1, seed=seed)
    assert one.y.bincount().tolist() == [1] * len(sizes)
    assert len(rest) == len(data) - len(sizes)
    assert test.split == f"examples fraction=0.5 seed {seed} test"


def test_split_examples_draws_evenly_and_by_seed():
    y = torch.zeros(4, dtype=torch.int64)
    data = Labelled(torch.arange(4.0)[:, None], y, ("only",))
    drawn = [split_examples(data, per_class=1, seed=s).train.x.item() for s in range(400)]
    counts = np.bincount(np.array(drawn, int), minlength=4)
    assert (abs(counts - 100) < 45).all()  # five standard deviations


def test_examples_that_do_not_split():
    with pytest.raises(ValueError, match=r"Class 'a' of arrays has 2 .*fraction=0.9 does not"):
        split_examples(letters(), 0.9)
    for number in (0, 2):
        with pytest.raises(ValueError, match=f"per_class={number} does not"):
            split_examples(letters(), per_class=number)


def test_it_says_what_it_is():
    text = "Labelled(arrays, all: 12 examples uint8 (1,) of 6 classes in 3 groups)"
    assert repr(letters()) == text
    assert np.array_equal(letters().x[:, 0], letters().y)
