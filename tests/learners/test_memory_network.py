"""Memory networks against loops in numpy, and against matching networks in one hop."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    Examples,
    MatchingNetwork,
    MemoryNetwork,
    Task,
    cross_entropy,
    few_shot_memory_network,
    story_memory_network,
    train,
)
from quickstudy.core.criteria import accuracy
from quickstudy.core.tree import tree_map
from quickstudy.learners.memory.memory_network import (
    BagsOfWords,
    TemporalEncoding,
    inner_product,
    position_encoding,
)
from quickstudy.tasks import Stories
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def story() -> Task[Examples]:
    batch = Stories(2, questions=3).sample(1, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf[0], batch)


def blobs() -> Task[Examples]:
    return tree_map(lambda leaf: leaf[0], Blobs().sample(1, torch.Generator().manual_seed(0)))


def as_in_the_paper(learner: MemoryNetwork, sentences: Tensor, question: Tensor) -> np.ndarray:
    """The probability of every word, sentence by sentence and number by number."""
    bags, time = learner.embed, learner.time
    assert isinstance(bags, BagsOfWords) and isinstance(time, TemporalEncoding)
    vectors, ages = (p.detach().numpy() for p in (bags.vectors, time.ages))
    _, layers, width = vectors.shape

    def bag(sentence: Tensor, layer: int) -> np.ndarray:
        words = [int(word) for word in sentence if word]
        total = np.zeros(width)
        for j, word in enumerate(words, 1):
            for k in range(1, width + 1):
                place = (1 - j / len(words)) - (k / width) * (1 - 2 * j / len(words))
                total[k - 1] += place * vectors[word, layer, k - 1]
        return total

    memory = [row for row in sentences if row.any()]
    memory = list(enumerate(reversed(memory)))[: len(ages)]  # the latest first
    u = bag(question, 0)
    for hop in range(layers - 1):
        p = np.array([np.exp(u @ (bag(row, hop) + ages[age, hop])) for age, row in memory])
        values = [bag(row, hop + 1) + ages[age, hop + 1] for age, row in memory]
        u = u + sum(weight * value for weight, value in zip(p / p.sum(), values, strict=True))
    odds = np.exp(vectors[:, -1] @ u)
    return odds / odds.sum()


@pytest.mark.parametrize("latest", [3, 50])
@pytest.mark.parametrize("hops", [1, 3])
def test_hops_are_those_of_the_paper(hops: int, latest: int) -> None:
    task = story()
    learner = story_memory_network(len(Stories.words), width=5, hops=hops, latest=latest)
    for p in learner.parameters():
        nn.init.normal_(p)
    found = learner.predict(learner.adapt(task.support), task.query.x).softmax(-1)
    for question, probabilities in zip(task.query.x, found, strict=True):
        expected = as_in_the_paper(learner, task.support.x, question)
        torch.testing.assert_close(probabilities.detach(), torch.from_numpy(expected))


def test_the_place_of_a_word_by_hand() -> None:
    present = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    two, three = position_encoding(present, 2)
    # of 2 words and 2 entries: (1 - j/2) - (k/2)(1 - j)
    torch.testing.assert_close(two, torch.tensor([[0.5, 0.5], [0.5, 1.0], [0.0, 0.0]]))
    # of 3: (1 - j/3) - (k/2)(1 - 2j/3); the order of words shows
    expected = torch.tensor([[1 / 2, 1 / 3], [1 / 2, 2 / 3], [1 / 2, 1]])
    torch.testing.assert_close(three, expected)


def test_one_hop_over_plain_embeddings_is_a_matching_network() -> None:
    task, embed = blobs(), nn.Linear(8, 5)
    memory = MemoryNetwork(nn.Sequential(embed, nn.Unflatten(-1, (1, 5))))
    matching = MatchingNetwork(embed, similarity=inner_product)
    torch.testing.assert_close(
        memory.predict(memory.adapt(task.support), task.query.x),
        matching.predict(matching.adapt(task.support), task.query.x),
    )


def test_the_last_hop_over_examples_reads_labels() -> None:
    task, learner = blobs(), few_shot_memory_network(nn.Linear(8, 5), 5, hops=2)
    logits = learner.predict(learner.adapt(task.support), task.query.x)
    with torch.no_grad():
        keys, values = learner.embed(task.support.x).unbind(1)
        for x, found in zip(task.query.x, logits, strict=True):
            u = learner.embed(x[None])[0, 0]

            def p(u: Tensor, keys: Tensor) -> Tensor:
                cosines = [10 * (u @ key) / (u.norm() * key.norm()) for key in keys]
                return torch.stack(cosines).softmax(0)

            u = u + sum(p(u, keys)[i] * values[i] for i in range(len(keys)))
            votes = sum(p(u, values)[i] * task.support.y[i] for i in range(len(keys)))
            torch.testing.assert_close(found.softmax(-1), votes)


def test_weightings_show_what_was_read() -> None:
    task = story()
    learner = story_memory_network(len(Stories.words), width=5, hops=2, latest=3)
    shown = learner.attention_weights(task)
    memories = int(task.support.weight.sum())
    assert list(shown) == ["hop 1", "hop 2"]
    for weighting in shown.values():
        written, read = weighting.split([len(task.support.x), len(task.query.x)])
        torch.testing.assert_close(written, torch.eye(len(written)))
        torch.testing.assert_close(read.sum(1), torch.ones(3))
        assert read[:, memories - 3 : memories].all() and not read[:, : memories - 3].any()


def test_more_hops_find_what_one_cannot() -> None:
    """Of three examples, what the query finds first leads it to the third, with its label."""
    # layers: the query is like example 0, whose value is like example 2
    first = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    second = torch.tensor([[0, 0, 1.0], [0, 1.0, 0], [0, 0, 1.0]])
    support = Examples(torch.stack([first, second], 1) * 20, torch.eye(3), torch.ones(3))
    support = support._replace(y=torch.tensor([[0.0, 0], [1, 0], [0, 1]]))
    learner = MemoryNetwork(nn.Identity())
    query = torch.tensor([[[1.0, 0, 0], [0, 0, 0]]]) * 20
    predicted = learner.predict(learner.adapt(support), query)
    assert predicted.softmax(-1)[0, 1] > 0.99
    alone = MemoryNetwork(nn.Identity())
    once = alone.predict(alone.adapt(support._replace(x=support.x[:, :1])), query[:, :1])
    torch.testing.assert_close(once.softmax(-1), torch.full((1, 2), 0.5))


def test_a_linear_start_is_of_the_loss_alone() -> None:
    task = story()
    learner = story_memory_network(len(Stories.words), width=5, hops=1, linear_until=2)
    predicted = learner.predict(learner.adapt(task.support), task.query.x)
    usual = learner.loss(task)
    learner.set_step(1)
    assert torch.equal(learner.predict(learner.adapt(task.support), task.query.x), predicted)
    keys, values = learner.embed(task.support.x).unbind(1)  # ages begin at 0
    u = learner.embed(task.query.x)[:, 0]
    u = u + sum((u @ m)[:, None] * c for m, c in zip(keys, values, strict=True))
    assert isinstance(learner.embed, BagsOfWords)
    logits = u @ learner.embed.vectors[:, -1].T
    torch.testing.assert_close(learner.loss(task), cross_entropy(logits, task.query))
    learner.set_step(2)
    assert torch.equal(learner.loss(task), usual)


@pytest.mark.slow
def test_where_somebody_is_can_be_learned() -> None:
    torch.manual_seed(0)
    tasks = Stories(1)
    learner = story_memory_network(len(tasks.words), hops=1)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    for _ in train(learner, tasks, optimizer, steps=400, meta_batch_size=32):
        pass
    batch = tasks.sample(200, torch.Generator().manual_seed(9))
    hits = [
        accuracy(learner.predict(learner.adapt(s), q.x), q)
        for s, q in (tree_map(lambda leaf, i=i: leaf[i], batch) for i in range(200))
    ]
    assert torch.stack(hits).mean() > 0.9
