"""Advantages, and surrogate objectives of policy gradients. Time is the last axis, of N
steps."""

import torch
from torch import Tensor


def discounted_returns(
    reward: Tensor, *, discount: float, done: Tensor | None = None, after: Tensor | float = 0.0
) -> Tensor:
    r"""Return the discounted sum of rewards from every step on,
    $G_t = r_t + \gamma (1 - d_t) G_{t+1}$, shaped as `reward` (..., N).

    Args:
        done: (..., N), 1 where an episode ended by itself; later rewards do not count.
        after: (...), the value of going on after the last step, where time was cut off.

    Examples:
        >>> discounted_returns(torch.tensor([1.0, 0.0, 4.0]), discount=0.5).tolist()
        [2.0, 2.0, 4.0]
    """
    return gae(
        reward,
        torch.zeros_like(reward),
        discount=discount,
        gae_lambda=1.0,
        done=done,
        after=after,
    )


def gae(
    reward: Tensor,
    value: Tensor,
    *,
    discount: float,
    gae_lambda: float,
    done: Tensor | None = None,
    after: Tensor | float = 0.0,
) -> Tensor:
    r"""Generalised advantage estimates (Schulman et al., 2016, arXiv:1506.02438, equation 16):

    $$\delta_t = r_t + \gamma (1 - d_t) V_{t+1} - V_t, \qquad
      A_t = \delta_t + \gamma \lambda (1 - d_t) A_{t+1}$$

    Padding belongs at the end of time, with rewards and values of 0: it adds nothing.

    Args:
        value: (..., N), the value predicted before each step.
        discount: γ.
        gae_lambda: λ in [0, 1]; 0 trusts the values (errors of one step), 1 the rewards
            (returns minus values).
        done: (..., N), 1 where an episode ended by itself; later rewards do not count.
        after: (...), the value of going on after the last step, where time was cut off.

    Examples:
        >>> reward, value = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
        >>> gae(reward, value, discount=0.5, gae_lambda=0.5).tolist()
        [0.0, -4.0]
    """
    goes_on = torch.ones_like(reward) if done is None else 1 - done
    advantage, next_value = torch.zeros_like(reward[..., 0]), after
    advantages: list[Tensor] = []
    for r, v, on in zip(*(x.unbind(-1)[::-1] for x in (reward, value, goes_on)), strict=True):
        error = r + discount * on * next_value - v
        advantage, next_value = error + discount * gae_lambda * on * advantage, v
        advantages.append(advantage)
    return torch.stack(advantages[::-1], -1)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""PPO's surrogate of every step, $\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 +
    \epsilon) A)$ (Schulman et al., 2017, arXiv:1707.06347, equation 7), where ρ = π / π₀ is the
    ratio of the action's probabilities. A change of ρ by more than ε gains nothing.

    Examples:
        >>> log_ratio = torch.tensor([1.1, 1.5, 0.5]).log()
        >>> [round(s, 4) for s in clipped_surrogate(log_ratio, torch.ones(3), 0.2).tolist()]
        [1.1, 1.2, 0.5]
    """
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
    """Fit values (E, H) that are linear in features of observation and time to the returns of
    the same episodes, by least squares: the linear feature baseline of Duan et al. (2016,
    arXiv:1604.06778), with the features [o, o², t, t², t³, 1], t in hundreds of steps.

    Args:
        observation: (E, H, O), clipped to ±10.
        reward: (E, H), 0 where there is padding.
        weight: (E, H), how much a step counts; where it is 0 the value is 0.
        penalty: of the squared coefficients, beside the mean of the squared errors.

    Examples:
        >>> observation = torch.arange(8.0).view(2, 4, 1)
        >>> reward = torch.ones(2, 4)  # returns are 4, 3, 2, 1
        >>> value = linear_baseline(observation, reward, torch.ones(2, 4), discount=1.0)
        >>> value[0].round().tolist()
        [4.0, 3.0, 2.0, 1.0]
    """
    clipped = observation.clamp(-10, 10)
    time = torch.arange(reward.shape[-1], device=reward.device).to(clipped) / 100
    time = time[:, None].expand(*reward.shape, 1)
    one = torch.ones_like(time)
    x = torch.cat([clipped, clipped.square(), time, time**2, time**3, one], -1).flatten(0, 1)
    x = x.double()  # squares far from the origin leave no digits to float32
    xw = (x * (weight / weight.sum()).flatten()[:, None]).T  # (F, E · H)
    returns = discounted_returns(reward, discount=discount).flatten().double()
    ridge = penalty * torch.eye(x.shape[-1], device=x.device, dtype=x.dtype)
    coefficients = torch.linalg.solve(xw @ x + ridge, xw @ returns)
    return (x @ coefficients).to(reward).view_as(reward) * (weight > 0)


def log_prob_surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """The surrogate log π A of every step, up to a constant. Its gradient is the policy
    gradient (Williams, 1992); its second derivative treats the data as independent of the
    policy.

    Examples:
        >>> log_prob_surrogate(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 1.0])).tolist()
        [1.0, 0.0]
    """
    return log_ratio * advantage


def ratio_surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """The surrogate π / π₀ A of every step, where π₀ acted: low variance curvature (Rothfuss et
    al., 2019, arXiv:1810.06784, section 5). Its second derivative includes how the policy
    changes the action of a step, but not how that changes later steps.

    Examples:
        >>> ratio_surrogate(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 1.0])).tolist()
        [2.0, 1.0]
    """
    return log_ratio.exp() * advantage


def dice_surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    r"""The surrogate of every step, all of whose derivatives are those of the expected return:
    DiCE (Foerster et al., 2018, arXiv:1802.05098), in the form for advantages (Farquhar et al.,
    2019, arXiv:1909.10549), $(\square_{\le t} - \square_{<t}) A_t$ with
    $\square = \exp(x - \bot x)$ of the sum x of log-probabilities up to a step. Time, with
    padding at its end, is the last axis.

    Examples:
        >>> log_ratio = torch.zeros(2, requires_grad=True)
        >>> surrogate = dice_surrogate(log_ratio, torch.tensor([2.0, 1.0])).sum()
        >>> surrogate.item(), torch.autograd.grad(surrogate, log_ratio)[0].tolist()
        (0.0, [2.0, 1.0])
    """
    up_to = log_ratio.cumsum(-1)
    before = up_to - log_ratio
    return (torch.exp(up_to - up_to.detach()) - torch.exp(before - before.detach())) * advantage
