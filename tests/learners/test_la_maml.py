"""La-MAML against plain autograd, and its limits."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, ExperienceReplay, LaMAML, c_maml, sync_la_maml
from quickstudy.learners.lifelong.replay_buffer import reservoir, sample
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def experiences() -> list[Examples]:
    tasks = Blobs(shots=3).sample(2, torch.Generator().manual_seed(0)).support
    return [Examples(*(leaf[i].double() for leaf in tasks)) for i in range(2)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def net_logits(weights: list[Tensor], x: Tensor) -> Tensor:
    return F.linear(F.linear(x, *weights[:2]).tanh(), *weights[2:])


def cut(grads: list[Tensor], most: float) -> list[Tensor]:
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    return [grad * min(1.0, most / float(norm)) for grad in grads]


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("lr", [None, 0.2])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_updates_are_those_of_plain_autograd(first_order: bool, lr: float | None, clip: float):
    """Of one mini-batch at two glances; some rates are below zero."""
    first, second = experiences()
    new = second.take(slice(4))
    learner = LaMAML(
        net(),
        alpha=0.2,
        lr=lr,
        batch_size=4,
        replay_batch_size=5,
        memory_size=7,
        glances=2,
        clip=clip,
        first_order=first_order,
    )
    state = learner.adapt(first)
    negative = {
        name: rate - 0.15 * torch.rand_like(rate) - 0.08 for name, rate in state.rates.items()
    }
    state = state._replace(rates=negative)
    names = list(state.params)
    theta = [state.params[name].detach() for name in names]
    alpha = [state.rates[name].detach() for name in names]
    assert any((rate < 0).any() for rate in alpha)
    assert any((rate > 0).any() for rate in alpha)
    buffer = state.buffer
    for glance in range(2):
        old = sample(buffer, 5, salt=1 + glance)
        x, y = torch.cat([new.x, old.x]), torch.cat([new.y, old.y])
        theta = [p.clone().requires_grad_() for p in theta]
        alpha = [a.clone().requires_grad_() for a in alpha]
        fast, total = theta, torch.zeros(())
        for i in range(4):
            loss = F.cross_entropy(net_logits(fast, new.x[[i]]), new.y[[i]])
            grads = torch.autograd.grad(loss, fast, create_graph=True)
            grads = [s.detach() if first_order else s for s in grads]
            fast = [p - a.relu() * s for p, a, s in zip(fast, alpha, grads, strict=True)]
            total = total + F.cross_entropy(net_logits(fast, x), y) / 4
        found = list(torch.autograd.grad(total, theta + alpha))
        of_theta, of_alpha = cut(found[:4], clip), cut(found[4:], clip)
        alpha = [(a - 0.3 * s).detach() for a, s in zip(alpha, of_alpha, strict=True)]
        rates = [a.relu() for a in alpha] if lr is None else [lr] * 4
        theta = [(p - r * s).detach() for p, r, s in zip(theta, rates, of_theta, strict=True)]
        buffer = reservoir(buffer, new) if glance == 0 else buffer
    learned = learner.adapt(new, state)
    for name, p, a in zip(names, theta, alpha, strict=True):
        torch.testing.assert_close(learned.params[name], p)
        torch.testing.assert_close(learned.rates[name], a)
    assert learned.buffer.seen == len(first.x) + 4


def test_with_rates_that_stay_it_is_c_maml():
    first, second = experiences()
    outcomes = []
    for learner in (
        LaMAML(net(), alpha=0.2, eta=0, batch_size=4),
        c_maml(net(), alpha=0.2, lr=0.2, batch_size=4),
        sync_la_maml(net(), alpha=0.2, lr=0.2, eta=0, batch_size=4),
    ):
        outcomes.append(learner.adapt(second, learner.adapt(first)).params)
    for name, value in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], value)
        torch.testing.assert_close(outcomes[2][name], value)


def test_without_looking_ahead_it_is_experience_replay():
    first, second = experiences()
    blind = c_maml(net(), alpha=0, lr=0.2, batch_size=4, glances=1, clip=1e6, memory_size=7)
    replay = ExperienceReplay(net(), lr=0.2, batch_size=4, replay_batch_size=10, memory_size=7)
    found = blind.adapt(second, blind.adapt(first)).params
    for name, value in replay.adapt(second, replay.adapt(first)).params.items():
        torch.testing.assert_close(found[name], value)


def test_a_start_can_be_meta_learned_through_it():
    """The derivative of the loss through both updates, against differences."""
    first, second = experiences()
    learner = LaMAML(
        MLP(8, 3, hidden=(4,), activation=nn.Tanh), batch_size=5, glances=1, first_order=False
    )

    def loss() -> Tensor:
        return learner.criterion(learner.predict(learner.adapt(first), second.x), second)

    head = learner.net.get_parameter("head.weight")
    (grad,) = torch.autograd.grad(loss(), [head])
    direction, eps = torch.randn_like(head), 1e-6
    values = []
    for sign in (1, -1):
        head.data += sign * eps * direction
        values.append(loss().detach())
        head.data -= sign * eps * direction
    torch.testing.assert_close(
        (grad * direction).sum(), (values[0] - values[1]) / (2 * eps), rtol=1e-5, atol=1e-8
    )
