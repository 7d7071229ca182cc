"""MAML++ against MAML, a loop written by hand, and finite differences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call

from quickstudy import MAML, Examples, MAMLPlusPlus, Task, fomaml, load, save, train
from quickstudy.core.parameters import Params
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.learner import Learner
from quickstudy.nets.backbones import use_batch_statistics
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")

LR, STEPS = 0.3, 3
OFF: dict[str, Any] = {"multi_step_until": 0, "learn_rates": False, "per_step_norm": False}


def batch(size: int = 2) -> Task[Examples]:
    return Blobs().sample(size, torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    for p in layers[1].parameters():
        p.data += 0.1 * torch.randn(5)
    return use_batch_statistics(layers)


def disturbed(**settings: Any) -> MAMLPlusPlus:
    """With rates and normalisation that differ from step to step, where they may."""
    learner = MAMLPlusPlus(net(), lr=LR, steps=STEPS, **settings)
    for p in (learner.rates, *learner.norms.values()):
        p.data += 0.05 * torch.randn(p.shape) * p.requires_grad
    return learner


def gradients(learner: Learner[Params], execution: Execution = "vmap") -> tuple[Tensor, Params]:
    learner.execution = execution
    losses = learner(batch())
    wanted = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(losses.sum(), [*wanted.values()])
    return losses, dict(zip(wanted, found, strict=True))


def net_logits(x: Tensor, p: Params) -> Tensor:
    """What the net above says, written out."""
    h = x @ p["0.weight"].T + p["0.bias"]
    h = (h - h.mean(0)) / (((h - h.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
    return (h * p["1.weight"] + p["1.bias"]).tanh() @ p["3.weight"].T + p["3.bias"]


def by_hand(
    learner: MAMLPlusPlus, weights: list[float], first_order: bool
) -> tuple[Tensor, Params]:
    """Losses and their gradients by a loop over tasks and steps and `autograd.grad` only."""
    params = dict(learner.net.named_parameters())
    norms = {name.replace("/", "."): p for name, p in learner.norms.items()}
    losses = []
    for i in range(2):
        task = tree_map(lambda leaf, i=i: leaf[i], batch())
        fast, values = {name: p for name, p in params.items() if name not in norms}, []
        for step in range(STEPS):
            norm = {name: p[step] for name, p in norms.items()}
            logits = net_logits(task.support.x, {**fast, **norm})
            inner_loss = nn.functional.cross_entropy(logits, task.support.y)
            grads = torch.autograd.grad(inner_loss, [*fast.values()], create_graph=True)
            if first_order:
                grads = [grad.detach() for grad in grads]
            fast = {
                name: p - learner.rates[step, column] * grads[column]
                for column, (name, p) in enumerate(fast.items())
            }
            logits = net_logits(task.query.x, {**fast, **norm})
            values.append(nn.functional.cross_entropy(logits, task.query.y))
        losses.append((torch.tensor(weights) * torch.stack(values)).sum())
    wanted = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(torch.stack(losses).sum(), [*wanted.values()])
    return torch.stack(losses), dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    "part",
    [
        {},
        {"multi_step_until": 10},
        {"learn_rates": True},
        {"per_step_norm": True},
        {"multi_step_until": 10, "learn_rates": True, "per_step_norm": True},
    ],
    ids=lambda part: "+".join(part) or "nothing",
)
def test_each_part_alone_and_all_are_a_loop_by_hand(
    part: dict[str, int], first_order: bool, execution: Execution
):
    learner = disturbed(**{**OFF, **part}, first_order_until=5 if first_order else 0)
    learner.set_step(4)
    weights = (
        [0.2, 0.2, 0.6] if "multi_step_until" in part else [0.0, 0.0, 1.0]
    )  # 0.6 / 3 each + 0.4
    losses, grads = by_hand(learner, weights, first_order)
    found, found_slopes = gradients(learner, execution)
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(found_slopes, grads, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_with_everything_off_it_is_maml(execution: Execution):
    losses, grads = gradients(MAMLPlusPlus(net(), lr=LR, steps=STEPS, **OFF), execution)
    expected, expected_slopes = gradients(MAML(net(), lr=LR, steps=STEPS), execution)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(grads, expected_slopes)


def test_the_first_phase_is_fomaml_and_the_second_maml():
    learner = MAMLPlusPlus(net(), lr=LR, steps=STEPS, **{**OFF, "first_order_until": 7})
    first, second = (gradients(make(net(), lr=LR, steps=STEPS))[1] for make in (fomaml, MAML))
    assert not torch.allclose(first["net.0.weight"], second["net.0.weight"], rtol=1e-2)
    for done, expected in {0: first, 6: first, 7: second, 100: second}.items():
        learner.set_step(done)
        torch.testing.assert_close(gradients(learner)[1], expected)


def test_rates_and_normalisation_have_the_gradient_of_finite_differences():
    learner = disturbed(multi_step_until=10)
    learner.set_step(5)
    wanted = {name: p for name, p in learner.named_parameters() if not name.startswith("net.")}
    assert set(wanted) == {"rates", "norms.1/weight", "norms.1/bias"}

    def loss(*values: Tensor) -> Tensor:
        return functional_call(learner, dict(zip(wanted, values, strict=True)), (batch(),))

    assert torch.autograd.gradcheck(loss, tuple(wanted.values()))


def test_weights_sum_to_one_and_move_to_the_last_step():
    # the loss after i steps is that of a learner of i steps whose last one alone counts
    after = [
        MAMLPlusPlus(net(), lr=LR, steps=i, **OFF)(batch()).mean() for i in range(1, STEPS + 1)
    ]
    learner = MAMLPlusPlus(net(), lr=LR, steps=STEPS, **{**OFF, "multi_step_until": 8})
    for done, weights in {
        0: [1 / 3, 1 / 3, 1 / 3],
        2: [1 / 4, 1 / 4, 1 / 2],
        4: [1 / 6, 1 / 6, 2 / 3],
        8: [0, 0, 1],
        99: [0, 0, 1],
    }.items():
        learner.set_step(done)
        assert sum(weights) == pytest.approx(1)
        expected = sum(v * value for v, value in zip(weights, after, strict=True))
        torch.testing.assert_close(learner(batch()).mean(), expected)


def test_a_given_state_goes_through_all_steps_again():
    learner, support = disturbed(), tree_map(lambda leaf: leaf[0], batch()).support
    state = learner.initial_params()
    for number in (0, 1, 2, 0, 1, 2):
        state = learner.step(number, support, state)
    torch.testing.assert_close(learner.adapt(support, learner.adapt(support)), state)
    torch.testing.assert_close(state["1.bias"], learner.norms["1/bias"][2])


def test_steps_beyond_those_learned_repeat_the_last():
    learner, support = disturbed(), tree_map(lambda leaf: leaf[0], batch()).support
    state = learner.adapt(support)
    learner.steps = STEPS + 2
    expected = learner.step(2, support, learner.step(2, support, state))
    torch.testing.assert_close(learner.adapt(support), expected)


def test_predictions_do_not_depend_on_the_phase():
    learner = disturbed(multi_step_until=10, first_order_until=5)
    task = tree_map(lambda leaf: leaf[0], batch())
    expected = learner.predict(learner.adapt(task.support), task.query.x)
    learner.set_step(20)
    torch.testing.assert_close(
        learner.predict(learner.adapt(task.support), task.query.x), expected, rtol=0, atol=0
    )


def test_training_anneals_and_goes_on_to_the_bit(tmp_path: Path):
    def run(start: int, stop: int, folder: Path) -> tuple[MAMLPlusPlus, list[Tensor]]:
        learner = disturbed(multi_step_until=4, first_order_until=3)
        optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
        if start:
            load(folder, learner, optimizer)
        adaptation_trace = nn.Sequential(learner)  # `train` looks into wrappers, as DDP is one
        steps = train(
            adaptation_trace, Blobs(), optimizer, steps=stop, meta_batch_size=2, start=start
        )
        phases, losses = [], []
        for step in steps:
            phases.append((learner.is_first_order, learner.share.item()))
            losses.append(step.loss)
        done = range(start, stop)
        assert phases == [(n < 3, min(n / 4, 1.0)) for n in done]
        save(folder, learner, optimizer)
        return learner, losses

    whole, expected = run(0, 6, tmp_path / "whole")
    _, first = run(0, 2, tmp_path / "parts")
    learner, second = run(2, 6, tmp_path / "parts")
    assert all(map(torch.equal, [*first, *second], expected))
    assert all(map(torch.equal, learner.parameters(), whole.parameters()))


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="steps=0"):
        MAMLPlusPlus(net(), steps=0)
    with pytest.raises(ValueError, match="no trainable parameter"):
        MAMLPlusPlus(nn.BatchNorm1d(8))
    tracking = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="use_batch_statistics"):
        MAMLPlusPlus(tracking)(batch())


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.slow
def test_compiled_it_is_the_same_and_each_phase_is_compiled_once():
    learner = disturbed(multi_step_until=4, first_order_until=2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(learner, fullgraph=True, backend=counter)
    compilations = []
    for done in range(6):
        learner.set_step(done)
        expected = gradients(learner)
        losses = compiled(batch())
        wanted = [p for p in learner.parameters() if p.requires_grad]
        found = torch.autograd.grad(losses.sum(), wanted)
        torch.testing.assert_close(losses, expected[0])
        torch.testing.assert_close([*found], [*expected[1].values()])
        compilations.append(counter.frame_count)
    assert compilations[::2] == compilations[1::2], "compiled anew within a phase"
