"""Memory of least recently used access against naive steps in NumPy, a learner that listens
against what it hears, and the protocol of presentations against a loop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from quickstudy import MANN, MatchingNetwork, PrototypicalNetwork, evaluate
from quickstudy.core.task import Examples, Task, batches
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation import evaluate_presentations
from quickstudy.evaluation.presentations import accuracy_at, plot, table
from quickstudy.learners.memory import LRUA
from quickstudy.learners.memory.mann import LRUAState, least_used
from quickstudy.nets import StackedLSTM
from quickstudy.nets.backbones import MLP
from quickstudy.tasks import Presentations
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def close(a: Any, b: Any):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def small(**settings: Any) -> LRUA:
    sizes = {"hidden": 6, "slots": 7, "width": 4, "heads": 2, "decay": 0.9}
    return LRUA(5 + 3, 3, **{**sizes, **settings})


def learner() -> MANN:
    return MANN(MLP(8, 5), small())


def task(seed: int = 0) -> Task[Examples]:
    batch = Blobs().sample(1, Generator().manual_seed(seed))
    return tree_map(lambda leaf: leaf[0].double(), batch)


def part(examples: Examples, rows: slice) -> Examples:
    return examples.take(rows)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def naive(machine: LRUA, steps: Tensor) -> list[tuple[np.ndarray, ...]]:
    """Outputs, memory, usage, reading and writing after every step, slot by slot."""
    w = {name: p.detach().numpy() for name, p in machine.named_parameters()}
    heads, slots, width = machine.heads, machine.slots, machine.parts[0]
    memory, usage = np.zeros((slots, width)), np.zeros(slots)
    reading, read = np.zeros((heads, slots)), np.zeros((heads, width))
    hidden, cell = w["controller.first"]
    found = []
    for x in steps.numpy():
        given = np.concatenate([x, read.ravel(), hidden])
        gates = w["controller.gates.weight"] @ given + w["controller.gates.bias"]
        i, f, g, o = gates.reshape(4, -1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        interface = (w["address.weight"] @ hidden + w["address.bias"]).reshape(heads, -1)
        least = sorted(range(slots), key=lambda slot: usage[slot])[:heads]
        writing = np.zeros((heads, slots))
        for h in range(heads):
            gate = sigmoid(interface[h, -1])
            for slot in range(slots):
                stale = 1.0 if slot == least[h] else 0.0
                writing[h, slot] = gate * reading[h, slot] + (1 - gate) * stale
        for slot in least:
            memory[slot] = 0
        for h in range(heads):
            memory = memory + np.outer(writing[h], np.tanh(interface[h, width : 2 * width]))
        for h in range(heads):
            key, strength = (
                interface[h, :width],
                1 + math.log1p(math.exp(interface[h, 2 * width])),
            )
            lengths = [math.sqrt(row @ row + 1e-6) for row in memory]
            key_norm = math.sqrt(key @ key + 1e-6)
            like = [row @ key / (n * key_norm) for row, n in zip(memory, lengths, strict=True)]
            weights = np.exp(strength * np.array(like))
            reading[h] = weights / weights.sum()
        read = reading @ memory
        usage = machine.decay * usage + reading.sum(0) + writing.sum(0)
        out = w["output.weight"] @ np.concatenate([hidden, read.ravel()]) + w["output.bias"]
        found.append((out, memory.copy(), usage.copy(), reading.copy(), writing.copy()))
    return found


def test_the_least_used_slots_come_in_order_and_equals_by_their_place():
    found = least_used(torch.tensor([0.5, 0.1, 0.3, 0.1]), 3)
    assert found.argmax(-1).tolist() == [1, 3, 2] and found.sum() == 3


def test_steps_are_those_of_numpy():
    machine = small()
    nn.init.normal_(machine.address.weight)  # so that nothing is nearly flat
    x = torch.randn(12, 8)  # as many as fill the memory and go around
    with torch.no_grad():
        outputs, states = machine.trace(x)
    for output, state, step in zip(outputs, states, naive(machine, x), strict=True):
        seen = output, state.memory, state.usage, state.reading, state.writing
        for mine, other in zip(seen, step, strict=True):
            close(mine, torch.from_numpy(other))


def by_hand(machine: LRUA, key: Tensor, add: Tensor, strength: float, gate: float) -> None:
    """Makes every step of one head say this, whatever is given."""
    nn.init.zeros_(machine.address.weight)
    with torch.no_grad():
        interface = torch.cat([key, add, torch.tensor([strength, gate])])
        machine.address.bias.copy_(interface.repeat(machine.heads))


@torch.no_grad()
def test_what_is_written_to_the_least_used_slot_is_read_by_its_key():
    machine = small(heads=1)
    what = torch.tensor([0.9, -0.5, 0.2, 0.1])
    before: LRUAState = machine.initial_state()._replace(
        memory=torch.randn(7, 4), usage=torch.tensor([3.0, 2, 4, 1, 5, 6, 7])
    )
    by_hand(machine, what, what.atanh(), 500.0, -500.0)  # the gate is shut: not where it read
    _, after = machine.step(torch.randn(8), before)
    assert after.writing.argmax() == 3 and after.usage.argmin() == 1
    close(after.memory[3], what)  # nothing is left of what was there
    rest = [0, 1, 2, 4, 5, 6]
    close(after.memory[rest], before.memory[rest])
    close(after.read[0], what)
    by_hand(machine, what, torch.full((4,), 20.0), 500.0, 500.0)  # open: where it has read
    _, last = machine.step(torch.randn(8), after)
    close(last.memory[3], what + 1)
    close(last.memory[1], torch.zeros(4))  # emptied all the same


def test_there_are_at_least_as_many_slots_as_heads():
    with pytest.raises(ValueError, match="StackedLSTM"):
        small(slots=1)


@torch.no_grad()
def test_each_step_hears_the_label_of_the_one_before():
    mine, (sequence, query) = learner(), task()
    label = torch.cat([torch.zeros(1, 3), sequence.y[:-1]])
    cell_outputs, last = mine.cell(torch.cat([mine.embed(sequence.x), label], -1))
    close(torch.stack(mine.unroll(sequence)[0]), cell_outputs)
    given = torch.cat([mine.embed(query.x), sequence.y[-1].expand(12, -1)], -1)
    alone = [mine.cell.step(each, last)[0] for each in given]
    close(mine.predict(mine.adapt(sequence), query.x), torch.stack(alone))


@torch.no_grad()
def test_told_again_an_example_comes_with_its_label():
    mine = MANN(
        MLP(8, 5), StackedLSTM(5 + 5 + 3, 3, hidden=6, layers=1), show_label_with_input=True
    )
    sequence, query = task()
    seen = mine.embed(sequence.x)
    labels = torch.cat([torch.zeros(1, 8), torch.cat([seen, sequence.y], 1)])
    cell_outputs, last = mine.cell(torch.cat([seen, labels[:-1]], -1))
    close(torch.stack(mine.unroll(sequence)[0]), cell_outputs)
    given = torch.cat([mine.embed(query.x), labels[-1].expand(12, -1)], -1)
    alone = [mine.cell.step(each, last)[0] for each in given]
    close(mine.predict(mine.adapt(sequence), query.x), torch.stack(alone))


@torch.no_grad()
def test_what_is_written_makes_a_difference_from_the_start():
    machine = LRUA(64 + 5, 5)
    x = torch.randn(50, 64 + 5)
    state = machine.trace(x)[1][-1]
    written = state.memory[state.memory.norm(dim=-1) > 0]
    assert written.square().mean().sqrt() > 0.05  # 0.01 by PyTorch's own weights
    assert state.reading.amax(-1).mean() > 3 / 128


@torch.no_grad()
def test_a_sequence_in_two_parts_is_the_sequence_and_padding_is_not_heard():
    mine, sequence = learner(), task().support
    expected = leaves(mine.adapt(sequence))
    parts = part(sequence, slice(2)), part(sequence, slice(2, None))
    close(leaves(mine.adapt(parts[1], mine.adapt(parts[0]))), expected)
    junk = Examples(torch.randn(3, 8), torch.rand(3, 3), torch.zeros(3))
    padded = Examples.cat(parts[0], junk, parts[1], junk)
    close(leaves(mine.adapt(padded)), expected)


def test_the_loss_is_of_guesses_before_they_are_told():
    mine, one = learner(), task()
    state, total = None, 0.0
    with torch.no_grad():
        for examples in one:
            for row in range(len(examples.x)):
                now = part(examples, slice(row, row + 1))
                known = mine.adapt(part(examples, slice(0))) if state is None else state
                log_probs = mine.predict(known, now.x).log_softmax(-1)
                total -= float((log_probs * now.y).sum()) / 18
                state = mine.adapt(now, state)
        assert float(mine.loss(one)) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("machine", [small, lambda: StackedLSTM(8, 3, hidden=6, layers=1)])
def test_the_gradient_is_that_of_finite_differences(machine: Any):
    mine, one = MANN(MLP(8, 5), machine()), task()
    grads = torch.autograd.grad(mine.loss(one), list(mine.parameters()))
    for p, grad in zip(mine.parameters(), grads, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p.add_(1e-6 * direction)
            above = mine.loss(one)
            p.sub_(2e-6 * direction)
            below = mine.loss(one)
            p.add_(1e-6 * direction)
        expected = (grad * direction).sum()
        torch.testing.assert_close((above - below) / 2e-6, expected, rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_weightings_are_of_every_step_and_head():
    mine, one = learner(), task()
    found = mine.attention_weights(one)
    assert list(found) == ["read head 1", "write head 1", "read head 2", "write head 2"]
    assert all(each.shape == (18, 7) for each in found.values())
    close(found["read head 2"].sum(-1), torch.ones(18))
    assert MANN(MLP(8, 5), StackedLSTM(8, 3)).attention_weights(one) == {}


def test_presentations_are_those_of_a_loop():
    tasks = Presentations(Blobs())
    model = PrototypicalNetwork(MLP(8, 5))
    report = evaluate_presentations(model, tasks, n_tasks=5, meta_batch_size=3, at=(1, 2, 6))
    found: dict[int, list[float]] = {1: [], 2: [], 6: []}
    drawn = (batch for batch in batches(tasks, 3, steps=2, seed=1, rank=2**32 - 1))
    for batch in drawn:
        for t in range(3):
            support, query = tree_map(lambda leaf: leaf[t], batch)  # noqa: B023
            x, y = torch.cat([support.x, query.x]), torch.cat([support.y, query.y])
            with torch.no_grad():
                embedded = model.embed(x)
            hits: dict[int, list[float]] = {1: [], 2: [], 6: []}
            seen: dict[int, list[Tensor]] = {}
            for e, label in zip(embedded, y.argmax(-1).tolist(), strict=True):
                time = len(seen.get(label, [])) + 1
                gaps = {c: float((e - sum(v) / len(v)).square().sum()) for c, v in seen.items()}
                guess = min(gaps, key=lambda c: gaps[c]) if gaps else None
                hit = 1 / 3 if guess is None else float(guess == label)
                if time in hits:
                    hits[time].append(hit)
                seen.setdefault(label, []).append(e)
            for time, values in hits.items():
                found[time].append(sum(values) / len(values))
    for metric, time in (("1st", 1), ("2nd", 2), ("6th", 6)):
        close(report.values[metric], torch.tensor(found[time][:5]))


def test_a_tie_counts_as_guessing_and_padding_not_at_all():
    y = torch.eye(3)[[0, 0, 1, 0]]
    sequence = Examples(torch.zeros(4, 1), y, torch.tensor([1.0, 0, 1, 1]))
    log_probs = torch.tensor([[math.nan] * 3, [9.0, 0, 0], [-math.inf, 1, 1], [2, 1, 0]])
    assert accuracy_at(1)(log_probs, sequence).item() == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert accuracy_at(2)(log_probs, sequence).item() == 1
    assert accuracy_at(3)(log_probs, sequence).isnan()


def test_reports_are_paired_tabulated_and_drawn():
    tasks, net = Presentations(Blobs()), MLP(8, 5)
    models = {"prototypes": PrototypicalNetwork(net), "matching": MatchingNetwork(net)}
    reports = {
        name: evaluate_presentations(model, tasks, n_tasks=6, at=(1, 2))
        for name, model in models.items()
    }
    first, second = reports.values()
    assert (
        first.paired_difference(second, "1st").mean == 0
    )  # neither knows anything of a new class
    assert not first.card["transductive"] and first.card["mixed"]
    text = table(reports)
    assert text.startswith("| Learner | 1st | 2nd |\n| --- | --- | --- |\n| prototypes | ")
    axes = Figure().subplots()
    plot(axes, reports)
    assert len(axes.containers) == 2
    with pytest.raises(ValueError, match="9th: no class"):
        evaluate_presentations(models["matching"], tasks, n_tasks=2, at=(1, 9))


def test_it_is_another_protocol_than_that_of_evaluate():
    tasks, model = Presentations(Blobs()), PrototypicalNetwork(MLP(8, 5))
    chosen_metrics = {"1st": accuracy_at(1)}
    report = evaluate(model, tasks, n_tasks=6, metrics=chosen_metrics)
    with pytest.raises(ValueError, match="asked"):
        report.paired_difference(
            evaluate_presentations(model, tasks, n_tasks=6, metrics=chosen_metrics)
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_it_is_the_same():
    mine = learner()
    batch = Blobs(shots=1, queries=1).sample(2, Generator().manual_seed(0))
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    grads = [
        torch.autograd.grad(run(batch).sum(), list(mine.parameters()))
        for run in (mine, compiled)
    ]
    torch.testing.assert_close(grads[0], grads[1])
