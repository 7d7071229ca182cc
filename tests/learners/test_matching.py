"""Matching networks against loops, torch's own LSTMs, and prototypical networks in one shot."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, MatchingNetwork, PrototypicalNetwork, Task
from quickstudy.core import ScaledSimilarity, cosine_similarity, negative_squared_distance
from quickstudy.core.attention import log_votes
from quickstudy.core.tree import tree_map
from quickstudy.learners.metric import FullContext
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(shots: int = 3) -> Task[Examples]:
    drawn = Blobs(ways=4, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def predictions(learner: MatchingNetwork, task: Task[Examples]) -> Tensor:
    with torch.no_grad():
        return learner.predict(learner.adapt(task.support), task.query.x)


def test_similarities_are_those_of_torch():
    a, b = torch.randn(3, 5), torch.randn(4, 5)
    expected = F.cosine_similarity(a[:, None], b[None], dim=-1)
    torch.testing.assert_close(cosine_similarity(a, b), expected)
    torch.testing.assert_close(negative_squared_distance(a, b), -(torch.cdist(a, b) ** 2))
    torch.testing.assert_close(ScaledSimilarity(scale=7)(a, b), 7 * expected)
    with pytest.raises(ValueError, match="positive"):
        ScaledSimilarity(scale=0)


def test_attention_is_that_of_loops():
    support, query = task()
    support = support._replace(weight=torch.tensor([0.0, 2.0] + [1.0] * 10))
    net = MLP(8, 5)
    found = predictions(MatchingNetwork(net), Task(support, query)).softmax(-1)
    with torch.no_grad():
        keys, queries = net(support.x), net(query.x)
    for q, f in enumerate(queries):
        votes, total = [0.0] * 4, 0.0
        for key, y, weight in zip(keys, support.y, support.weight, strict=True):
            cosine = float(f @ key) / math.sqrt(float(f @ f) * float(key @ key))
            votes[int(y.argmax())] += float(weight) * math.exp(cosine)
            total += float(weight) * math.exp(cosine)
        expected = torch.tensor([vote / total for vote in votes])
        torch.testing.assert_close(found[q], expected)


def test_one_shot_by_distance_is_a_prototypical_network():
    one, net = task(shots=1), MLP(8, 5)
    found = predictions(MatchingNetwork(net, similarity=negative_squared_distance), one)
    other = PrototypicalNetwork(net)
    expected = other.predict(other.adapt(one.support), one.query.x)
    torch.testing.assert_close(found, expected)


def test_votes_far_apart_do_not_underflow_and_an_unseen_class_has_none():
    score = torch.tensor([[0.0, -1e4, -2e4]], dtype=torch.float32, requires_grad=True)
    votes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=torch.float32)
    logits = log_votes(score, votes)
    assert logits.tolist() == [[0.0, -1e4, -math.inf]]
    (grad,) = torch.autograd.grad(logits.log_softmax(-1)[0, 1], score)
    assert grad.tolist() == [[-1.0, 1.0, 0.0]]


def test_soft_labels_share_a_vote():
    support, query = task()
    half = torch.full_like(support.y, 0.25)
    found = predictions(MatchingNetwork(MLP(8, 5)), Task(support._replace(y=half), query))
    torch.testing.assert_close(found.softmax(-1), torch.full_like(found, 0.25))


def with_context(learner: MatchingNetwork, width: int = 5) -> MatchingNetwork:
    return MatchingNetwork(learner.embed, context=FullContext(width, steps=3))


def test_keys_are_torchs_bidirectional_lstm_beside_the_embedding():
    context = FullContext(5)
    both = nn.LSTM(5, 5, bidirectional=True)
    names = dict(context.back.named_parameters())
    for name, p in context.ahead.named_parameters():
        getattr(both, name).data = p.data
        getattr(both, f"{name}_reverse").data = names[name].data
    keys, queries = torch.randn(6, 5), torch.randn(2, 5)
    found, _ = context(keys, torch.ones(6), queries)
    ahead, back = both(keys)[0].chunk(2, -1)
    torch.testing.assert_close(found, ahead + back + keys)


def test_queries_read_as_a_cell_of_torch_in_a_loop():
    context = FullContext(5, steps=3)
    keys, queries = torch.randn(6, 5), torch.randn(2, 5)
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0])
    contextual, found = context(keys, weight, queries)
    cell = nn.LSTMCell(10, 5)
    for name, p in context.reader.named_parameters():
        getattr(cell, name.removesuffix("_l0")).data = p.data
    real = contextual[weight > 0]
    for q, embedded in enumerate(queries):
        h, c = torch.zeros(5), torch.zeros(5)
        for _ in range(3):
            scores = [(h @ g).exp() for g in real]
            r = torch.stack([s * g for s, g in zip(scores, real, strict=True)]).sum(0)
            hidden, c = cell(torch.cat([embedded, r / sum(scores)]), (h, c))
            h = hidden + embedded
        torch.testing.assert_close(found[q], h)


def test_context_sees_examples_in_order_and_padding_nowhere():
    one = task()
    learner = with_context(MatchingNetwork(MLP(8, 5)))
    expected = predictions(learner, one)
    places = torch.tensor([1, 2, 4, 5, 6, 7, 9, 11, 12, 13, 14, 16])  # of 18, others padding

    def spread(leaf: Tensor) -> Tensor:
        return torch.randn(18, *leaf.shape[1:]).index_copy(0, places, leaf)

    padded = Examples(*map(spread, one.support))
    weight = torch.zeros(18).index_fill(0, places, 1.0)
    found = predictions(learner, Task(padded._replace(weight=weight), one.query))
    torch.testing.assert_close(found, expected)
    turned = Examples(*(leaf.flip(0) for leaf in one.support))
    assert not torch.allclose(predictions(learner, Task(turned, one.query)), expected)


def test_context_of_weights_zero_is_no_context():
    one = task()
    plain = MatchingNetwork(MLP(8, 5))
    learner = with_context(plain)
    assert learner.context is not None
    for p in learner.context.parameters():
        nn.init.zeros_(p)  # all LSTMs say 0, and the skip connections are left
    torch.testing.assert_close(predictions(learner, one), predictions(plain, one))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_with_context_it_is_the_same():
    learner = with_context(MatchingNetwork(MLP(8, 5)))
    batch = Blobs().sample(2, torch.Generator().manual_seed(0))
    batch = tree_map(lambda leaf: leaf.double(), batch)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(run(batch).sum(), list(learner.parameters()))
        for run in (learner, compiled)
    ]
    torch.testing.assert_close(grads[0], grads[1])
