"""The interface of an environment, and samples from uniform noise."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor


class Environment(ABC):
    """A family of tasks to act in, as pure functions of ONE episode of ONE task.

    An environment has no state: `reset` and `step` take all they need and return all they
    change, so `vmap` runs thousands at once on any device, and `torch.compile` sees plain
    tensors. Randomness comes as `noise`, numbers (W,), uniform in [0, 1), that the caller
    draws. So an episode is a function of its arguments, and two policies can act under equal
    noise.

    Examples:
        >>> from quickstudy.environments import BernoulliBandit
        >>> bandit = BernoulliBandit(arms=2)
        >>> task, noise = torch.tensor([0.9, 0.1]), torch.tensor([0.5])
        >>> state, observation = bandit.reset(task, noise)
        >>> _, _, reward, done = bandit.step(task, state, torch.tensor([1.0, 0.0]), noise)
        >>> reward.item(), done.item()
        (1.0, 0.0)
    """

    observation_size: int
    """O, the size of an observation."""
    action_size: int
    """A, the size of an action, or the number of discrete actions."""
    discrete: bool
    """Whether an action is one of A, as a one-hot row (A,), or real numbers (A,)."""
    horizon: int
    """H, the number of steps after which an episode is cut off."""
    noise_size: int
    """W, the number of uniform numbers that `reset` takes, and each `step`."""
    can_terminate: bool = True
    """Whether a step may end an episode. If none does, rollouts need not hold ended episodes
    still and are faster, above all with large memories."""

    @abstractmethod
    def tasks(self, size: int, generator: Generator) -> Any:
        """Sample the parameters of `size` tasks: a nest of tensors, axis T in front, on the
        device of the generator. Equal states of the generator give equal tasks."""

    @abstractmethod
    def reset(self, task: Any, noise: Tensor) -> tuple[Any, Tensor]:
        """Begin an episode.

        Returns:
            The state (a nest of tensors) and the first observation (O,).
        """

    @abstractmethod
    def step(
        self, task: Any, state: Any, action: Tensor, noise: Tensor
    ) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Take a step.

        Returns:
            The next state, the observation (O,), the reward () and `done` (): 1 if the episode
            has ended by itself, which being cut off at the horizon is not.
        """

    def info(self, task: Any, state: Any) -> Any:
        """Return facts about the state that policies do not observe, such as success: a nest of
        tensors (). By default it is empty."""
        return ()


class PlanarTrace(NamedTuple):
    """The paths of episodes of one task in the plane, for pictures.

    Examples:
        >>> trace = PlanarTrace(torch.zeros(3, 5, 2), torch.ones(2), torch.zeros(0, 2))
        >>> len(trace.path), trace.goal.tolist()
        (3, [1.0, 1.0])
    """

    path: Tensor  # (E, H + 1, 2)  with the starting point of each episode
    goal: Tensor  # (2,)
    walls: Tensor  # (K, 2)  centres of squares of side 1


def normal(noise: Tensor) -> Tensor:
    """Map uniform numbers to standard normal numbers, one for one.

    Examples:
        >>> normal(torch.tensor([0.5])).item(), round(normal(torch.tensor([0.8413])).item(), 3)
        (0.0, 1.0)
    """
    return torch.erfinv((2 * noise - 1) * (1 - 2**-24)) * 2**0.5


def uniform(
    bounds: tuple[float, float], shape: tuple[int, ...], generator: Generator
) -> Tensor:
    """Sample uniform numbers between bounds, on the generator's device.

    Examples:
        >>> sample = uniform((2.0, 3.0), (4,), Generator().manual_seed(0))
        >>> sample.shape, bool(((sample >= 2) & (sample < 3)).all())
        (torch.Size([4]), True)
    """
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def cell_centres(cell: Tensor, width: int) -> Tensor:
    """Return the centres (..., 2) of the cells of a grid in the plane, row by row downwards.

    Examples:
        >>> cell_centres(torch.tensor([0, 4]), 3).tolist()
        [[0.0, 0.0], [1.0, -1.0]]
    """
    return torch.stack([cell % width, -(cell // width)], -1).to(torch.get_default_dtype())


def categorical(logits: Tensor, noise: Tensor) -> Tensor:
    """Sample one of A with probabilities softmax(logits), as a one-hot row (A,), from A uniform
    numbers: the largest of the logits with Gumbel noise. See `one_hot_argmax`.

    Examples:
        >>> categorical(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.5, 0.5, 0.5])).tolist()
        [0.0, 0.0, 1.0]
    """
    return one_hot_argmax(logits - torch.log(-torch.log(noise)))


def one_hot_argmax(scores: Tensor) -> Tensor:
    """Return a row (..., A) that is 1 at the largest of `scores` (..., A). The row is NaN if a
    score is NaN or +inf, as of a policy that diverged.

    Examples:
        >>> one_hot_argmax(torch.tensor([0.0, 2.0, 1.0])).tolist()
        [0.0, 1.0, 0.0]
        >>> one_hot_argmax(torch.tensor([0.0, torch.nan])).tolist()
        [nan, nan]
    """
    best, index = scores.max(-1, keepdim=True)
    row = one_hot(index[..., 0], scores.shape[-1], scores.dtype)
    return torch.where(best < torch.inf, row, torch.nan)


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return a row (size,) that is 1 at `index` ().

    Examples:
        >>> one_hot(torch.tensor(1), 3, torch.float32).tolist()
        [0.0, 1.0, 0.0]
    """
    return (torch.arange(size, device=index.device) == index[..., None]).to(dtype)
