"""DER++ against a loop with PyTorch's SGD, and against experience replay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import DarkExperienceReplay, Examples, ExperienceReplay, FineTuning
from quickstudy.core.counter_rng import integers
from quickstudy.learners.lifelong.dark_experience_replay import DERState, LabelledLogits
from quickstudy.learners.lifelong.replay_buffer import Buffer
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def experiences() -> list[Examples]:
    tasks = Blobs(shots=4).sample(2, torch.Generator().manual_seed(0)).support
    return [Examples(*(leaf[i].double() for leaf in tasks)) for i in range(2)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return MLP(8, 3, hidden=(7,), activation=nn.Tanh)


def test_steps_are_those_of_a_loop():
    """With a memory that has a place for everything."""
    module, stored, seen = net(), list[Tensor](), 0
    optimizer = torch.optim.SGD(module.parameters(), 0.2)
    both = Examples.cat(*experiences())
    for x, y in zip(both.x.split(4), both.y.split(4), strict=True):
        now = module(x)
        loss = F.cross_entropy(now, y)
        if seen:
            count = torch.tensor(seen)
            first = integers(count, 5, count, salt=-1)
            second = integers(count, 5, count, salt=1)
            loss = loss + 0.7 * F.mse_loss(module(both.x[first]), torch.cat(stored)[first])
            loss = loss + 0.3 * F.cross_entropy(module(both.x[second]), both.y[second])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stored.append(now.detach())
        seen += len(x)
    learner = DarkExperienceReplay(
        net(), lr=0.2, alpha=0.7, beta=0.3, batch_size=4, replay_batch_size=5, memory_size=30
    )
    first, second = experiences()
    state = learner.adapt(second, learner.adapt(first))
    for name, value in module.named_parameters():
        torch.testing.assert_close(state.params[name], value)
    torch.testing.assert_close(state.buffer.examples.logits[:seen], torch.cat(stored))
    torch.testing.assert_close(state.buffer.examples.examples.x[:seen], both.x)


def test_without_logits_it_is_experience_replay():
    """Which takes the mean over B and R together: hence another rate, and a weight."""
    first, second = experiences()
    replay = ExperienceReplay(net(), lr=0.2, batch_size=4, replay_batch_size=6, memory_size=9)
    before = replay.adapt(first)
    after = replay.adapt(second, before)
    dark = DarkExperienceReplay(
        net(),
        lr=0.2 * 4 / (4 + 6),
        alpha=0,
        beta=6 / 4,
        batch_size=4,
        replay_batch_size=6,
        memory_size=9,
    )
    examples = before.buffer.examples
    buffer = Buffer(LabelledLogits(examples, torch.randn_like(examples.y)), before.buffer.seen)
    found = dark.adapt(second, DERState(before.params, buffer))
    for name, value in after.params.items():
        torch.testing.assert_close(found.params[name], value)
    for a, b in zip(found.buffer.examples.examples, after.buffer.examples, strict=True):
        torch.testing.assert_close(a, b)


def test_without_labels_only_logits_are_remembered():
    first, second = experiences()
    learner = DarkExperienceReplay(net(), beta=0, batch_size=4, memory_size=9)
    state = learner.adapt(first)
    stored = state.buffer.examples

    def learned(stored: LabelledLogits) -> Tensor:
        buffer = state.buffer._replace(examples=stored)
        return learner.adapt(second, state._replace(buffer=buffer)).params["head.bias"]

    other = stored.examples._replace(y=stored.examples.y.roll(1, 1))
    assert torch.equal(learned(stored), learned(stored._replace(examples=other)))
    assert not torch.allclose(
        learned(stored), learned(stored._replace(logits=stored.logits + 1))
    )


def test_without_either_it_is_fine_tuning():
    first, second = experiences()
    dark = DarkExperienceReplay(net(), alpha=0, beta=0, batch_size=4)
    tuned = FineTuning(net(), batch_size=4)
    found = dark.adapt(second, dark.adapt(first)).params
    for name, value in tuned.adapt(second, tuned.adapt(first)).items():
        torch.testing.assert_close(found[name], value)
