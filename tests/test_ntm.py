"""Neural Turing machines against loops over slots, and a machine wired by hand that copies."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quickstudy import SequenceLearner, evaluate
from quickstudy.core.tree import leaves
from quickstudy.learners.memory import bit_errors
from quickstudy.nets.cells import (
    NTM,
    FeedForward,
    LSTMCell,
    RecurrentCell,
    StackedLSTM,
    circular_shift,
    content_addressing,
    cosine,
    interpolation,
    sharpening,
    write,
)
from quickstudy.tasks import Copy

pytestmark = pytest.mark.usefixtures("double")


def close(a: Any, b: Any):
    torch.testing.assert_close(a, torch.as_tensor(b), rtol=1e-9, atol=1e-11)


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


def by_content(key: Any, strength: float, memory: Any) -> Any:
    """Equations 5 and 6, slot by slot."""
    norms = [np.sqrt((v @ v) + 1e-6) for v in memory]
    norm = np.sqrt((key @ key) + 1e-6)
    pairs = zip(memory, norms, strict=True)
    return softmax(np.array([strength * (key @ v) / (norm * n) for v, n in pairs]))


def shifted(weighting: Any, shift: Any) -> Any:
    """Equation 8 as it stands: shift[0] is that of -k."""
    k, size = len(shift) // 2, len(weighting)
    found = np.zeros(size)
    for i in range(size):
        for j in range(size):
            for step in range(-k, k + 1):
                if (i - j) % size == step % size:
                    found[i] += weighting[j] * shift[step + k]
    return found


def sharpened(weighting: Any, power: float) -> Any:
    """Equation 9."""
    return weighting**power / (weighting**power).sum()


def test_content_addressing_is_equations_5_and_6():
    keys, memory, strength = torch.randn(2, 4), torch.randn(7, 4), torch.tensor([0.5, 9.0])
    found = content_addressing(keys, strength, memory)
    for head in range(2):
        args = keys[head].numpy(), float(strength[head]), memory.numpy()
        close(found[head], by_content(*args))
    apart = torch.nn.functional.cosine_similarity(keys[:, None], memory, dim=-1)
    torch.testing.assert_close(cosine(keys, memory), apart, rtol=1e-5, atol=1e-5)


def test_an_empty_memory_is_addressed_alike_with_a_finite_slope():
    memory = torch.zeros(5, 4, requires_grad=True)
    found = content_addressing(torch.randn(1, 4), torch.tensor([10.0]), memory)
    close(found, torch.full((1, 5), 0.2))
    found[0, 0].backward()
    assert memory.grad is not None and memory.grad.isfinite().all() and memory.grad.any()


def test_a_closed_gate_keeps_the_previous_weighting():
    content, previous = torch.rand(2, 6).softmax(-1), torch.rand(2, 6).softmax(-1)
    gate = torch.tensor([0.0, 1.0])
    close(interpolation(content, previous, gate), torch.stack([previous[0], content[1]]))
    half = interpolation(content, previous, torch.tensor([0.5, 0.25]))
    close(half[1], 0.25 * content[1] + 0.75 * previous[1])


@pytest.mark.parametrize("width", [1, 3, 5])
def test_shift_is_a_circular_convolution(width: int):
    weighting, shift = torch.randn(2, 3, 8).softmax(-1), torch.randn(2, 3, width).softmax(-1)
    found = circular_shift(weighting, shift)
    for i in np.ndindex(2, 3):
        close(found[i], shifted(weighting[i].numpy(), shift[i].numpy()))


def test_a_sure_shift_moves_ahead_and_around():
    weighting = torch.tensor([[0.1, 0.2, 0.7]])
    close(circular_shift(weighting, torch.tensor([[0.0, 0.0, 1.0]])), [[0.7, 0.1, 0.2]])


def test_sharpening_is_equation_9():
    weighting, power = torch.randn(2, 8).softmax(-1), torch.tensor([1.0, 3.7])
    found = sharpening(weighting, power)
    close(found[0], weighting[0])
    close(found[1], sharpened(weighting[1].numpy(), 3.7))


def test_sharpening_does_not_underflow():
    weighting = torch.full((1, 128), 1 / 128, dtype=torch.float32, requires_grad=True)
    power = torch.tensor([50.0], dtype=torch.float32, requires_grad=True)  # 128^-50 is 0
    found = sharpening(weighting, power)
    torch.testing.assert_close(found, weighting)
    (grads,) = torch.autograd.grad(found[0, 0], weighting)
    assert grads.isfinite().all()


def test_writing_at_a_slot_replaces_it():
    memory, add = torch.randn(4, 3), torch.randn(1, 3)
    where = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    found = write(memory, where, torch.ones(1, 3), add)
    close(found, torch.stack([memory[0], memory[1], add[0], memory[3]]))
    close(write(memory, where, torch.zeros(1, 3), torch.zeros(1, 3)), memory)


def test_all_heads_erase_before_any_adds():
    memory, where = torch.randn(5, 3), torch.randn(2, 5).softmax(-1)
    erase, add = torch.rand(2, 3), torch.randn(2, 3)
    expected = memory.numpy().copy()
    for head in range(2):  # equation 3
        for i in range(5):
            expected[i] *= 1 - where[head, i].numpy() * erase[head].numpy()
    for head in range(2):  # equation 4
        for i in range(5):
            expected[i] += where[head, i].numpy() * add[head].numpy()
    close(write(memory, where, erase, add), expected)


def machine(**settings: Any) -> NTM:
    torch.manual_seed(1)
    made = NTM(3, 2, hidden=6, slots=5, width=4, reads=2, writes=2, shifts=1, **settings)
    for p in made.parameters():  # far from zero: so that nothing is alike by chance
        p.data += 0.7 * torch.randn_like(p)
    return made


def test_a_step_is_the_paper_slot_by_slot():
    """Two steps, head by head, of the parameters alone."""
    net, xs = machine(controller=FeedForward), torch.randn(2, 3)
    weights: dict[str, Any] = {k: v.detach().numpy() for k, v in net.named_parameters()}

    def linear(name: str, x: Any) -> Any:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    memory = np.zeros((5, 4))
    where = [softmax(row) for row in weights["first"]]
    read = np.zeros(8)
    expected = []
    for x in xs.numpy():
        hidden = np.tanh(linear("controller.layer", np.concatenate([x, read])))
        now = []
        for head, interface in enumerate(linear("address", hidden).reshape(4, -1)):
            key, shift, (strength, gate, power) = interface[:4], interface[4:7], interface[7:]
            at = by_content(key, softplus(strength), memory)
            at = sigmoid(gate) * at + (1 - sigmoid(gate)) * where[head]
            now.append(sharpened(shifted(at, softmax(shift)), 1 + softplus(power)))
        where = now
        changes = linear("change", hidden).reshape(2, 2, 4)
        for at, (erase, _) in zip(where[2:], changes, strict=True):
            memory = memory * (1 - np.outer(at, sigmoid(erase)))
        for at, (_, add) in zip(where[2:], changes, strict=True):
            memory = memory + np.outer(at, add)
        read = np.concatenate([at @ memory for at in where[:2]])
        expected.append(linear("output", np.concatenate([hidden, read])))
    outputs, state = net(xs)
    close(outputs, np.stack(expected))
    close(state.memory, memory)
    close(state.attention_weights, np.stack(where))


@pytest.mark.parametrize("kind", [LSTMCell, FeedForward, None])
def test_one_sequence_a_batch_and_vmap_agree(kind: Any):
    net = StackedLSTM(3, 2, hidden=5) if kind is None else machine(controller=kind)
    x = torch.randn(4, 3, 3)
    together, states = net.trace(x)
    mapped, last = torch.func.vmap(net, in_dims=1)(x)
    close(mapped.transpose(0, 1), together)
    for i in range(3):
        alone, state = net(x[:, i])
        close(alone, together[:, i])
        for parts in zip(*map(leaves, (state, states[-1], last)), strict=True):
            close(parts[1][i], parts[0])
            close(parts[2][i], parts[0])


def test_a_sequence_may_go_on():
    net, x = machine(), torch.randn(5, 3)
    whole, end = net(x)
    first, state = net(x[:2])
    second, last = net(x[2:], state)
    close(torch.cat([first, second]), whole)
    torch.testing.assert_close(leaves(last), leaves(end))


def test_stacked_lstm_is_that_of_torch():
    ours = StackedLSTM(3, 2, hidden=4, layers=2)
    theirs = nn.LSTM(3, 4, num_layers=2)
    with torch.no_grad():
        for i, layer in enumerate(ours.layers):
            assert isinstance(layer, LSTMCell)
            width = layer.gates.weight.shape[1] - 4
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.gates.weight[:, :width])
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.gates.weight[:, width:])
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.gates.bias)
            getattr(theirs, f"bias_hh_l{i}").zero_()
    x = torch.randn(6, 2, 3)
    close(ours(x)[0], ours.output(theirs(x)[0]))


@pytest.mark.parametrize("kind", [LSTMCell, FeedForward])
def test_slopes_are_those_of_finite_differences(kind: Any):
    net, x = machine(controller=kind), torch.randn(3, 3)
    params = dict(net.named_parameters())

    def value(*given: Tensor) -> Tensor:
        named = dict(zip(params, given, strict=True))
        return torch.func.functional_call(net, named, (x,))[0].square().sum()

    given = tuple(p.detach().requires_grad_() for p in params.values())
    assert torch.autograd.gradcheck(value, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, given, fast_mode=True)


class Wired(RecurrentCell[Tensor]):
    """A controller that says its input, and whether the sequence has ended before."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.inputs, self.marker = inputs, hidden - 2
        self.register_buffer("before", torch.zeros(1))

    def initial_state(self) -> Tensor:
        return self.get_buffer("before")

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output = torch.cat([x[..., : self.marker + 1], state], -1)
        return output, state + x[..., self.marker : self.marker + 1]


