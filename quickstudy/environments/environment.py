"""What an environment is, and how uniform numbers become draws."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor


class Environment(ABC):
    """A family of tasks to act in, as pure functions of ONE episode of ONE task.

    It has no state: `reset` and `step` are given all they need and return all they change, so
    `vmap` makes thousands at once on any device, and `torch.compile` sees plain tensors. What
    is random in them comes as `noise`: numbers (W,), uniform in [0, 1), drawn outside. So an
    episode is a function of its arguments, and policies that are given the same noise have the
    same luck.
    """

    observations: int
    """O, the numbers that are seen."""
    actions: int
    """A, the numbers of an action, or how many actions there are."""
    discrete: bool
    """Whether an action is one of A, as a one-hot row (A,), or real numbers (A,)."""
    horizon: int
    """H, the steps after which an episode is cut off."""
    noise: int
    """W, the uniform numbers that `reset` takes, and each `step`."""
    ends: bool = True
    """Whether a step may end an episode. Where none does, there is nothing to hold still after
    the end, and rollouts are faster, most of all with large memories."""

    @abstractmethod
    def tasks(self, size: int, generator: Generator) -> Any:
        """The parameters of `size` tasks: a nest of tensors, axis T in front, on the device of
        the generator. The same state of the generator draws the same tasks."""

    @abstractmethod
    def reset(self, task: Any, noise: Tensor) -> tuple[Any, Tensor]:
        """Begins an episode: its state (a nest of tensors) and what is seen first (O,)."""

    @abstractmethod
    def step(
        self, task: Any, state: Any, action: Tensor, noise: Tensor
    ) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The next state, what is seen (O,), the reward () and whether the episode has ended
        (), 1 or 0; being cut off at the horizon is no end."""

    def info(self, task: Any, state: Any) -> Any:
        """What else is to be known of an episode in this state, such as success, and no policy
        is told: a nest of tensors (). Nothing, unless a family says otherwise."""
        return ()


class Places(NamedTuple):
    """Where episodes went in the plane, of one task, to be drawn."""

    path: Tensor  # (E, H + 1, 2)  with where each episode began
    goal: Tensor  # (2,)
    walls: Tensor  # (K, 2)  middles of squares of side 1


def normal(noise: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones, one for one."""
    return torch.erfinv((2 * noise - 1) * (1 - 2**-24)) * 2**0.5


def categorical(logits: Tensor, noise: Tensor) -> Tensor:
    """One of A, drawn with probabilities softmax(logits), as a one-hot row (A,), from A uniform
    numbers: the largest of the logits with Gumbel noise."""
    drawn = (logits - torch.log(-torch.log(noise))).argmax(-1)
    return one_hot(drawn, logits.shape[-1], logits.dtype)


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """A row (size,) that is 1 at `index` ()."""
    return (torch.arange(size, device=index.device) == index[..., None]).to(dtype)
