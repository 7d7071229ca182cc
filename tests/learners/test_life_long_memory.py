"""The life-long memory module against lists, and numbers computed by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, LifeLongMemory, Task
from quickstudy.core.tree import tree_map
from quickstudy.learners.memory.life_long_memory import LifeLongMemoryState, memory_loss, write
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def direction(degrees: float) -> Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def memory(*slots: tuple[float, int, float], classes: int = 3) -> LifeLongMemoryState:
    """Of (degrees, label, age) each."""
    degrees, labels, ages = zip(*slots, strict=True)
    keys = torch.stack([direction(d) for d in degrees])
    return LifeLongMemoryState(keys, torch.eye(classes)[list(labels)], torch.tensor(ages))


class Lists:
    """The memory as the paper tells it, of slots [key, label, age]."""

    def __init__(self, slots: int):
        self.memory_size: list[list] = [[None, None, 0] for _ in range(slots)]

    def similarities(self, q: Tensor) -> list[tuple[Tensor, int, int]]:
        """Of what was written, with its label and slot, the most similar first."""
        found = [(q @ k, v, i) for i, (k, v, _) in enumerate(self.memory_size) if k is not None]
        return sorted(found, key=lambda entry: -entry[0].item())

    def loss(self, q: Tensor, label: int, margin: float) -> Tensor:
        found = self.similarities(q)
        positive = next((s for s, v, _ in found if v == label), 0.0)
        negative = next((s for s, v, _ in found if v != label), 0.0)
        return torch.clamp(torch.as_tensor(negative - positive + margin), min=0)

    def write(self, q: Tensor, label: int) -> None:
        found = self.similarities(q)
        if found and found[0][1] == label:
            place = found[0][2]
            total = q + self.memory_size[place][0]
            key = total / total.norm()
        else:
            ages = [age for _, _, age in self.memory_size]
            place, key = ages.index(max(ages)), q
        for slot in self.memory_size:
            slot[2] += 1
        self.memory_size[place] = [key, label, 0]


@pytest.mark.parametrize("slots", [2, 5, 40])
def test_writing_is_that_of_lists(slots: int):
    queries = F.normalize(torch.randn(40, 3), dim=-1)
    labels = torch.randint(4, (40,))
    learner, lists = LifeLongMemory(nn.Identity(), memory_size=slots), Lists(slots)
    examples = Examples(queries, torch.eye(4)[labels], torch.ones(40))
    found = learner.memories(queries, examples)
    for now, query, label in zip(found[1:], queries, labels.tolist(), strict=True):
        lists.write(query, label)
        for i, (key, value, age) in enumerate(lists.memory_size):
            assert now.ages[i] == age
            assert now.values[i].tolist() == [float(value == c) for c in range(4)]
            torch.testing.assert_close(now.keys[i], torch.zeros(3) if key is None else key)


def test_loss_and_its_gradient_are_those_of_lists():
    drawn = Blobs().sample(1, torch.Generator().manual_seed(3))
    one: Task[Examples] = tree_map(lambda leaf: leaf[0].double(), drawn)
    learner = LifeLongMemory(MLP(8, 4), memory_size=7, margin=0.3)
    lists, losses = Lists(7), []
    for part in one:
        embedded = learner.embed(part.x)
        for query, label in zip(embedded, part.y.argmax(-1).tolist(), strict=True):
            query = query / query.norm()
            losses.append(lists.loss(query, label, 0.3))
            lists.write(query.detach(), label)
    params = list(learner.parameters())
    expected, found = torch.stack(losses).mean(), learner.loss(one)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(value, params) for value in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1])
    assert not learner.adapt(one.support).keys.requires_grad


def test_a_right_neighbour_meets_the_query_half_way():
    before = memory((0, 1, 5.0), (90, 2, 7.0))
    after = write(before, direction(40), torch.eye(3)[1])
    torch.testing.assert_close(after, memory((20, 1, 0.0), (90, 2, 8.0)))


def test_an_empty_slot_is_no_neighbour_of_a_query_that_is_far_from_every_key():
    before = memory((0, 1, 0.0), (0, 0, 1.0))
    before.keys[1], before.values[1] = 0, 0  # an empty slot
    after = write(before, direction(100), torch.eye(3)[1])  # its cosine is below 0
    torch.testing.assert_close(after.keys, torch.stack([direction(50), torch.zeros(2)]))
    assert after.ages.tolist() == [0, 2]


def test_where_the_neighbour_is_wrong_the_oldest_is_forgotten():
    before = memory((0, 1, 5.0), (90, 2, 7.0), (180, 0, 6.0))
    after = write(before, direction(40), torch.eye(3)[2])  # 0 degrees is nearer than 90
    torch.testing.assert_close(after, memory((0, 1, 6.0), (40, 2, 0.0), (180, 0, 7.0)))


def test_empty_slots_are_filled_before_any_is_forgotten():
    state = None
    learner = LifeLongMemory(nn.Identity(), memory_size=3)
    kept_classes = []
    for label in range(5):
        x = direction(60.0 * label)[None]
        one = Examples(x, torch.eye(5)[[label]], torch.ones(1))
        state = learner.adapt(one, state)
        kept_classes.append(sorted(state.values.argmax(-1)[state.values.any(-1)].tolist()))
    assert kept_classes == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_what_is_read_and_written_is_that_of_lists():
    drawn = Blobs().sample(1, torch.Generator().manual_seed(3))
    one: Task[Examples] = tree_map(lambda leaf: leaf[0].double(), drawn)
    learner, lists = LifeLongMemory(MLP(8, 4), memory_size=3, scale=2.0), Lists(3)
    found = learner.attention_weights(one)
    support_size = len(one.support.x)
    assert (
        not found["write head"][support_size:].any()
        and found["read head"].shape == found["write head"].shape
    )
    for step, x in enumerate(torch.cat([one.support.x, one.query.x])):
        q = F.normalize(learner.embed(x[None])[0], dim=0).detach()
        powers = torch.zeros(3)
        for similarity, _, place in lists.similarities(q):
            powers[place] = math.exp(2 * similarity)
        torch.testing.assert_close(
            found["read head"][step], powers / powers.sum().clamp_min(1e-9)
        )
        if step < support_size:
            lists.write(q, int(one.support.y[step].argmax()))
            fresh = [float(age == 0) for _, _, age in lists.memory_size]
            assert found["write head"][step].tolist() == fresh


def test_memory_loss_by_hand():
    one = memory((0, 0, 1.0), (60, 1, 2.0), (90, 1, 3.0))

    def loss(degrees: float, label: int) -> float:
        return float(memory_loss(one, direction(degrees), torch.eye(3)[label], margin=0.1))

    assert loss(0, 0) == 0  # 0.5 - 1 + 0.1 is below 0
    assert loss(0, 1) == pytest.approx(1 - 0.5 + 0.1)
    assert loss(30, 1) == pytest.approx(0.1)  # as near to the one as to the other
    assert loss(90, 2) == pytest.approx(1 + 0.1)  # nothing of class 2 is known: 0
    empty = LifeLongMemoryState(torch.zeros(3, 2), torch.zeros(3, 3), torch.zeros(3))
    found = memory_loss(empty, direction(0), torch.eye(3)[0], margin=0.1)
    assert found == pytest.approx(0.1)


def test_keys_vote_by_a_softmax_and_empty_slots_do_not():
    one = memory((0, 0, 1.0), (60, 1, 2.0), (90, 1, 3.0))
    padded = LifeLongMemoryState(
        *(torch.cat([leaf, torch.zeros_like(leaf[:1])]) for leaf in one)
    )
    logits = LifeLongMemory(nn.Identity(), memory_size=4, scale=2.0).predict(
        padded, 3 * direction(0)[None]
    )
    votes = [math.exp(2.0), math.exp(1.0), math.exp(0.0)]
    expected = torch.tensor([[votes[0], votes[1] + votes[2], 0.0]]) / sum(votes)
    torch.testing.assert_close(logits.softmax(-1), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_it_is_the_same():
    learner = LifeLongMemory(MLP(8, 5), memory_size=20)
    batch = Blobs().sample(2, torch.Generator().manual_seed(0))
    batch = tree_map(lambda leaf: leaf.double(), batch)
    compiled = torch.compile(learner, fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(run(batch).sum(), list(learner.parameters()))
        for run in (learner, compiled)
    ]
    torch.testing.assert_close(grads[0], grads[1])
