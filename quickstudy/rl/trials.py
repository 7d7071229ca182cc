"""Trials: several episodes of one task in a row, in which a policy learns by its memory."""

import torch
from torch import Tensor

from quickstudy.core.tree import tree_map
from quickstudy.environments.rollout import Episodes, PolicyInput


def policy_features(inputs: PolicyInput) -> Tensor:
    """Concatenate the policy inputs of N steps to the rows (N, O + A + 2) that a net reads.

    Examples:
        >>> import torch
        >>> from quickstudy.environments import PolicyInput
        >>> zero = torch.zeros(4)
        >>> inputs = PolicyInput(torch.ones(4, 3), torch.zeros(4, 2), zero + 1, zero)
        >>> policy_features(inputs)[0].tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    observation, action, reward, done = inputs
    return torch.cat([observation, action, reward[:, None], done[:, None]], -1)


def real_steps_first(episodes: Episodes) -> Tensor:
    """Return the order (E · H,) of `flatten_episodes`: indices of real steps, then of padding.

    Examples:
        >>> import torch
        >>> from quickstudy.environments import Episodes
        >>> weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> real_steps_first(Episodes(*[weight] * 7)).tolist()
        [0, 2, 3, 1]
    """
    return (1 - episodes.weight.flatten()).argsort(stable=True)


def flatten_episodes(episodes: Episodes) -> Episodes:
    """Join episodes (E, H) to one sequence of steps (E · H,), with all padding at its end.

    Examples:
        >>> import torch
        >>> from quickstudy.environments import Episodes
        >>> weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> flatten_episodes(Episodes(*[weight] * 7)).weight.tolist()
        [1.0, 1.0, 1.0, 0.0]
    """
    order = real_steps_first(episodes)
    return tree_map(lambda leaf: leaf.flatten(0, 1)[order], episodes)


def last_real_step(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the row (D,) of the last real step of rows (N, D) with their weights (N,), as
    `flatten_episodes` orders them.

    Examples:
        >>> import torch
        >>> last_real_step(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 1.0, 0.0]))
        tensor([2.])
    """
    is_last = torch.arange(len(rows), device=rows.device) == weight.sum() - 1
    return (rows * is_last[:, None]).sum(0)
