"""Evaluation from cached embeddings finds what the usual one does, having embedded once."""

import copy
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from quickstudy import (
    MAML,
    R2D2,
    FewShot,
    Learner,
    MatchingNetwork,
    ProtoMAML,
    PrototypicalNetwork,
    RelationNetwork,
    RidgeRegression,
    SiameseNetwork,
    accuracy,
    cross_entropy,
    evaluate,
    train,
)
from quickstudy.core import ScaledSimilarity
from quickstudy.core.task import Task
from quickstudy.datasets import Labelled
from quickstudy.evaluation import embed_once
from quickstudy.learners.metric import FullContext, WeightedL1
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs
from quickstudy.training.embed_together import EmbedTogether

METRICS = {"accuracy": accuracy, "cross_entropy": cross_entropy}


def pictures(classes: int = 8) -> Labelled:
    """7 or more bytes-valued pictures of each class, of two groups, in no order."""
    y = torch.arange(classes).repeat(7)
    y = torch.cat([y, torch.tensor([3, 3, 0])])[torch.randperm(7 * classes + 3)]
    bright = torch.rand(classes, 1, 16, 16)[y] + 0.6 * torch.rand(len(y), 1, 16, 16)
    x = (bright * 159).to(torch.uint8)
    names = tuple(f"class {i}" for i in range(classes))
    return Labelled(x, y, names, torch.arange(classes) % 2, ("odd", "even"))


def protonet() -> PrototypicalNetwork:
    return PrototypicalNetwork(Conv4(channels=4, size=16))


def ridge() -> RidgeRegression:
    return RidgeRegression(Conv4(channels=4, size=16), criterion=cross_entropy)


def matching() -> MatchingNetwork:
    net = Conv4(channels=4, size=16)
    return MatchingNetwork(net, similarity=ScaledSimilarity(), context=FullContext(net.width))


def siamese() -> SiameseNetwork:
    return SiameseNetwork(Conv4(channels=4, size=16), WeightedL1(4))


def relation() -> RelationNetwork:
    return RelationNetwork(Conv4(channels=4, size=16), MLP(8, 1))


def r2d2() -> R2D2:
    return R2D2(Conv4(channels=4, size=16))


def trained(learner: Learner[Any], tasks: FewShot) -> Learner[Any]:
    """With running statistics that are those of images."""
    optimizer = torch.optim.SGD(learner.parameters(), 1e-3)
    for _ in train(learner, tasks, optimizer, steps=3, meta_batch_size=2):
        pass
    return learner


SETTINGS: list[dict[str, Any]] = [
    {},
    {"rotations": "classes", "normalise": (0.5, 0.2)},
    {"rotations": "random", "within_groups": True},
    {"ways": (2, 4), "shots": (1, 3), "imbalanced": True},
]


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        *[(make, settings) for make in (protonet, ridge) for settings in SETTINGS],
        *[(make, SETTINGS[1]) for make in (matching, siamese, relation, r2d2)],
    ],
)
def test_numbers_are_those_of_the_usual_evaluation(make: Any, settings: dict[str, Any]):
    tasks = FewShot(pictures(), **{"ways": 4, "queries": 3, **settings})
    learner = trained(make(), tasks)
    expected = evaluate(learner, tasks, n_tasks=8, meta_batch_size=5, metrics=METRICS)
    head, embedded = embed_once(learner, tasks)
    found = evaluate(head, embedded, n_tasks=8, meta_batch_size=5, metrics=METRICS)
    for name, values in expected.values.items():
        assert torch.allclose(found.values[name], values, rtol=1e-5, atol=1e-5), name
    assert found.card == expected.card
    assert found.paired_difference(expected).wins == 0.5


