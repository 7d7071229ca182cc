"""The parameters of a module: where they are, and which of them adaptation changes."""

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the parameters of `module`; the CPU if it has none.

    Examples:
        >>> device_of(torch.nn.Linear(2, 1)), device_of(torch.nn.ReLU())
        (device(type='cpu'), device(type='cpu'))
    """
    return next((p.device for p in module.parameters()), torch.device("cpu"))
