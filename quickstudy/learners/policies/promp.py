r"""Proximal meta-policy search, ProMP (Rothfuss, Lee, Clavera, Asfour & Abbeel, 2019,
arXiv:1810.06784).

MAML of policies, in which the inner step has a curvature of low variance that credits what is
done before adaptation, and the outer one stays near the policies that acted, $\theta_0$ before
and $\phi_0$ after, so that it can be done several times on a batch (equations 9 to 11):

$$\phi = \theta + \alpha \nabla_\theta \, \mathrm{mean}_t \;
  \frac{\pi_\theta}{\pi_{\theta_0}} A_t, \qquad
  \max_\theta \; \mathrm{mean}_t \min(\rho_t A_t, \mathrm{clip}(\rho_t, 1 \pm \epsilon) A_t)
  - \eta \, \mathrm{KL}(\pi_{\theta_0}, \pi_\theta), \qquad
  \rho = \frac{\pi_\phi}{\pi_{\phi_0}}$$

Differs from the paper: nothing.
"""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from quickstudy.core.task import Task
from quickstudy.environments.environment import Environment
from quickstudy.execution.batching import over_tasks
from quickstudy.learners.policies.maml_rl import MAMLRL
from quickstudy.rl.advantages import ratio_surrogate


def promp(
    environment: Environment,
    net: nn.Module,
    *,
    clip: float = 0.3,
    penalty: float = 5e-4,
    **settings: Any,
) -> MAMLRL:
    """`MAMLRL` with ProMP's inner and outer objectives. Train it by `MultiEpoch(Adam, 5)`.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot()
        >>> learner = promp(robot, qs.nets.policy_net(robot))
        >>> learner.clip, round(learner.penalty.item(), 4)
        (0.3, 0.0005)
    """
    objectives = {"surrogate": ratio_surrogate, "clip": clip, "penalty": penalty}
    return MAMLRL(environment, net, **objectives, **settings)


def adapt_penalty(learner: MAMLRL, optimizer: Optimizer, *, target: float = 0.01) -> None:
    """Adapt the penalty after every step of `optimizer` (all of its epochs together): halve it
    if the KL divergence of the policy before adaptation is below target / 1.5, and double it if
    above 1.5 target (as in the authors' code).

    Args:
        learner: one with a penalty, which is stored with its weights.
        target: a KL divergence, in nats.

    Raises:
        ValueError: the learner has no penalty.

    Examples:
        >>> import quickstudy as qs
        >>> cells = qs.environments.HiddenGoal(size=3, horizon=4)
        >>> learner = promp(cells, qs.nets.policy_net(cells, hidden=(8,)), penalty=1.0)
        >>> optimizer = torch.optim.SGD(learner.parameters(), lr=1e-6)
        >>> adapt_penalty(learner, optimizer)
        >>> rollouts = qs.tasks.Rollouts(cells, learner, episodes=2)
        >>> for step in qs.train(learner, rollouts, optimizer, steps=3, meta_batch_size=2):
        ...     print(learner.penalty.item())
        0.5
        0.25
        0.125
    """
    if learner.penalty is None:
        raise ValueError("The learner has no penalty to adapt: give it one, as `promp` does.")
    batches: list[Any] = []

    def remember_batch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        batches[:] = inputs

    def policy_shift(task: Task[Any]) -> torch.Tensor:
        return learner.policy_shift(learner.initial_state(), task.support)

    @torch.no_grad()
    def update(*step: Any) -> None:
        assert learner.penalty is not None
        shift = over_tasks(policy_shift, learner.execution, learner.chunk)(batches.pop()).mean()
        doubled = (shift > 1.5 * target).to(shift)
        halved = (shift < target / 1.5).to(shift)
        learner.penalty *= 2 ** (doubled - halved)

    learner.register_forward_pre_hook(remember_batch)
    optimizer.register_step_post_hook(update)
