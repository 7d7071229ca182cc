"""MER against a loop with PyTorch's SGD."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quickstudy import MER, Examples, FineTuning
from quickstudy.core.counter_rng import integers
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def examples() -> Examples:
    tasks = Blobs(shots=2).sample(1, torch.Generator().manual_seed(0)).support
    return Examples(*(leaf[0].double() for leaf in tasks))


def net() -> nn.Module:
    torch.manual_seed(0)
    return MLP(8, 3, hidden=(7,), activation=nn.Tanh)


def moved(module: nn.Module, before: dict[str, torch.Tensor], share: float) -> None:
    now = module.state_dict()
    module.load_state_dict({n: b + share * (now[n] - b) for n, b in before.items()})


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (0.3, 0.6), (0.3, 1.0), (1.0, 0.6)])
def test_steps_are_those_of_a_loop(beta: float, gamma: float):
    """With a memory that has a place for everything. β = γ = 1 is plain SGD."""
    stream, module = examples(), net()
    optimizer = torch.optim.SGD(module.parameters(), 0.2)
    for seen in range(len(stream.x)):
        across = copy.deepcopy(module.state_dict())
        for number in (1, 2):
            within = copy.deepcopy(module.state_dict())
            count = torch.tensor(seen)
            past = integers(count, 3, count, salt=number).tolist() if seen else []
            for place in [seen, *past]:
                optimizer.zero_grad()
                F.cross_entropy(module(stream.x[[place]]), stream.y[[place]]).backward()
                optimizer.step()
            if beta < 1:
                moved(module, within, beta)
        if gamma < 1:
            moved(module, across, gamma)
    learner = MER(
        net(), lr=0.2, beta=beta, gamma=gamma, n_batches=2, replay_batch_size=3, memory_size=9
    )
    state = learner.adapt(stream)
    for name, value in module.named_parameters():
        torch.testing.assert_close(state.params[name], value)
    torch.testing.assert_close(state.buffer.examples.x[: len(stream.x)], stream.x)


def test_without_replay_and_reptile_it_is_fine_tuning_one_by_one():
    learner = MER(net(), lr=0.2, beta=1, gamma=1, n_batches=1, replay_batch_size=0)
    found = learner.adapt(examples()).params
    for name, value in FineTuning(net(), lr=0.2, batch_size=1).adapt(examples()).items():
        torch.testing.assert_close(found[name], value)


def test_without_a_way_nothing_is_learned():
    found = MER(net(), gamma=0, n_batches=2, replay_batch_size=2).adapt(examples()).params
    for name, value in net().named_parameters():
        assert torch.equal(found[name], value)
