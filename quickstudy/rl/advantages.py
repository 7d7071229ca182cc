"""How good an action was, and what to maximise then: functions for policy gradients. Time is
the last axis, of N steps."""

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


def linear_baseline(
    observation: Tensor,
    reward: Tensor,
    weight: Tensor,
    *,
    discount: float,
    penalty: float = 1e-5,
) -> Tensor:
    """Values (E, H) that are linear in features of observation and time, fitted to the returns
    of the same episodes by least squares: the linear feature baseline of Duan et al. (2016,
    arXiv:1604.06778), with the features [o, o², t, t², t³, 1], t in hundreds of steps.

    Args:
        observation: (E, H, O), clipped to ±10.
        reward: (E, H), 0 where there is padding.
        weight: (E, H), how much a step counts; where it is 0 the value is 0.
        penalty: of the squared coefficients, beside the mean of the squared errors.
    """
    seen = observation.clamp(-10, 10)
    time = torch.arange(reward.shape[-1], device=reward.device).to(seen) / 100
    time = time[:, None].expand(*reward.shape, 1)
    one = torch.ones_like(time)
    x = torch.cat([seen, seen.square(), time, time**2, time**3, one], -1).flatten(0, 1)
    xw = (x * (weight / weight.sum()).flatten()[:, None]).T  # (F, E · H)
    returns = discounted_returns(reward, discount=discount).flatten()
    ridge = penalty * torch.eye(x.shape[-1], device=x.device, dtype=x.dtype)
    coefficients = torch.linalg.solve(xw @ x + ridge, xw @ returns)
    return (x @ coefficients).view_as(reward) * (weight > 0)


def score(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """The surrogate log π A of every step, but for a constant, whose slope is the policy
    gradient (Williams, 1992). Its second derivative is that for data which stay the same when
    the policy changes."""
    return log_ratio * advantage


def ratio(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """The surrogate π / π₀ A of every step, where π₀ is what acted: low variance curvature
    (Rothfuss et al., 2019, arXiv:1810.06784, section 5). In its second derivative is, too, how
    the policy changes what is done at a step, but not what that changes of later ones."""
    return log_ratio.exp() * advantage


def dice(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    r"""The surrogate of every step, all of whose derivatives are those of the expected return:
    DiCE (Foerster et al., 2018, arXiv:1802.05098), in the form for advantages (Farquhar et al.,
    2019, arXiv:1909.10549), $(\square_{\le t} - \square_{<t}) A_t$ with
    $\square = \exp(x - \bot x)$ of the sum x of log-probabilities up to a step. Time, with
    padding at its end, is the last axis."""
    until = log_ratio.cumsum(-1)
    before = until - log_ratio
    return (torch.exp(until - until.detach()) - torch.exp(before - before.detach())) * advantage