class Counting(nn.Module):
    """Embeds by four numbers of an image, and remembers how many images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.modes = list[int](), set[bool]()  # of its copies too

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        self.modes.add(self.training)
        return x.flatten(1)[:, :4]


def test_every_image_is_embedded_once_for_all_tasks():
    net, data = Counting(), pictures()
    learner = PrototypicalNetwork(net).train()
    learner.execution, learner.chunk = "loop", 3
    some = [FewShot(data, 3, k, 2, rotations="classes") for k in (1, 2)]
    other = FewShot(data, 3, 1, 2)
    head, *embedded = embed_once(learner, *some, other)
    # of half the images of the first batch, and of two tasks each
    checks = 32 + 30 + 2 * 3 * (3 + 4 + 3)
    for _ in range(2):
        for each in embedded:
            evaluate(head, each, n_tasks=300)
        assert sum(net.batches) == (4 + 1) * len(data) + checks
    assert net.modes == {False} and net.training and learner.training
    assert learner.embed is net and learner.execution == "loop"
    assert (
        head.execution == "vmap" and head.chunk is None
    )  # those of the net do not bind the head


def test_only_images_that_are_drawn_are_embedded():
    data = Labelled(
        torch.rand(50_000, 6), torch.arange(50_000) % 100, tuple(map(str, range(100)))
    )
    learner = PrototypicalNetwork(Counting())
    head, embedded = embed_once(learner, FewShot(data, 5, 1, 3))
    evaluate(head, embedded, n_tasks=5, meta_batch_size=2)
    assert isinstance(learner.embed, Counting)
    assert sum(learner.embed.batches) <= 64 + 32 + (2 + 2 + 5) * 5 * 4


def test_embeddings_are_those_of_the_parameters_at_the_call():
    data = pictures()
    tasks = FewShot(data, 3, 1, 2)
    learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)))
    with torch.no_grad():
        expected = learner.embed(torch.cat(list(tasks.inputs())))
    _, embedded = embed_once(learner, tasks)
    with torch.no_grad():
        next(learner.parameters()).zero_()
    x = embedded.sample(50, torch.Generator().manual_seed(0)).query.x.flatten(0, 1)
    assert (x[:, None] - expected).abs().amax(-1).amin(1).max() < 1e-5
    moved = embedded.to("cpu").sample(50, torch.Generator().manual_seed(0)).query.x
    assert torch.equal(moved.flatten(0, 1), x)


def test_the_head_shares_its_parameters_and_has_no_graph():
    learner = ridge()
    head, embedded = embed_once(learner, FewShot(pictures(), 3, 1, 2))
    assert [p for _, p in head.named_parameters()] == [learner.log_penalty]
    batch = embedded.sample(2, torch.Generator().manual_seed(0))
    assert batch.support.x.shape == (2, 3, 4) and not batch.support.x.requires_grad
    head(batch).sum().backward()  # so it can be trained, on top of a frozen net
    assert learner.log_penalty.grad is not None and not torch.is_inference(batch.query.x)


def test_other_inputs_take_the_places_of_images():
    data = pictures()
    tasks = FewShot(data, 3, 2, 2, rotations="classes")
    x = torch.cat(list(tasks.inputs(size=5)))
    assert x.shape == (4 * len(data), 1, 16, 16)
    assert torch.equal(x[len(data) :][: len(data)], torch.rot90(data.x / 255, 1, (-2, -1)))
    same, usual = (
        t.sample(5, torch.Generator().manual_seed(1)) for t in (tasks.with_inputs(x), tasks)
    )
    for mine, theirs in zip(same, usual, strict=True):
        assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (lambda: MAML(Conv4(3, channels=4, size=16)), "MAML has no module `embed`"),
        (
            lambda: PrototypicalNetwork(use_batch_statistics(Conv4(channels=4, size=16))),
            "The embedding of an image by PrototypicalNetwork depends on other images",
        ),
        (
            lambda: ProtoMAML(Conv4(channels=4, size=16), lr=0.1),
            "ProtoMAML changes its net with the task",
        ),
    ],
)
def test_learners_that_must_embed_anew_are_refused(learner: Any, message: str):
    with pytest.raises(ValueError, match=message):
        embed_once(learner(), FewShot(pictures(), 3, 2, 2))


def test_images_that_change_at_random_are_refused():
    tasks = FewShot(pictures(), 3, 1, 2, augment=lambda x, _: x)
    with pytest.raises(ValueError, match="leave `augment` out"):
        embed_once(protonet(), tasks)


def test_embedded_together_a_batch_has_the_losses_and_gradients_of_its_tasks(
    double: None,
) -> None:
    """Where the net normalises nothing."""
    learner = MatchingNetwork(MLP(8, 6), context=FullContext(6))
    batch = Blobs(ways=3).sample(4, Generator().manual_seed(0))
    found = []
    for module in (learner, EmbedTogether(learner)):
        learner.zero_grad()
        losses = module(batch)
        losses.sum().backward()
        found.append([losses, *(p.grad for p in learner.parameters())])
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(apart, together)


def test_embedded_together_all_tasks_are_normalised_by_all() -> None:
    net = Conv4(channels=4, size=16)
    learner, other = PrototypicalNetwork(net), copy.deepcopy(net)
    batch = FewShot(pictures(), 3, 1, 2).sample(5, Generator().manual_seed(0))
    images = torch.cat([part.x.flatten(0, 1) for part in batch])
    embedded = other(images)  # in training mode: by the statistics of these 45 images
    parts = embedded.split([15, 30])
    head = PrototypicalNetwork(nn.Identity())
    expected = head(
        Task(
            *(p._replace(x=e.unflatten(0, (5, -1))) for p, e in zip(batch, parts, strict=True))
        )
    )
    torch.testing.assert_close(EmbedTogether(learner)(batch), expected)
    for mine, others in zip(net.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, others)


def test_only_what_embeds_can_embed_together() -> None:
    with pytest.raises(ValueError, match="train it as it is"):
        EmbedTogether(MAML(MLP(8, 3), lr=0.1))
