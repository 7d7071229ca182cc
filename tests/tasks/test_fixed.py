"""Given tasks: each once, in order; or some of them, none twice."""

import pytest
import torch
from torch import Generator

from quickstudy import Examples, PrototypicalNetwork, Task, evaluate
from quickstudy.core.task import batches
from quickstudy.core.tree import leaves, tree_map
from quickstudy.tasks import Fixed
from quickstudy.testing.learners import Blobs


def given(number: int = 7) -> Task[Examples]:
    return Blobs().sample(number, Generator().manual_seed(0))


def test_all_of_them_are_in_their_order() -> None:
    tasks = Fixed(given())
    for batch in batches(tasks, 7, steps=2):
        assert all(map(torch.equal, leaves(batch), leaves(given())))


def test_fewer_are_a_choice_by_the_generator_and_none_is_twice() -> None:
    tasks, drawn = Fixed(given()), set[tuple[int, ...]]()
    for seed in range(30):
        x, again = (tasks.sample(4, Generator().manual_seed(seed)).query.x for _ in range(2))
        assert torch.equal(x, again)
        alike = (x[:, None] == given().query.x[None]).flatten(2).all(2)  # (4, 7)
        assert (alike.sum(1) == 1).all() and (alike.sum(0) <= 1).all()
        drawn.add(tuple(alike.int().argmax(1).tolist()))
    assert len(drawn) > 20


def test_each_counts_once_in_an_evaluation() -> None:
    learner, tasks = PrototypicalNetwork(torch.nn.Linear(8, 4)), given(5)
    report = evaluate(learner, Fixed(tasks, "five blobs"), n_tasks=5, meta_batch_size=5)
    for i, accuracy in enumerate(report.values["accuracy"]):
        support, query = tree_map(lambda leaf, i=i: leaf[i], tasks)
        guess = learner.predict(learner.adapt(support), query.x).argmax(1)
        hits = (guess == query.y.argmax(1)).double()
        assert accuracy.item() == pytest.approx(hits.mean().item())
    assert report.card["tasks"] == "five blobs" and report.card["number"] == 5
    with pytest.raises(ValueError, match=r"blobs are 5: evaluate with n_tasks=5, meta_batch"):
        evaluate(learner, Fixed(tasks, "five blobs"), n_tasks=10)


def test_the_card_tells_tasks_apart() -> None:
    one, other = given(), tree_map(torch.clone, given())
    assert Fixed(one).card() == Fixed(other).card()
    other.query.x[3, 2, 1] += 1
    assert Fixed(one).card() != Fixed(other).card()
    assert len(Fixed(one).to("cpu")) == 7
