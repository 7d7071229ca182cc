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
    """What a policy is told before it acts: what RL² feeds to its recurrent net."""

    observation: Tensor  # (O,)
    action: Tensor  # (A,)  the last one, zeros where there was none
    reward: Tensor  # ()  what that paid
    done: Tensor  # ()  1 if an episode of this trial has just ended, or been cut off


class Episodes(NamedTuple):
    """Episodes of one task; of a batch of tasks, with one more axis, T, in front.

    Episodes that end early are padded to H steps, of weight and reward 0.
    """

    observation: Tensor  # (E, H, O)
    action: Tensor  # (E, H, A)
    reward: Tensor  # (E, H)
    next_observation: Tensor  # (E, H, O)
    done: Tensor  # (E, H)  1 where the episode ended by itself
    weight: Tensor  # (E, H)  1 for a step, 0 for padding
    extras: Any  # nest of (E, H, ...): what the policy returned beside its actions
    info: Any = ()  # nest of (E, H): what `Environment.info` said after each step


Policy: TypeAlias = Callable[[Any, Any, PolicyInput, Tensor], tuple[Any, Tensor, Any]]


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
    draws: int = 0,
) -> Episodes:
    """Acts in `episodes` episodes of each task, and returns what happened (T, E, H, ...).

    A policy is a pure function of ONE episode of ONE task,
    `policy(state, memory, percept, noise) -> (memory, action, extras)`, with noise (A,) uniform
    in [0, 1): enough for `categorical` and for `normal`. It is told two things apart, because
    they live differently long, and so every meta-learner fits:

    - `state` is what was learned of the task, before: it does not change in an episode, all
      episodes of a task share it, and it is never copied. Fast weights (MAML-RL, ProMP), the
      context or a sample of the posterior (PEARL).
    - `memory` is what the policy itself changes from step to step, one for each episode that is
      under way: hidden states (RL²), stored steps (attention), counts (classical agents).

    Net parameters that all tasks share belong in neither: the policy closes over them. `extras`
    is for what training needs of the moment: the distribution that the action was drawn
    from (for ratios and divergences), or the percept.

    Nothing is differentiated: policy gradients take the probabilities of the actions again. All
    randomness comes from the generator, and environment and policy take theirs apart, so
    two policies that act with equal generators have the same luck.

    Args:
        environment: where to act.
        tasks: parameters of T tasks; they say on which device.
        policy: who acts.
        generator: on a CPU, the same numbers for every device; on the tasks' own, faster.
        episodes: E.
        state: a nest of tensors, axis T in front.
        memory: of the beginning; a nest of tensors, axis T in front.
        trial: the episodes of a task follow one another, each from where the memory of the last
            one ended. Otherwise all run at once, and each begins with `memory`.
        draws: uniform numbers that the policy takes at a step beside those of an action: its
            noise is (A + draws,).

    Raises:
        ValueError: no episodes.

    Examples:
        >>> from quickstudy.environments import BernoulliBandit, categorical
        >>> bandit, generator = BernoulliBandit(arms=3), torch.Generator().manual_seed(0)
        >>> def at_random(state, memory, percept, noise):
        ...     return memory, categorical(torch.zeros_like(noise), noise), ()
        >>> tasks = bandit.tasks(8, generator)
        >>> seen = rollout(bandit, tasks, at_random, generator, episodes=20)
        >>> seen.action.shape, seen.reward.shape
        (torch.Size([8, 20, 1, 3]), torch.Size([8, 20, 1]))
    """
    if episodes < 1:
        raise ValueError(f"A rollout of {episodes} episodes shows nothing: ask for at least 1.")
    device, size = leaves(tasks)[0].device, len(leaves(tasks)[0])
    width = environment.noise + environment.actions + draws
    shape = (1 + environment.horizon, size, episodes, width)  # a step's lie together in memory
    noise = torch.rand(shape, generator=generator, device=generator.device).to(device)

    def alone(task: Any, state: Any, memory: Any, noise: Tensor) -> Episodes:
        return _episode(environment, policy, task, state, memory, None, noise)[-1]

    def one_after_another(task: Any, state: Any, memory: Any, noise: Tensor) -> Episodes:
        percept, found = None, []
        for own in noise.unbind():
            memory, percept, steps = _episode(
                environment, policy, task, state, memory, percept, own
            )
            found.append(steps)
        return tree_map(lambda *leaf: torch.stack(leaf), *found)

    act = one_after_another if trial else vmap(alone, in_dims=(None, None, None, 0))
    return over_tasks(act)(tasks, state, memory, noise.movedim(0, 2))


def _episode(
    environment: Environment,
    policy: Policy,
    task: Any,
    state: Any,
    memory: Any,
    last: PolicyInput | None,
    noise: Tensor,
) -> tuple[Any, PolicyInput, Episodes]:
    """The memory and the percept after one episode, and its steps (H, ...).

    The loop over steps is inside of what is batched, as entering and leaving `vmap` costs more
    than a step does. Steps after the end are taken and change nothing, so that episodes of
    different lengths can be batched.
    """
    numbers = environment.noise
    adaptation_trace, observation = environment.reset(task, noise[0, :numbers])
    zero = torch.zeros_like(noise[0, 0])
    if last is None:
        idle = torch.zeros_like(noise[0, numbers : numbers + environment.actions])
        percept = PolicyInput(observation, idle, zero, zero)
    else:
        percept = last._replace(observation=observation)
    now, steps = (memory, adaptation_trace, percept, zero + 1), []
    for luck in noise[1:].unbind():
        memory, adaptation_trace, percept, weight = now
        memory, action, extras = policy(state, memory, percept, luck[numbers:])
        adaptation_trace, seen, reward, done = environment.step(
            task, adaptation_trace, action, luck[:numbers]
        )
        paid, ended = weight * reward, weight * done
        told = tree_map(weight.mul, environment.info(task, adaptation_trace))
        row = Episodes(percept.observation, action, paid, seen, ended, weight, extras, told)
        steps.append(row)
        then = (
            memory,
            adaptation_trace,
            PolicyInput(seen, action, reward, zero),
            weight * (1 - done),
        )
        if environment.ends:
            then = tree_map(partial(torch.where, weight > 0), then, now)
        now = then
    memory, _, percept, _ = now
    whole = tree_map(lambda *leaf: torch.stack(leaf), *steps)
    return memory, percept._replace(done=zero + 1), whole
