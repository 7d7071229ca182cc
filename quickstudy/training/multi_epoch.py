"""Several steps of an optimizer on one batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class MultiEpoch(Optimizer):
    """An optimizer that takes several steps on every batch, as PPO does on its episodes.
    Schedulers, checkpoints and `train` take it as they take any other.

    Args:
        optimizer: takes each step.
        epochs: the number of passes over a batch.
        minibatches: the number of parts into which `train` divides a batch, its tasks in order;
            an epoch takes a step on every part.

    Raises:
        ValueError: `epochs` or `minibatches` is below 1.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     (loss := weight.square()).backward()
        ...     return loss
        >>> optimizer = MultiEpoch(torch.optim.SGD([weight], lr=0.25), epochs=2)
        >>> loss = optimizer.step(closure)
        >>> weight.item()  # halved twice
        0.25
    """

    def __init__(self, optimizer: Optimizer, epochs: int, *, minibatches: int = 1):
        if min(epochs, minibatches) < 1:
            raise ValueError(
                f"epochs={epochs}, minibatches={minibatches} takes no steps: give 1 or more."
            )
        super().__init__(optimizer.param_groups, {})  # the same dictionaries: one learning rate
        self.optimizer, self.epochs, self.minibatches = optimizer, epochs, minibatches
        self.state = optimizer.state

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take `epochs` steps on every part, and return the mean loss of the first epoch.

        Args:
            closure: computes the loss of the next part and its gradient.
        """
        steps = range(self.epochs * self.minibatches)
        losses = [self.optimizer.step(closure) for _ in steps]  # pyright: ignore
        return torch.stack(losses[: self.minibatches]).mean()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimizer."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state into the wrapped optimizer."""
        self.optimizer.load_state_dict(state_dict)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
