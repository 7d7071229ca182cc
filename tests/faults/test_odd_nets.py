"""Nets in situations of use: inference mode, dictionaries, attributes, checkpoints, frozen."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import quickstudy as qs
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs


def batch(size: int = 2) -> qs.Task:
    return Blobs().sample(size, torch.Generator().manual_seed(0))  # x of width 8, 3 classes


EXECUTIONS: tuple[Execution, Execution] = ("vmap", "loop")


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", [qs.MAML, qs.Reptile, qs.IMAML, qs.anil])
def test_inference_mode_changes_no_number(make: Any, execution: Execution) -> None:
    torch.manual_seed(0)
    learner = make(MLP(8, 3), lr=0.1)
    learner.execution = execution
    metrics = {"loss": qs.cross_entropy}
    expected = qs.evaluate(learner, Blobs(), n_tasks=5, metrics=metrics).values["loss"]
    with torch.inference_mode():
        values = qs.evaluate(learner, Blobs(), n_tasks=5, metrics=metrics).values["loss"]
    torch.testing.assert_close(values.clone(), expected, rtol=1e-4, atol=1e-5)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.a(x["a"]) + self.b(x["b"])


class Pairs(qs.TaskDistribution):
    """Blobs, of which a net sees the halves by name."""

    def sample(self, size: int, generator: torch.Generator) -> qs.Task:
        parts = Blobs().sample(size, generator)
        return qs.Task(
            *(p._replace(x={"a": p.x[..., :4], "b": p.x[..., 4:]}) for p in parts)  # pyright: ignore
        )


@pytest.mark.parametrize("make", [qs.MAML, qs.PrototypicalNetwork])
def test_inputs_may_be_dictionaries(make: Any) -> None:
    named, joined = Two(), nn.Linear(8, 3)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([named.a.weight, named.b.weight], 1))
        joined.bias.copy_(named.a.bias + named.b.bias)
    settings = {"steps": 0} if make is qs.MAML else {}
    values = [
        qs.evaluate(make(net, **settings), tasks, n_tasks=4).values["accuracy"]
        for net, tasks in ((named, Pairs()), (joined, Blobs()))
    ]
    assert torch.equal(*values)
    assert make(named)(Pairs().sample(2, torch.Generator().manual_seed(0))).isfinite().all()


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)
        self.last: Any = "nothing yet"

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.a(x).tanh()
        self.last = {"features": [self.features]}
        return self.b(self.features)


def test_nets_that_remember_tensors_can_be_copied_and_saved_afterwards() -> None:
    learner = qs.MAML(Remembers())
    learner(batch()).mean().backward()
    assert learner.net.last == "nothing yet" and not hasattr(learner.net, "features")
    copy.deepcopy(learner)
    torch.save(learner, io.BytesIO())


class Saving(nn.Module):
    def __init__(self, way: str):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.head, self.way = nn.Linear(6, 3), way

    def forward(self, x: Tensor) -> Any:
        if self.way == "sequential":
            body = checkpoint_sequential(self.body, 2, x, use_reentrant=False)
        else:
            body = checkpoint(self.body, x, use_reentrant=self.way == "reentrant")
        return self.head(body)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("way", ["sequential", "reentrant", "not reentrant"])
@pytest.mark.parametrize("make", [qs.MAML, qs.fomaml, qs.Reptile, qs.IMAML])
def test_activation_checkpointing_is_refused_by_name(
    make: Any, way: str, execution: Execution
) -> None:
    learner = make(Saving(way))
    learner.execution = execution
    with pytest.raises(ValueError, match="uses activation checkpointing"):
        learner(batch())


def test_the_net_of_a_metric_learner_may_checkpoint() -> None:
    net = Saving("not reentrant")
    plain = copy.deepcopy(net)
    plain.forward = lambda x: plain.head(plain.body(x))
    grads = []
    for embed in (net, plain):
        learner = qs.PrototypicalNetwork(embed)
        learner.execution = "loop"
        grads.append(torch.autograd.grad(learner(batch()).mean(), list(embed.parameters())))
    torch.testing.assert_close(grads[0], grads[1])


class Forces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy = MLP(8, 1, hidden=(6,), activation=nn.Tanh)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return self.head(torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0])


@pytest.mark.filterwarnings("ignore:The outputs of Forces do not depend on energy.head.bias")
def test_derivatives_inside_a_net_are_sent_to_the_loop() -> None:
    learner = qs.MAML(Forces())
    with pytest.raises(ValueError, match=r"torch\.func\.grad, or set learner\.execution"):
        learner(batch())
    learner.execution = "loop"
    assert learner(batch()).isfinite().all()


def test_lazy_and_scripted_nets_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"lazy layers, .*: call it once"):
        qs.MAML(nn.LazyLinear(3))
    lazy = nn.LazyLinear(3)
    lazy(torch.zeros(1, 8))
    qs.MAML(lazy)(batch())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_scripted_nets_are_refused_in_words(execution: Execution) -> None:
    learner = qs.MAML(torch.jit.script(nn.Linear(8, 3)))
    learner.execution = execution
    with pytest.raises(ValueError, match=r"was compiled by torch\.jit"):
        learner(batch())


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_layers_that_are_frozen_later_stay(execution: Execution) -> None:
    """Against a learner that was made of the frozen net, convolutions and all."""
    torch.manual_seed(0)

    def make(frozen: bool) -> nn.Module:
        net = nn.Sequential(
            nn.Unflatten(1, (1, 2, 4)),
            nn.Conv2d(1, 4, 2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, 3),
        )
        net[1].requires_grad_(not frozen)
        return net

    early, late, thawed = make(frozen=True), make(frozen=False), make(frozen=True)
    late.load_state_dict(early.state_dict())
    thawed.load_state_dict(early.state_dict())
    all_free = make(frozen=False)
    all_free.load_state_dict(early.state_dict())
    for first, second, change in ((early, late, False), (all_free, thawed, True)):
        learners = [qs.MAML(net, lr=0.5, steps=3) for net in (first, second)]
        second[1].requires_grad_(change)
        losses = []
        for learner in learners:
            learner.execution = execution
            losses.append(learner(batch()).detach())
            with torch.no_grad():
                torch.testing.assert_close(learner(batch()), losses[-1])
        torch.testing.assert_close(*losses)
    assert F.mse_loss(qs.MAML(early, lr=0.5)(batch()), qs.MAML(all_free, lr=0.5)(batch())) > 0
