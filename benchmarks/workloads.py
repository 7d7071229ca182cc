"""Workloads of `benchmarks.meta_step`: nets, tasks, and how they are adapted."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import Examples, Sinusoid, Task
from quickstudy.core.criteria import Criterion, squared_error
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics

Step = Callable[[], list[Tensor]]  # does a step; the gradient
Net = MLP | Conv4


class Workload(NamedTuple):
    make: Callable[[], Net]
    tasks: Callable[[], Task]
    criterion: Criterion
    lr: float
    steps: int
    first_order: bool = False
    head_only: bool = False
    compiled: bool = False  # also compiled: convolutions take minutes to, and gain little


def images(tasks: int, ways: int, queries: int, shape: tuple[int, ...]) -> Task:
    """Random pictures: the time of a step does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(tasks, ways * each, *shape, generator=generator)
        y = torch.eye(ways).repeat(each, 1).expand(tasks, -1, -1).contiguous()
        return Examples(x, y, torch.ones(tasks, ways * each))

    return Task(examples(1), examples(queries))


def trajectories(tasks: int, steps: int) -> Task:
    """Observations (17), actions (6) and advantages, as of HalfCheetah."""
    generator = torch.Generator().manual_seed(0)

    def examples() -> Examples:
        x = torch.randn(tasks, steps, 17, generator=generator)
        y = torch.randn(tasks, steps, 7, generator=generator)
        return Examples(x, y, torch.ones(tasks, steps))

    return Task(examples(), examples())


def surrogate(mean: Tensor, examples: Examples) -> Tensor:
    """What REINFORCE descends: -log-probability times advantage, of a unit Gaussian policy."""
    actions, advantage = examples.y[:, :6], examples.y[:, 6]
    return (0.5 * (actions - mean).square().sum(-1) * advantage).mean()


def classes(logits: Tensor, examples: Examples) -> Tensor:
    return F.cross_entropy(logits, examples.y)


def sine(count: int) -> Task:
    return Sinusoid(10, 10).sample(count, torch.Generator().manual_seed(0))


def omniglot(ways: int) -> Callable[[], Net]:
    return lambda: use_batch_statistics(Conv4(ways))


def photographs() -> Net:
    return use_batch_statistics(Conv4(5, channels=32, inputs=3, size=84))


def policy() -> Net:
    return MLP(17, 6, hidden=(64, 64), activation=nn.Tanh)


GREY, COLOUR = (1, 28, 28), (3, 84, 84)
OMNIGLOT_5 = Workload(omniglot(5), lambda: images(32, 5, 1, GREY), classes, 0.4, 1)
OMNIGLOT_20 = Workload(omniglot(20), lambda: images(16, 20, 1, GREY), classes, 0.1, 5)
PHOTOGRAPHS = Workload(photographs, lambda: images(4, 5, 15, COLOUR), classes, 0.01, 5)
WORKLOADS = {
    "sinusoid, MLP 40-40, 32 tasks, 5 steps": Workload(
        lambda: MLP(1, 1, hidden=(40, 40)),
        lambda: sine(32),
        squared_error,
        0.01,
        5,
        compiled=True,
    ),
    "sinusoid, MLP 40-40, 25 tasks, 1 step": Workload(
        lambda: MLP(1, 1, hidden=(40, 40)),
        lambda: sine(25),
        squared_error,
        0.01,
        1,
        compiled=True,
    ),
    "Omniglot 5-way, Conv4-64, 32 tasks, 1 step": OMNIGLOT_5,
    "Omniglot 5-way, first order": OMNIGLOT_5._replace(first_order=True),
    "Omniglot 20-way, Conv4-64, 16 tasks, 5 steps": OMNIGLOT_20,
    "Omniglot 20-way, first order": OMNIGLOT_20._replace(first_order=True),
    "84x84, Conv4-32, 15 queries, 4 tasks, 5 steps": PHOTOGRAPHS,
    "84x84, first order": PHOTOGRAPHS._replace(first_order=True),
    "84x84, ANIL": PHOTOGRAPHS._replace(head_only=True),
    "policy, MLP 64-64, 40 tasks of 2000, 1 step": Workload(
        policy, lambda: trajectories(40, 2000), surrogate, 0.1, 1, compiled=True
    ),
}


def gradient(net: nn.Module) -> list[Tensor]:
    found = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad()  # sets to None, so what was found stays
    return found
