"""Classification as tasks: against the data set that the tasks are drawn from."""

from typing import Any

import pytest
import torch

from quickstudy.datasets import Labelled
from quickstudy.tasks import Classification


def numbered(classes: int = 5, each: int = 4) -> Labelled:
    """Example n has the value n."""
    y = torch.arange(classes).repeat_interleave(each)
    x = torch.arange(len(y)).float()[:, None]
    return Labelled(x, y, tuple(map(str, range(classes))), name="numbered")


def draw(tasks: Classification, size: int = 6, seed: int = 0) -> Any:
    return tasks.sample(size, torch.Generator().manual_seed(seed))


def test_labels_are_the_data_sets_own_in_every_task() -> None:
    data = numbered()
    task = draw(Classification(data, 8))
    for part in task:
        assert part.x.shape == (6, 8, 1) and part.y.shape == (6, 8, 5)
        assert (part.y.sum(-1) == 1).all() and (part.weight == 1).all()
        assert (part.y.argmax(-1) == data.y[part.x[..., 0].long()]).all()


def test_no_example_is_drawn_twice_for_a_task() -> None:
    task = draw(Classification(numbered(), 10))
    both = torch.cat([task.support.x, task.query.x], 1)[..., 0]
    assert (both.sort(1).values == torch.arange(20)).all()


def test_every_example_is_drawn_equally_often_in_either_part() -> None:
    task = draw(Classification(numbered(), 5), size=4000)
    for part in task:
        share = torch.bincount(part.x.flatten().long(), minlength=20) / part.x.numel()
        assert (share - 1 / 20).abs().max() < 0.01


def test_turned_classes_are_classes_of_their_own() -> None:
    x = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    x[:, 0, 0, 0] = 255  # a bright corner,
    x[torch.arange(6), 0, 1, 1] = torch.arange(6, dtype=torch.uint8)  # and the class inside
    data = Labelled(x, torch.arange(6), tuple("abcdef"))
    tasks = Classification(data, 12, rotations="classes")
    assert tasks.classes == 24
    drawn = draw(tasks, size=3)
    for part in drawn:
        for image, label in zip(
            part.x.flatten(0, 1), part.y.flatten(0, 1).argmax(-1), strict=True
        ):
            turns, kind = divmod(int(label), 6)
            upright = torch.rot90(image, -turns, (-2, -1))
            assert upright[0, 0, 0] == 1 and round(upright[0, 1, 1].item() * 255) == kind


def test_pixels_are_normalised_and_augmented() -> None:
    tasks = Classification(
        numbered(), 3, normalise=(1.0, 2.0), augment=lambda x, _: x.clamp_max(3.0)
    )
    plain, changed = draw(Classification(numbered(), 3)), draw(tasks)
    torch.testing.assert_close(changed.query.x, ((plain.query.x - 1) / 2).clamp_max(3.0))


def test_the_card_tells_the_protocol() -> None:
    card = Classification(numbered(), 3).card()
    assert card["tasks"] == "classification" and card["dataset"] == "numbered"
    assert card["examples"] == 3 and "rotations" not in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 11}, "examples=11: numbered has enough for 1 to 10"),
        ({"examples": 0}, "1 to 10"),
        ({"rotations": "random"}, "is not 'classes' or None"),
        ({"rotations": "classes"}, "needs square images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(numbered(), **{"examples": 3, **arguments})
