"""A stream of recurring classes, which has no clear tasks."""

import math

import torch
from torch import Generator

from quickstudy.datasets.labelled import Labelled
from quickstudy.tasks.examples import Normalise, rotate_images
from quickstudy.tasks.streams import Stream, shuffled, stream_by_class, stream_card


def recurring(
    train: Labelled,
    test: Labelled,
    *,
    tasks: int = 20,
    examples: int = 100,
    stay: float = 0.9,
    tail: float = 1.0,
    drift: float = 0.0,
    normalise: Normalise | None = None,
    seed: int = 0,
) -> Stream:
    """Runs of one class. Frequent classes return often and rare ones seldom, new classes appear
    until the end, and inputs drift. Boundaries of experiences carry no information. The test of
    an experience has the test examples of all its classes, with the drift at that time.

    Args:
        train: what arrives.
        test: other examples of the same classes.
        tasks: experiences.
        examples: of each experience.
        stay: the probability that the next example is of the same class.
        tail: the exponent of Zipf's law, by which the class of the next run is drawn from the
            classes seen so far and one that is new.
        drift: degrees by which images are rotated further with each experience.
        normalise: as in `FewShot`.
        seed: of everything random.

    Raises:
        ValueError: `stay` is no probability, or `drift` is given for data that are no images.

    Examples:
        >>> import quickstudy as qs
        >>> train, test = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
        >>> stream = qs.tasks.recurring(train, test, tasks=5, examples=20, stay=0.5)
        >>> counts = sum(task.support.y.sum(0) for task in stream)
        >>> int(counts.sum()), bool(counts[0] > counts[5])
        (100, True)
    """
    if not 0 <= stay < 1:
        raise ValueError(f"stay={stay} is a probability: give a number from 0 to below 1.")
    if examples < 1:
        raise ValueError(f"examples={examples}: an experience has at least one example.")
    if drift and train.x.ndim != 4:
        raise ValueError("Only images (channels, height, width) can drift: leave drift=0.")
    card = stream_card("recurring classes", train, test, tasks, seed)
    generator = Generator().manual_seed(seed)
    classes = len(train.classes)
    order = torch.randperm(classes, generator=generator)
    zipf = torch.arange(1, classes + 1).double() ** -tail
    total = tasks * examples
    moves = (torch.rand(total, generator=generator) >= stay).tolist()
    draws = torch.rand(total, generator=generator, dtype=torch.float64)
    ranks, seen, rank = [], 1, 0  # the class of each example, by its place in `order`
    for number in range(total):
        if moves[number]:
            cumulative = zipf[: min(seen + 1, classes)].cumsum(0)
            rank = int(torch.searchsorted(cumulative, draws[number] * cumulative[-1]))
            seen = max(seen, rank + 1)
        ranks.append(rank)
    label = order[torch.tensor(ranks)]  # (total,)
    rows = torch.empty(total, dtype=torch.int64)
    for c in label.unique().tolist():  # each example comes before any comes twice
        members, places = (train.y == c).nonzero().flatten(), (label == c).nonzero().flatten()
        drawn = torch.cat(
            [shuffled(members, generator) for _ in range(math.ceil(len(places) / len(members)))]
        )
        rows[places] = drawn[: len(places)]
    card |= {
        "examples of each": examples,
        "stay": stay,
        "tail": tail,
        "drift": drift,
    }
    return stream_by_class(
        train,
        test,
        rows.split(examples),
        label.split(examples),
        order,
        card,
        change=(lambda number, x: rotate_images(x, number * drift)) if drift else None,
        normalise=normalise,
    )
