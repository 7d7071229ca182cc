"""Inside the adaptation: against `evaluate`, a descent by hand and representations by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import (
    MAML,
    Examples,
    Learner,
    PrototypicalNetwork,
    Task,
    TaskDistribution,
    anil,
    boil,
    evaluate,
)
from quickstudy.capabilities import DescendsInSteps
from quickstudy.core.criteria import accuracy, cross_entropy
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.evaluation import adaptation_trace
from quickstudy.evaluation.adaptation import linear_cka
from quickstudy.nets import use_cells
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs
from tests.zoo import ZOO

LR, STEPS, COUNT = 0.3, 3, 5


class Exact(TaskDistribution):
    """Blobs in float64, and, if asked for, with queries that are padding."""

    def __init__(self, padding: int = 0):
        self.padding = padding

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        batch = tree_map(lambda leaf: leaf.double(), Blobs().sample(n_tasks, generator))
        if not self.padding:
            return batch
        more = tree_map(lambda leaf: leaf[:, : self.padding] * 7, batch.query)
        more = more._replace(weight=0 * more.weight)
        return batch._replace(
            query=tree_map(lambda a, b: torch.cat([a, b], 1), batch.query, more)
        )


def net() -> MLP:
    return MLP(8, 3, hidden=(5,), activation=nn.Tanh).double()


def tasks(count: int, size: int) -> list[Task[Examples]]:
    """The tasks that `adaptation_trace` is about, of the default seed."""
    seen: list[Task[Examples]] = []

    class Spy(Learner[Any]):
        def adapt(self, support: Examples, state: Any = None) -> Any:
            return support

        def predict(self, state: Any, x: Tensor) -> Tensor:
            return x[:, :3]

    def keep(prediction: Tensor, query: Examples) -> Tensor:
        return prediction.sum()

    class Kept(Exact):
        def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
            batch = super().sample(n_tasks, generator)
            seen.extend(tree_map(lambda leaf, i=i: leaf[i], batch) for i in range(n_tasks))
            return batch

    evaluate(Spy(), Kept(), n_tasks=count, meta_batch_size=size, metrics={"any": keep})
    return seen[:count]


def by_hand(net: MLP, task: Task[Examples]) -> list[dict[str, Tensor]]:
    """What is at work after 0 to `STEPS` steps: parameters and outputs of both layers."""
    params = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        w, b, head, bias = params
        first = x @ w.T + b
        return first, first.tanh() @ head.T + bias

    found = []
    for _ in range(STEPS + 1):
        first, second = run(task.query.x)
        found.append(
            {
                "body.0": torch.cat([p.flatten() for p in params[:2]]),
                "head": torch.cat([p.flatten() for p in params[2:]]),
                "body.0 says": first,
                "head says": second,
            }
        )
        loss = nn.functional.cross_entropy(run(task.support.x)[1], task.support.y)
        grads = torch.autograd.grad(loss, params)
        params = [
            (p - LR * s).detach().requires_grad_() for p, s in zip(params, grads, strict=True)
        ]
    return found


def test_the_numbers_after_each_step_are_those_of_evaluate():
    learner = MAML(net(), lr=LR, steps=STEPS)
    found = adaptation_trace(learner, Exact(), n_tasks=COUNT, meta_batch_size=2)
    assert len(found.after) == STEPS + 1
    for steps, report in enumerate(found.after):
        learner.steps = steps
        metrics = {"cross_entropy": cross_entropy, "accuracy": accuracy}
        expected = evaluate(learner, Exact(), n_tasks=COUNT, meta_batch_size=2, metrics=metrics)
        assert report.values.keys() == expected.values.keys()
        torch.testing.assert_close(dict(report.values), dict(expected.values))
        assert report.card == expected.card


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_movement_and_similarity_are_those_by_hand(execution: Any):
    learner = MAML(net(), lr=LR, steps=STEPS)
    learner.execution = execution
    found = adaptation_trace(learner, Exact(), n_tasks=COUNT, meta_batch_size=2)
    assert list(found.moved) == list(found.similarity) == ["body.0", "head"]
    for i, task in enumerate(tasks(COUNT, 2)):
        path = by_hand(learner.net, task)  # pyright: ignore[reportArgumentType]
        for k, now in enumerate(path):
            for layer in "body.0", "head":
                theta, phi = path[0][layer], now[layer]
                moved = (phi - theta).square().sum().sqrt() / theta.square().sum().sqrt()
                torch.testing.assert_close(found.moved[layer][i, k], moved.detach())
                a, b = path[0][f"{layer} says"], now[f"{layer} says"]
                a, b = a - a.mean(0), b - b.mean(0)
                alike = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
                torch.testing.assert_close(found.similarity[layer][i, k], alike.detach())


def test_a_body_that_is_not_adapted_does_not_move_at_all():
    found = adaptation_trace(anil(net(), lr=LR, steps=STEPS), Exact(), n_tasks=COUNT)
    assert not found.moved["body.0"].any()
    torch.testing.assert_close(
        found.similarity["body.0"], torch.ones(COUNT, STEPS + 1).double(), rtol=0, atol=1e-12
    )
    assert (found.moved["head"].diff() > 0).all()
    assert (found.similarity["head"][:, -1] < 1 - 1e-3).all()


def test_a_head_that_is_not_adapted_does_not_move_but_says_something_else():
    found = adaptation_trace(boil(net(), lr=LR, steps=STEPS), Exact(), n_tasks=COUNT)
    assert not found.moved["head"].any()
    assert (found.moved["body.0"].diff() > 0).all()
    assert (found.similarity["head"][:, -1] < 1 - 1e-4).all()


def test_padding_is_not_looked_at():
    learner = MAML(net(), lr=LR, steps=STEPS)
    bare, padded = (
        adaptation_trace(learner, Exact(n), n_tasks=COUNT, meta_batch_size=2) for n in (0, 2)
    )
    torch.testing.assert_close(padded.similarity, bare.similarity)
    torch.testing.assert_close(padded.moved, bare.moved)


def test_cka_ignores_rotation_scale_and_shift_and_nothing_else():
    a = torch.randn(20, 6).double()
    rotation = torch.linalg.qr(torch.randn(6, 6).double())[0]
    one = torch.ones(()).double()
    torch.testing.assert_close(linear_cka(a, 3 * a @ rotation + 5), one)
    stretched = linear_cka(a, a * torch.tensor([100.0, 1, 1, 1, 1, 1]))
    assert 0 < stretched < 0.9
    centred = torch.randn(20, 4).double()
    left, right = torch.linalg.qr(centred - centred.mean(0))[0].split(2, 1)
    torch.testing.assert_close(linear_cka(left, right), 0 * one)
    assert linear_cka(a, torch.ones(20, 3)).isnan()


def test_the_learner_is_left_as_it_was():
    learner = MAML(net(), lr=LR, steps=STEPS)
    body = learner.net.get_submodule("body").eval()
    before = torch.get_rng_state()
    adaptation_trace(learner, Exact(), steps=1, n_tasks=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert learner.steps == STEPS
    assert learner.training and learner.net.training and not body.training
    assert not any(module._forward_hooks for module in learner.modules())


def test_hooks_are_removed_when_prediction_fails():
    class Fails(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            raise RuntimeError("broken")

    learner = MAML(Fails(8, 3), steps=1)
    with pytest.raises(RuntimeError, match="broken"):
        adaptation_trace(learner, Blobs(), n_tasks=2)
    assert learner.steps == 1 and not learner.net._forward_hooks


DESCENDS = [name for name, entry in ZOO.items() if isinstance(entry.learner(), DescendsInSteps)]


@pytest.mark.parametrize("name", ["tim", "transductive_fine_tuning", "baseline", "lrd2"])
def test_other_steps_than_those_of_inner_descent_are_refused(name: str):
    learner = ZOO[name].learner()
    assert isinstance(getattr(learner, "steps", None), int)
    with pytest.raises(ValueError, match="no `steps` of inner gradient descent"):
        adaptation_trace(learner, ZOO[name].tasks, n_tasks=1)


@pytest.mark.parametrize("name", DESCENDS)
def test_every_learner_that_descends_can_be_looked_inside(name: str):
    entry = ZOO[name]
    found = adaptation_trace(entry.learner(), entry.tasks, steps=2, n_tasks=2)
    assert any((moved[:, 1:] > 0).all() for moved in found.moved.values())
    for moved in found.moved.values():
        assert moved.shape == (2, 3) and not moved[:, 0].any()
    for alike in found.similarity.values():
        assert alike.shape == (2, 3)
        assert alike.isnan().all() or (alike[:, 0] > 0.999).all()
    assert all(name in str(found) for name in found.moved)


def test_a_context_moves_and_the_net_does_not():
    found = adaptation_trace(ZOO["cavia_line"].learner(), ZOO["cavia_line"].tasks, n_tasks=2)
    assert list(found.moved)[-1] == "state" and (found.moved["state"][:, -1] > 0).all()
    assert not any(found.moved[name].any() for name in found.similarity)


def test_the_head_that_a_task_makes_is_looked_at_too():
    found = adaptation_trace(ZOO["proto_maml"].learner(), ZOO["proto_maml"].tasks, n_tasks=2)
    assert {"params.W", "params.b"} <= set(found.moved) - set(found.similarity)
    assert "sizes" not in found.moved


def test_layers_that_are_called_again_or_read_by_others():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.rnn = use_cells(nn.GRU(8, 4, batch_first=True))
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.encoder(x[:, None] * x[..., None])
            return self.head(self.rnn(x)[0][:, -1])

    found = adaptation_trace(MAML(Net(), lr=0.1, steps=1), Blobs(), n_tasks=2)
    # the last layer of attention is not called: its parameters are a part of the state
    assert (found.moved["encoder.layers.0.self_attn.out_proj.weight"][:, 1] > 0).all()
    assert "encoder.layers.0.self_attn" in found.similarity
    assert "rnn" in found.similarity


@pytest.mark.parametrize("steps", [0, -1])
def test_without_a_step_there_is_nothing_to_see(steps: int):
    with pytest.raises(ValueError, match="at least one"):
        adaptation_trace(MAML(net()), Exact(), steps=steps)


def test_a_learner_without_steps_is_refused():
    with pytest.raises(ValueError, match=r"PrototypicalNetwork has no `steps` .* `evaluate`\."):
        adaptation_trace(PrototypicalNetwork(net()), Exact())
