"""SNAIL against torch's convolutions and written-out attention over one query at a time."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import SNAIL, Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.learners.amortised.snail import BLOCKS, steps_ago
from quickstudy.nets.backbones import MLP
from quickstudy.nets.temporal import Block, CausalAttention, TemporalConvolution
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")

SMALL: tuple[Block, ...] = ((6, 3), 4, (5, 2))


def task(ways: int = 3, shots: int = 2) -> Task[Examples]:
    drawn = Blobs(ways=ways, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0].double(), drawn)


def predictions(learner: SNAIL, task: Task[Examples]) -> Tensor:
    with torch.no_grad():
        return learner.predict(learner.adapt(task.support), task.query.x)


def as_torch(layer: TemporalConvolution) -> nn.Conv1d:
    """The same convolution; where it begins there is nothing on its left."""
    outputs, inputs = layer.now.weight.shape
    conv = nn.Conv1d(inputs, outputs, 2, dilation=layer.dilation)
    conv.weight.data = torch.stack([layer.then.weight, layer.now.weight], -1).data
    conv.bias = layer.now.bias
    return conv


def convolved(layer: TemporalConvolution, x: Tensor) -> Tensor:
    """A sequence (L, inputs) -> (L, inputs + filters)."""
    gates = as_torch(layer)(F.pad(x.T, (layer.dilation, 0))[None])[0].T
    signal, gate = gates.tensor_split(2, dim=-1)
    return torch.cat([x, torch.tanh(signal) * torch.sigmoid(gate)], -1)


def attended(layer: CausalAttention, x: Tensor) -> Tensor:
    """A sequence (L, inputs) -> (L, inputs + values)."""
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    reads = []
    for t in range(len(x)):
        scores = [float(q[t] @ k[s]) / k.shape[-1] ** 0.5 for s in range(t + 1)]
        each = torch.tensor(scores).exp()
        reads.append(sum(each[s] / each.sum() * v[s] for s in range(t + 1)))
    return torch.cat([x, torch.stack(reads)], -1)


@pytest.mark.parametrize("blocks", [SMALL, (4, 3), ((6, 3), (5, 2))])
@torch.no_grad()
def test_all_queries_at_once_are_sequences_of_one_query_each(blocks: tuple[Block, ...]):
    support, query = task()
    learner = SNAIL(MLP(8, 5), 5, 3, length=7, blocks=blocks)
    found = predictions(learner, Task(support, query))
    labels = torch.cat([support.y, torch.zeros(1, 3)])
    for x, logits in zip(query.x, found, strict=True):
        embedded = learner.embed(torch.cat([support.x, x[None]]))
        stream = torch.cat([embedded, labels], -1)
        for layer in learner.layers:
            convolves = isinstance(layer, TemporalConvolution)
            stream = (convolved if convolves else attended)(layer, stream)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(logits, learner.head(stream[-1]))


@pytest.mark.parametrize("blocks", [(4, 3), ((6, 3), (5, 2))])
@torch.no_grad()
def test_nothing_later_changes_anything_earlier(blocks: tuple[Block, ...]):
    learner = SNAIL(nn.Identity(), 5, 3, length=7, blocks=blocks)

    def run(stream: Tensor) -> Tensor:
        for layer in learner.layers:
            stream = layer(stream, steps_ago(torch.ones(6), 2))
        return stream

    x = torch.randn(8, 8)
    before = run(x)
    for changed in range(8):
        after = run(x + 1.0 * (torch.arange(8) == changed)[:, None])
        same = (after == before).all(-1)
        later = range(changed, 8) if changed < 6 else [changed]  # a query is seen by none
        assert same.tolist() == [row not in later for row in range(8)]


def test_convolutions_reach_back_over_the_length_and_no_further():
    learner = SNAIL(MLP(8, 5), 5, 3, length=8, blocks=(4,))
    for examples, seen in ((7, [True] * 7), (8, [False] + [True] * 7)):
        x = torch.randn(examples, 8, requires_grad=True)
        y = torch.eye(3)[torch.arange(examples) % 3]
        state = learner.adapt(Examples(x, y, torch.ones(examples)))
        (grad,) = torch.autograd.grad(learner.predict(state, torch.randn(2, 8)).sum(), x)
        assert (grad != 0).any(-1).tolist() == seen


def test_padding_takes_no_step():
    assert steps_ago(torch.tensor([1.0, 0, 1]), 1).tolist() == [
        [0, 0, -1],
        [0, 0, -1],
        [1, 0, 0],
        [2, 0, 1],
    ]
    one = task()
    learner = SNAIL(MLP(8, 5), 5, 3, length=7, blocks=SMALL)
    places = torch.tensor([1, 2, 4, 7, 8, 9])  # of 11, others padding

    def spread(leaf: Tensor) -> Tensor:
        return torch.randn(11, *leaf.shape[1:]).index_copy(0, places, leaf)

    padded = Examples(*map(spread, one.support))
    weight = torch.zeros(11).index_fill(0, places, 1.0)
    found = predictions(learner, Task(padded._replace(weight=weight), one.query))
    torch.testing.assert_close(found, predictions(learner, one))


def test_the_net_of_the_paper():
    learner = SNAIL(nn.Identity(), 64, 5, length=26, blocks=BLOCKS)
    dilations = [x.dilation for x in learner.layers if isinstance(x, TemporalConvolution)]
    assert dilations == [1, 2, 4, 8, 16] * 2
    assert learner.head.in_features == 64 + 5 + 32 + 5 * 128 + 128 + 5 * 128 + 256


def test_fewer_classes_than_ways_are_its_first_and_more_are_refused():
    support, query = task()
    learner = SNAIL(MLP(8, 5), 5, 4, length=7, blocks=SMALL)
    wide = support._replace(y=torch.cat([support.y, torch.zeros(6, 1)], -1))
    expected = predictions(learner, Task(wide, query))
    torch.testing.assert_close(predictions(learner, Task(support, query)), expected)
    with pytest.raises(ValueError, match="5 ways and the learner has 4"):
        learner.adapt(task(5).support)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_it_is_the_same():
    learner = SNAIL(MLP(8, 5), 5, 3, length=7, blocks=SMALL)
    batch = Blobs().sample(2, torch.Generator().manual_seed(0))
    batch = tree_map(lambda leaf: leaf.double(), batch)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(run(batch).sum(), list(learner.parameters()))
        for run in (learner, compiled)
    ]
    torch.testing.assert_close(grads[0], grads[1])