@torch.no_grad()
def test_a_machine_wired_by_hand_copies_without_error():
    """The write head goes ahead by a slot at each input; the read head stays at the first one
    until the sequence has ended, and then goes after it."""
    bits = 4
    net = NTM(bits + 1, bits, hidden=bits + 2, slots=24, width=bits, controller=Wired)
    for p in net.parameters():
        p.zero_()
    sure = 60.0  # as a logit, of what is certain to 1e-26
    net.first[:, 0] = sure
    key, stay, ahead, gate = bits, bits + 1, bits + 2, bits + 4
    each = bits + 6
    ended = bits + 1  # in what the controller says
    net.address.bias[gate] = net.address.bias[each + gate] = -sure
    net.address.bias[stay] = sure
    net.address.weight[ahead, ended] = 2 * sure
    net.address.bias[each + ahead] = sure
    assert net.parts[:2] == (key, 3)
    net.change.bias[:bits] = -sure  # erases nothing
    net.change.weight[bits:, :bits] = torch.eye(bits)  # adds the input
    net.output.weight[:, -bits:] = sure * torch.eye(bits)
    net.output.bias[:] = -sure / 2
    learner = SequenceLearner(net)

    def wrong(length: int) -> float:
        tasks = Copy(bits, length=(length, length))
        return evaluate(learner, tasks, n_tasks=20, metrics={"n": bit_errors}).mean("n")

    assert [wrong(length) for length in (1, 7, 24)] == [0, 0, 0]
    assert wrong(25) > 0  # the memory is full
    batch = Copy(bits, length=(5, 5)).sample(1, torch.Generator())
    _, states = net.trace(batch.support.x[0])
    assert [int(s.attention_weights[1].argmax()) for s in states] == [1, 2, 3, 4, 5, 6]
    assert [int(s.attention_weights[0].argmax()) for s in states] == [0] * 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.parametrize("kind", [LSTMCell, FeedForward])
def test_a_compiled_step_and_a_compiled_learner_are_the_same(kind: Any):
    def grads(losses: Tensor, learner: nn.Module) -> list[Tensor]:
        learner.zero_grad()
        losses.mean().backward()
        return [losses.detach(), *(p.grad for p in learner.parameters() if p.grad is not None)]

    torch._dynamo.reset()
    learner = SequenceLearner(machine(controller=kind))
    batch = Copy(2, length=(1, 2), ragged=True).sample(3, torch.Generator())
    expected = grads(learner(batch), learner)
    whole: Any = torch.compile(learner, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(grads(whole(batch), learner), expected, rtol=1e-9, atol=1e-11)
    net, x = learner.cell, torch.randn(3, 2, 3)
    expected = grads(net(x)[0], net)
    net.step = torch.compile(net.step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(grads(net(x)[0], net), expected, rtol=1e-9, atol=1e-11)
