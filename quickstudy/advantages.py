"""How good an action was: functions for policy gradients. Time, N steps, is the last axis."""

import torch
from torch import Tensor


def discounted_returns(
    reward: Tensor, *, discount: float, done: Tensor | None = None, after: Tensor | float = 0.0
) -> Tensor:
    r"""What is paid from every step on, a later reward counting less:
    $G_t = r_t + \gamma (1 - d_t) G_{t+1}$, shaped as `reward` (..., N).

    Args:
        done: (..., N), 1 where an episode ended by itself: what follows does not count.
        after: (...), the value of going on after the last step, where time was cut off.
    """
    zero = torch.zeros_like(reward)
    return gae(reward, zero, discount=discount, decay=1.0, done=done, after=after)


def gae(
    reward: Tensor,
    value: Tensor,
    *,
    discount: float,
    decay: float,
    done: Tensor | None = None,
    after: Tensor | float = 0.0,
) -> Tensor:
    r"""Generalised advantage estimates (Schulman et al., 2016, arXiv:1506.02438, equation 16):

    $$\delta_t = r_t + \gamma (1 - d_t) V_{t+1} - V_t, \qquad
      A_t = \delta_t + \gamma \lambda (1 - d_t) A_{t+1}$$

    Padding belongs at the end of time, with rewards and values of 0: it adds nothing.

    Args:
        value: (..., N), of what was known before each step.
        discount: γ.
        decay: λ; 0 trusts the values (errors of one step), 1 the rewards (returns - values).
        done: (..., N), 1 where an episode ended by itself: what follows does not count.
        after: (...), the value of going on after the last step, where time was cut off.
    """
    goes_on = torch.ones_like(reward) if done is None else 1 - done
    advantage, following = torch.zeros_like(reward[..., 0]), after
    found: list[Tensor] = []
    for r, v, on in zip(*(x.unbind(-1)[::-1] for x in (reward, value, goes_on)), strict=True):
        error = r + discount * on * following - v
        advantage, following = error + discount * decay * on * advantage, v
        found.append(advantage)
    return torch.stack(found[::-1], -1)


def clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""What PPO maximises of a step, $\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 +
    \epsilon) A)$ (Schulman et al., 2017, arXiv:1707.06347, equation 7), from log ρ: how much
    likelier the action has become, of which no more than ε is rewarded."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
