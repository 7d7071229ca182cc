"""Several steps of an optimizer on one batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class MultiEpoch(Optimizer):
    """An optimizer that goes several times over every batch, as PPO does with what it has
    collected. Schedulers, checkpoints and `train` take it as they take any other.

    Args:
        optimizer: what makes each step.
        epochs: how often it goes over a batch.
        minibatches: what `train` divides a batch into, its tasks in order; each time there is a step
            on every part.

    Raises:
        ValueError: no steps.

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
                f"epochs={epochs}, minibatches={minibatches} would learn nothing: give 1 or more."
            )
        super().__init__(optimizer.param_groups, {})  # the same dictionaries: one learning rate
        self.optimizer, self.epochs, self.minibatches = optimizer, epochs, minibatches
        self.state = optimizer.state

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Steps `epochs` times on every part; the loss of the first time, each part's before its
        step.

        Args:
            closure: computes the loss and its gradient anew, of the next part.
        """
        steps = range(self.epochs * self.minibatches)
        losses = [self.optimizer.step(closure) for _ in steps]  # pyright: ignore
        return torch.stack(losses[: self.minibatches]).mean()

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer inside."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives it to the optimizer inside."""
        self.optimizer.load_state_dict(state_dict)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
