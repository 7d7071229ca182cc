"""Sequences learned by heart: a state is what the machine is left in, an answer what it then
says."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from quickstudy import SequenceLearner
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import leaves, tree_map
from quickstudy.learners.memory import bit_cross_entropy, bit_errors
from quickstudy.nets import NTM, StackedLSTM
from quickstudy.tasks import Copy

pytestmark = pytest.mark.usefixtures("double")
MACHINES = {
    "ntm": lambda: NTM(5, 4, hidden=8, slots=6, width=5),
    "lstm": lambda: StackedLSTM(5, 4, hidden=8, layers=2),
}


@pytest.fixture(params=MACHINES)
def learner(request: pytest.FixtureRequest) -> SequenceLearner:
    return SequenceLearner(MACHINES[request.param]())


def task(length: int = 3, seed: int = 0) -> Task[Examples]:
    batch = Copy(4, length=(length, length)).sample(1, Generator().manual_seed(seed))
    return tree_map(lambda leaf: leaf[0], batch)


def close(a: Any, b: Any):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_to_learn_is_to_read_and_to_predict_is_to_recite(learner: SequenceLearner):
    shown, question = task()
    whole, _ = learner.cell(torch.cat([shown.x, torch.zeros(3, 5)]))
    close(learner.predict(learner.adapt(shown), question.x), whole[4:])


def test_a_step_may_be_asked_for_alone(learner: SequenceLearner):
    shown, question = task()
    state = learner.adapt(shown)
    whole = learner.predict(state, question.x)
    close(learner.predict(state, question.x[2:]), whole[2:])
    close(learner.predict(state, question.x[[1, 0]]), whole[[1, 0]])


def test_attention_weights_are_those_of_the_cell_at_the_selected_steps():
    learner = SequenceLearner(MACHINES["ntm"]())
    cell, (support, query) = learner.cell, task()
    state, weights = cell.initial_state(), []
    for x in [*support.x, *torch.zeros(3, 5)]:
        _, state = cell.step(x, state)
        weights.append(state.attention_weights)  # (H, M)
    expected = torch.stack([*weights[:4], weights[6], weights[5]], 1)
    result = learner.attention_weights(Task(support, query.take([2, 1])))
    close(torch.stack(list(result.values())), expected)


def test_padding_anywhere_is_not_read(learner: SequenceLearner):
    shown = task().support
    junk = Examples(torch.randn(2, 5), torch.zeros(2, 4), torch.zeros(2))
    parts = zip(shown, junk, strict=True)
    padded = Examples(*(torch.cat([a[:2], b, a[2:], b]) for a, b in parts))
    close(leaves(learner.adapt(padded)), leaves(learner.adapt(shown)))


def test_reading_goes_on_from_a_state(learner: SequenceLearner):
    shown = task().support
    first, second = (shown.take(rows) for rows in (slice(2), slice(2, 4)))
    close(leaves(learner.adapt(second, learner.adapt(first))), leaves(learner.adapt(shown)))


def test_order_counts(learner: SequenceLearner):
    shown, question = task()
    back = Examples(*(column.flip(0) for column in shown))
    a, b = (learner.predict(learner.adapt(e), question.x) for e in (shown, back))
    assert (a - b).abs().max() > 1e-6


def examples(y: Tensor, weight: list[float]) -> Examples:
    return Examples(torch.eye(len(y)), y, torch.tensor(weight))


def test_bits_cost_what_their_probability_says():
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    p = torch.tensor([[0.9, 0.2], [0.5, 0.5], [0.1, 0.1]])
    bits = -(math.log2(0.9) + math.log2(0.8) + math.log2(0.5) + math.log2(0.5)) / 2
    found = bit_cross_entropy(p.logit(), examples(y, [1, 1, 0]))
    assert found.item() == pytest.approx(bits)
    guess = bit_cross_entropy(torch.zeros(3, 2), examples(y, [1, 1, 1]))
    assert guess.item() == pytest.approx(2)  # a bit for each bit that is guessed


def test_errors_are_counted_over_the_whole_sequence():
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    logits = torch.tensor([[-1.0, -1.0], [2.0, 3.0], [-5.0, -5.0]])
    assert bit_errors(logits, examples(y, [1, 1, 0])).item() == 3
    assert bit_errors(logits, examples(y, [1, 1, 1])).item() == 5


def test_slopes_are_those_of_finite_differences(learner: SequenceLearner):
    episode = task(2)
    params = dict(learner.named_parameters())
    direction = {name: torch.randn_like(p) for name, p in params.items()}

    def moved(far: float) -> Tensor:
        with torch.no_grad():
            other = {name: p + far * direction[name] for name, p in params.items()}
        batch = tree_map(lambda leaf: leaf[None], episode)
        return torch.func.functional_call(learner, other, (batch,))

    learner.loss(episode).backward()
    grad = sum(
        (p.grad * direction[name]).sum() for name, p in params.items() if p.grad is not None
    )
    measured = (moved(1e-6) - moved(-1e-6)) / 2e-6
    torch.testing.assert_close(torch.as_tensor(grad)[None], measured, rtol=1e-6, atol=1e-8)
