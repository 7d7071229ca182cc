"""Acting in environments: many tasks and episodes at once."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor
from torch.func import vmap

from quickstudy.core.tree import leaves, tree_map
from quickstudy.environments.environment import Environment
from quickstudy.execution.batching import over_tasks


class PolicyInput(NamedTuple):
    """The input of a policy at a step: what RL² feeds to its recurrent net.

    Examples:
        >>> PolicyInput(torch.ones(3), torch.zeros(2), torch.zeros(()), torch.zeros(())).done
        tensor(0.)
    """

    observation: Tensor  # (O,)
    action: Tensor  # (A,)  the last one, zeros if there was none
    reward: Tensor  # ()  of the last action
    done: Tensor  # ()  1 if an episode of this trial has just ended, or been cut off


class Episodes(NamedTuple):
    """Episodes of one task. For a batch of tasks there is one more axis, T, in front.

    Episodes that end early are padded to H steps, of weight and reward 0.

    Examples:
        >>> from quickstudy.environments import BernoulliBandit, categorical
        >>> bandit, generator = BernoulliBandit(arms=3), torch.Generator().manual_seed(0)
        >>> def policy(state, memory, policy_input, noise):
        ...     return memory, categorical(torch.zeros_like(noise), noise), ()
        >>> episodes = rollout(bandit, bandit.tasks(2, generator), policy, generator)
        >>> episodes.weight.shape, episodes.action.shape
        (torch.Size([2, 1, 1]), torch.Size([2, 1, 1, 3]))
    """

    observation: Tensor  # (E, H, O)
    action: Tensor  # (E, H, A)
    reward: Tensor  # (E, H)
    next_observation: Tensor  # (E, H, O)
    done: Tensor  # (E, H)  1 where the episode ended by itself
    weight: Tensor  # (E, H)  1 for a step, 0 for padding
    extras: Any  # nest of (E, H, ...): per-step data that the policy returned
    info: Any = ()  # nest of (E, H): `Environment.info` after each step


Policy: TypeAlias = Callable[[Any, Any, PolicyInput, Tensor], tuple[Any, Tensor, Any]]
"""A policy: `policy(state, memory, policy_input, noise) -> (memory, action, extras)`."""


@torch.no_grad()
def rollout(
    environment: Environment,
    tasks: Any,
    policy: Policy,
    generator: Generator,
    *,
    episodes: int = 1,
    state: Any = (),
    memory: Any = (),
    trial: bool = False,
    extra_noise_size: int = 0,
) -> Episodes:
    """Act in `episodes` episodes of each task, and return them (T, E, H, ...).

    A policy is a pure function of ONE episode of ONE task,
    `policy(state, memory, policy_input, noise) -> (memory, action, extras)`, with noise (A,)
    uniform in [0, 1): enough for `categorical` and for `normal`. It reads two values of
    different lifetimes:

    - `state` is what was learned of the task before. It is constant in an episode, all episodes
      of a task share it, and it is never copied. Examples are fast weights (MAML-RL, ProMP) and
      the posterior of a context (PEARL).
    - `memory` changes from step to step, and each episode has one. Examples are
      hidden states (RL²), stored steps (attention) and counts (classical agents).

    Net parameters that all tasks share belong in neither; the policy closes over them. `extras`
    is the per-step data that the loss needs: the parameters of the action distribution (for
    ratios and divergences), or the policy's input.

    The rewards, ends and `info` of steps whose action is NaN or infinite, as of a policy that
    diverged, are NaN; the environment gets zeros as its action.

    Nothing is differentiated: policy gradients compute the probabilities of the actions again.
    All randomness comes from the generator, and environment and policy read separate numbers of
    it, so two policies that act with equal generators face the same environment noise.

    Args:
        environment: where to act.
        tasks: parameters of T tasks, on the device to act on.
        policy: maps state, memory, input and noise to an action.
        generator: on a CPU, the same numbers for every device; on the tasks' device, faster.
        episodes: E.
        state: a nest of tensors, axis T in front.
        memory: the initial memory; a nest of tensors, axis T in front.
        trial: whether the episodes of a task follow one another, each from the memory after the
            last one. Otherwise all run at once, and each starts from `memory`.
        extra_noise_size: uniform numbers that the policy takes at a step besides those of an
            action: its noise is (A + extra_noise_size,).

    Raises:
        ValueError: `episodes` is below 1, or what the environment or the policy returned has
            another shape than declared.

    Examples:
        >>> from quickstudy.environments import BernoulliBandit, categorical
        >>> bandit, generator = BernoulliBandit(arms=3), torch.Generator().manual_seed(0)
        >>> def at_random(state, memory, policy_input, noise):
        ...     return memory, categorical(torch.zeros_like(noise), noise), ()
        >>> tasks = bandit.tasks(8, generator)
        >>> acted = rollout(bandit, tasks, at_random, generator, episodes=20)
        >>> acted.action.shape, acted.reward.shape
        (torch.Size([8, 20, 1, 3]), torch.Size([8, 20, 1]))
    """
    if episodes < 1:
        raise ValueError(f"A rollout of {episodes} episodes shows nothing: ask for at least 1.")
    device, n_tasks = leaves(tasks)[0].device, len(leaves(tasks)[0])
    shape = (
        1 + environment.horizon,
        n_tasks,
        episodes,
        environment.noise_size + environment.action_size + extra_noise_size,
    )  # steps are contiguous in memory
    noise = torch.rand(shape, generator=generator, device=generator.device).to(device)

    def independent(task: Any, state: Any, memory: Any, noise: Tensor) -> Episodes:
        return _episode(environment, policy, task, state, memory, None, noise)[-1]

    def consecutive(task: Any, state: Any, memory: Any, noise: Tensor) -> Episodes:
        policy_input, rows = None, []
        for episode_noise in noise.unbind():
            memory, policy_input, row = _episode(
                environment, policy, task, state, memory, policy_input, episode_noise
            )
            rows.append(row)
        return tree_map(lambda *leaf: torch.stack(leaf), *rows)

    act = consecutive if trial else vmap(independent, in_dims=(None, None, None, 0))
    return over_tasks(act)(tasks, state, memory, noise.movedim(0, 2))


class _Carry(NamedTuple):
    """The data that a step passes to the next."""

    memory: Any
    env_state: Any
    policy_input: PolicyInput
    alive: Tensor  # ()  1, or 0 after the end of the episode


def _episode(
    environment: Environment,
    policy: Policy,
    task: Any,
    state: Any,
    memory: Any,
    last: PolicyInput | None,
    noise: Tensor,
) -> tuple[Any, PolicyInput, Episodes]:
    """Act in one episode.

    The loop over steps is inside of the batched function, since entering and leaving `vmap`
    costs more than a step. After the end the steps continue without effect, so that episodes of
    different lengths can be batched.

    Args:
        last: the policy input at the end of the trial's last episode; None: there was none.
        noise: (1 + H, W + A + extra_noise_size), for the reset and for each step.

    Returns:
        The memory and the policy input after the episode, and its steps (H, ...).
    """
    env_noise, policy_noise = noise.tensor_split([environment.noise_size], 1)
    env_state, observation = environment.reset(task, env_noise[0])
    zero = torch.zeros_like(noise[0, 0])
    if last is None:
        last = PolicyInput(
            observation,
            torch.zeros_like(policy_noise[0, : environment.action_size]),
            zero,
            zero,
        )
    carry = _Carry(memory, env_state, last._replace(observation=observation), zero + 1)
    rows = []
    for env_eps, policy_eps in zip(
        env_noise[1:].unbind(), policy_noise[1:].unbind(), strict=True
    ):
        memory, env_state, policy_input, alive = carry
        memory, action, extras = policy(state, memory, policy_input, policy_eps)
        env_state, observation, reward, done = environment.step(
            task, env_state, action.nan_to_num(0.0, 0.0, 0.0), env_eps
        )
        row = Episodes(
            policy_input.observation,
            action,
            reward,
            observation,
            alive * done,
            alive,
            extras,
            environment.info(task, env_state),
        )
        _require_shapes(environment, row)
        rows.append(row)
        policy_input = PolicyInput(observation, action, reward, zero)
        following = _Carry(memory, env_state, policy_input, alive * (1 - done))
        if environment.can_terminate:
            following = tree_map(partial(torch.where, alive > 0), following, carry)
        carry = following
    steps = tree_map(lambda *leaf: torch.stack(leaf), *rows)
    acted = steps.action.isfinite().flatten(1).all(1)

    def of_real_steps(number: Tensor) -> Tensor:
        """A number (H,), 0 after the end, and NaN where the action is."""
        number = torch.where(acted, steps.weight * number, torch.nan)
        return torch.where(steps.weight > 0, number, 0)

    facts = steps.reward, steps.done, steps.info
    reward, done, info = tree_map(of_real_steps, facts)
    steps = steps._replace(reward=reward, done=done, info=info)
    return carry.memory, carry.policy_input._replace(done=zero + 1), steps


def _require_shapes(environment: Environment, step: Episodes) -> None:
    o, a = environment.observation_size, environment.action_size
    shapes = {"observation": (o,), "action": (a,), "reward": (), "next_observation": (o,)}
    parts = [(name, getattr(step, name), shape) for name, shape in shapes.items()]
    parts += [("done", step.done, ()), *(("info", leaf, ()) for leaf in leaves(step.info))]
    for name, tensor, shape in parts:
        if tensor.shape != shape:
            raise ValueError(
                f"In {type(environment).__name__} a step has {name} of shape "
                f"{tuple(tensor.shape)}, not {shape}: correct the environment or the policy."
            )
