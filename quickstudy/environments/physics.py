"""Tasks that differ in their physics: a pole on a cart and a pendulum."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, uniform


class Cart(NamedTuple):
    """The physics of one pole on a cart.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> usual = qs.environments.CartPole(factors=(1.0, 1.0)).tasks(1, torch.Generator())
        >>> usual.gravity, usual.length
        (tensor([9.8000]), tensor([0.5000]))
    """

    gravity: Tensor  # ()  m/s²
    cart: Tensor  # ()  kg
    pole: Tensor  # ()  kg
    length: Tensor  # ()  m, half of the pole's
    force: Tensor  # ()  N, of a push


class CartPole(Environment):
    """A pole on a cart, balanced by pushes to the left (the first action) and the right.

    It is gymnasium's CartPole-v1 (Barto, Sutton & Anderson, 1983), with physics that vary. In a
    task, each of cart, pole, length and force is the usual value times a factor. An observation
    holds position, velocity, angle and angular velocity. Each step pays 1. The episode ends
    when the cart is further than 2.4 m from the middle, or the pole leans by more than 12°.

    Args:
        factors: the lowest and the highest of the factors, which are drawn uniformly.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.CartPole()
        >>> task = Cart(*torch.tensor([9.8, 1.0, 0.1, 0.5, 10.0]))
        >>> state, _ = env.reset(task, torch.full((4,), 0.5))  # at rest in the middle
        >>> push_right = torch.tensor([0.0, 1.0])
        >>> state, _, reward, done = env.step(task, state, push_right, torch.zeros(4))
        >>> state[1].item() > 0, reward.item(), done.item()
        (True, 1.0, 0.0)
    """

    observation_size, action_size, discrete, noise_size = 4, 2, True, 4

    def __init__(self, factors: tuple[float, float] = (0.5, 1.5), *, horizon: int = 200):
        self.factors, self.horizon = factors, horizon

    def tasks(self, size: int, generator: Generator) -> Cart:
        """Sample physics, as a `Cart` of tensors (T,)."""
        cart, pole, length, force = uniform(self.factors, (4, size), generator)
        gravity = torch.full_like(cart, 9.8)
        return Cart(gravity, cart, 0.1 * pole, 0.5 * length, 10 * force)

    def reset(self, task: Cart, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin with all four numbers within ±0.05."""
        state = 0.1 * noise - 0.05
        return state, state

    def step(
        self, task: Cart, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take an Euler step of 0.02 s."""
        x, velocity, angle, turning = state.unbind()
        cosine, sine = angle.cos(), angle.sin()
        total, moment = task.cart + task.pole, task.pole * task.length
        push = task.force * (action[1] - action[0])
        pushed = (push + moment * turning.square() * sine) / total
        inertia = task.length * (4 / 3 - task.pole * cosine.square() / total)
        turn = (task.gravity * sine - cosine * pushed) / inertia
        speed_up = pushed - moment * turn * cosine / total
        state = state + 0.02 * torch.stack([velocity, speed_up, turning, turn])
        fallen = (state[0].abs() > 2.4) | (state[2].abs() > 12 * 2 * torch.pi / 360)
        return state, state, torch.ones_like(x), fallen.to(x.dtype)


class Rod(NamedTuple):
    """The physics of one pendulum.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> usual = qs.environments.Pendulum(factors=(1.0, 1.0)).tasks(1, torch.Generator())
        >>> usual.gravity, usual.mass
        (tensor([10.]), tensor([1.]))
    """

    gravity: Tensor  # ()  m/s²
    mass: Tensor  # ()  kg
    length: Tensor  # ()  m


class Pendulum(Environment):
    """A pendulum, swung up and held by a torque, clipped to ±2.

    It is gymnasium's Pendulum-v1, with physics that vary. In a task, mass and length are the
    usual 1 times a factor. An observation holds the cosine and the sine of the angle (0 is
    upright) and the angular velocity, within ±8. Episodes do not end.

    Args:
        factors: the lowest and the highest of the factors, which are drawn uniformly.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env, task = qs.environments.Pendulum(), Rod(*torch.tensor([10.0, 1.0, 1.0]))
        >>> state, observation = env.reset(task, torch.tensor([0.5, 0.5]))
        >>> observation  # upright and at rest
        tensor([1., 0., 0.])
    """

    observation_size, action_size, discrete, noise_size, can_terminate = 3, 1, False, 2, False

    def __init__(self, factors: tuple[float, float] = (0.5, 1.5), *, horizon: int = 200):
        self.factors, self.horizon = factors, horizon

    def tasks(self, size: int, generator: Generator) -> Rod:
        """Sample physics, as a `Rod` of tensors (T,)."""
        mass, length = uniform(self.factors, (2, size), generator)
        return Rod(torch.full_like(mass, 10), mass, length)

    def reset(self, task: Rod, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Begin at any angle, with an angular velocity within ±1."""
        state = (2 * noise - 1) * torch.tensor([torch.pi, 1.0], device=noise.device)
        return state, self._seen(state)

    def step(
        self, task: Rod, state: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a semi-implicit Euler step of 0.05 s. The reward is that of the state before."""
        angle, turning = state.unbind()
        torque = action[0].clamp(-2, 2)
        lean = (angle + torch.pi) % (2 * torch.pi) - torch.pi
        cost = lean.square() + 0.1 * turning.square() + 0.001 * torque.square()
        fall = 1.5 * task.gravity / task.length * angle.sin()
        turn = fall + 3 * torque / (task.mass * task.length.square())
        turning = (turning + 0.05 * turn).clamp(-8, 8)
        state = torch.stack([angle + 0.05 * turning, turning])
        return state, self._seen(state), -cost, torch.zeros_like(cost)

    def _seen(self, state: Tensor) -> Tensor:
        return torch.stack([state[0].cos(), state[0].sin(), state[1]])
