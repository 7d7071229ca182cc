"""Random tabular Markov decision processes, as in RL² (Duan et al., 2016, arXiv:1611.02779)."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, normal, one_hot


class MDP(NamedTuple):
    """One process, of S states and A actions.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> mdp = qs.environments.TabularMDP(states=2, actions=3).tasks(4, torch.Generator())
        >>> mdp.transitions.shape, mdp.means.shape
        (torch.Size([4, 2, 3, 2]), torch.Size([4, 2, 3]))
    """

    transitions: Tensor  # (S, A, S)  probabilities of the next state
    means: Tensor  # (S, A)  of the rewards


class TabularMDP(Environment):
    """Processes with transitions from a flat Dirichlet distribution, and normal rewards of
    standard deviation 1 around means from N(1, 1), new ones for each task.

    An observation is the state as a one-hot row (S,). Every episode begins in the first state.
    This restricts nothing, as the states of a random process are alike.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.TabularMDP(states=2, actions=1, horizon=10)
        >>> task = MDP(transitions=torch.full((2, 1, 2), 0.5), means=torch.ones(2, 1))
        >>> env.best_return(task)
        tensor(10.)
    """

    discrete, noise_size, can_terminate = True, 2, False

    def __init__(self, states: int = 10, actions: int = 5, *, horizon: int = 10):
        self.observation_size, self.action_size, self.horizon = states, actions, horizon

    def tasks(self, size: int, generator: Generator) -> MDP:
        """Sample processes, as an `MDP` of tensors with axis T in front."""
        states, device = self.observation_size, generator.device
        shape = (size, states, self.action_size)
        # normalised exponential numbers: flat Dirichlet
        weights = torch.empty(*shape, states, device=device).exponential_(generator=generator)
        means = 1 + torch.randn(shape, generator=generator, device=device)
        return MDP(weights / weights.sum(-1, keepdim=True), means)

    def reset(self, task: MDP, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin in the first state; a state is its number ()."""
        state = torch.zeros_like(noise[0], dtype=torch.long)
        return state, one_hot(state, self.observation_size, noise.dtype)

    def step(
        self, task: MDP, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move at random and pay; no step ends the episode."""
        states, actions = (torch.arange(n, device=noise.device) for n in task.means.shape)
        pair = (state * self.action_size + (action * actions).sum(-1).long())[None]
        reward = task.means.flatten().gather(0, pair)[0] + normal(noise[1])
        row = task.transitions.flatten().gather(0, pair * self.observation_size + states)
        below = row.cumsum(-1) <= noise[0]
        state = below.sum(-1).clamp_max(self.observation_size - 1)  # sums may fall short of 1
        observation = one_hot(state, self.observation_size, noise.dtype)
        return state, observation, reward, torch.zeros_like(reward)

    def best_return(self, task: MDP) -> Tensor:
        """Return the expected return () of an episode under the best policy for the process, by
        value iteration."""
        value = torch.zeros_like(task.means[:, 0])
        for _ in range(self.horizon):
            value = (task.means + task.transitions @ value).amax(-1)
        return value[0]
