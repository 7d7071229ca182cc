"""Nets of policies, for policy gradients."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quickstudy.nets.backbones import MLP

if TYPE_CHECKING:
    from quickstudy.environments.environment import Environment


class GaussianPolicy(nn.Module):
    """The parameters of a Gaussian over actions: means from a net, and learned standard
    deviations that do not depend on the observation. `environments.DiagonalGaussian` takes
    them.

    Args:
        mean: (N, O) -> (N, A).
        actions: A.
        std: the initial standard deviations.
        min_std: a lower bound on them.

    Examples:
        >>> net = GaussianPolicy(nn.Linear(3, 2), 2, std=1.0)
        >>> mean, log_std = net(torch.zeros(5, 3)).chunk(2, -1)
        >>> mean.shape, log_std.abs().max().item()
        (torch.Size([5, 2]), 0.0)
    """

    def __init__(
        self, mean: nn.Module, actions: int, *, std: float = 1.0, min_std: float = 1e-6
    ):
        super().__init__()
        self.mean, self.min_log_std = mean, math.log(min_std)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Return means and log standard deviations (N, 2A)."""
        mean = self.mean(x)
        log_std = self.log_std.clamp_min(self.min_log_std)
        return torch.cat([mean, log_std.expand_as(mean)], -1)


def policy_net(
    environment: "Environment",
    *,
    hidden: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    std: float = 1.0,
) -> nn.Module:
    """Return the usual net of policy gradients: an `MLP` with Glorot initialisation and zero
    biases. Its outputs are the logits of discrete actions, or the means of a `GaussianPolicy`.

    Examples:
        >>> from quickstudy.environments import HiddenGoal, PointRobot
        >>> policy_net(HiddenGoal(size=3))(torch.zeros(4, 9)).shape  # logits of 5 actions
        torch.Size([4, 5])
        >>> policy_net(PointRobot())(torch.zeros(4, 2)).shape  # 2 means and 2 log deviations
        torch.Size([4, 4])
    """
    size = environment.action_size
    net = MLP(environment.observation_size, size, hidden=hidden, activation=activation)
    for name, p in net.named_parameters():
        nn.init.zeros_(p) if name.endswith("bias") else nn.init.xavier_uniform_(p)
    return net if environment.discrete else GaussianPolicy(net, size, std=std)
