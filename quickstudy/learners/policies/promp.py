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
from quickstudy.rl.advantages import ratio


def promp(
    environment: Environment,
    net: nn.Module,
    *,
    clip: float = 0.3,
    penalty: float = 5e-4,
    **settings: Any,
) -> MAMLRL:
    """`MAMLRL` with ProMP's inner and outer objectives. Train it by `MultiEpoch(Adam, 5)`."""
    return MAMLRL(environment, net, surrogate=ratio, clip=clip, penalty=penalty, **settings)


def adapt_penalty(learner: MAMLRL, optimizer: Optimizer, *, target: float = 0.01) -> None:
    """Makes the penalty follow how far the policy before adaptation moves by a step of
    `optimizer`, all of its epochs together: from now on, a divergence below target / 1.5 halves
    it, one above 1.5 target doubles it (as in the authors' code).

    Args:
        learner: one with a penalty, which is stored with its weights.
        target: a KL divergence, in nats.

    Raises:
        ValueError: there is no penalty.
    """
    if learner.penalty is None:
        raise ValueError("The learner has no penalty to adapt: give it one, as `promp` does.")
    seen: list[Any] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = inputs

    def moved(task: Task[Any]) -> torch.Tensor:
        return learner.moved(learner.begin(), task.support)

    @torch.no_grad()
    def follow(*step: Any) -> None:
        assert learner.penalty is not None
        far = over_tasks(moved, learner.execution, learner.chunk)(seen.pop()).mean()
        doubled = (far > 1.5 * target).to(far)
        halved = (far < target / 1.5).to(far)
        learner.penalty *= 2 ** (doubled - halved)

    learner.register_forward_pre_hook(note)
    optimizer.register_step_post_hook(follow)
