"""Tasks of gymnasium's robots: directions, velocities and factors of their physics."""

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import uniform
from quickstudy.environments.robot import Body, Factors, Robot


class _HalfCheetah(Robot):
    file, skip, can_terminate = "half_cheetah.xml", 5, False


class HalfCheetahVel(_HalfCheetah):
    r"""A cheetah in two dimensions that should run at the task's velocity () in m/s, sampled
    uniformly from `goals` (MAML, Finn et al., 2017, arXiv:1703.03400: 0 to 2; PEARL,
    arXiv:1903.08254: 0 to 3, and a horizon of 200).

    Pays $-|v - v^*| - 0.05 \|a\|^2$, as the code of both. Episodes do not end.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.HalfCheetahVel(goals=(1.0, 1.0))
        >>> env.tasks(2, torch.Generator()), env.observation_size, env.action_size
        (tensor([1., 1.]), 17, 6)
    """

    def __init__(self, goals: tuple[float, float] = (0.0, 2.0), *, horizon: int = 100):
        super().__init__(horizon)
        self.goals = goals

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample velocities (T,)."""
        return uniform(self.goals, (size,), generator)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the distance from the velocity of the task."""
        away = (self.velocity(body, then)[0] - task).abs()
        return -away - 0.05 * action.square().sum(), torch.zeros_like(away)


class HalfCheetahDir(_HalfCheetah):
    r"""A cheetah in two dimensions that should run forwards or backwards: the task is the
    direction (), 1 or -1 (MAML, Finn et al., 2017, arXiv:1703.03400).

    Pays $d v - 0.05 \|a\|^2$. Episodes do not end.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.HalfCheetahDir()
        >>> env.tasks(4, torch.Generator().manual_seed(0))
        tensor([-1.,  1.,  1., -1.])
    """

    def __init__(self, *, horizon: int = 100):
        super().__init__(horizon)

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample directions (T,)."""
        return _signs(size, generator)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the velocity in the task's direction."""
        forward = task * self.velocity(body, then)[0]
        return forward - 0.05 * action.square().sum(), torch.zeros_like(forward)


class AntDir(Robot):
    r"""A robot of four legs that should run in the task's direction (2,), a unit vector, on the
    plane (PEARL, Rakelly et al., 2019, arXiv:1903.08254).

    Pays $d \cdot v - 0.5 \|a\|^2 + 1$. The episode ends when the torso is not between 0.2 and
    1 m high; that step pays no 1. Differs from gymnasium's: contacts cost nothing and are not
    observed, and v is measured at the current position, not within the last integration step.

    Args:
        circle: any direction, as in PEARL; False: only forwards or backwards, as in MAML.
        horizon: H.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.AntDir(circle=False)
        >>> env.tasks(2, torch.Generator().manual_seed(0))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    file, skip, hidden = "ant.xml", 5, 2

    def __init__(self, *, circle: bool = True, horizon: int = 200):
        super().__init__(horizon)
        self.circle = circle

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Sample directions (T, 2)."""
        if not self.circle:
            along = _signs(size, generator)
            return torch.stack([along, torch.zeros_like(along)], -1)
        angle = uniform((0.0, 2 * torch.pi), (size,), generator)
        return torch.stack([angle.cos(), angle.sin()], -1)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the velocity in the task's direction; a fall ends the episode."""
        forward = (task * self.velocity(body, then)[:2]).sum()
        finite = then.position.isfinite().all() & then.velocity.isfinite().all()
        height = then.position[2]
        healthy = (finite & (height >= 0.2) & (height <= 1)).double()
        return forward - 0.5 * action.square().sum() + healthy, 1 - healthy


class _Params(Robot):
    skip, fastest = 4, 10.0

    def __init__(self, scale: float = 3.0, *, horizon: int = 200):
        super().__init__(horizon)
        self.scale = scale

    def tasks(self, size: int, generator: Generator) -> Factors:
        """Sample factors, as tensors with axis T in front."""

        def drawn(base: float, *shape: int) -> Tensor:
            return base ** (self.scale * uniform((-1.0, 1.0), (size, *shape), generator))

        bodies, geoms = self.model.nbody, self.model.ngeom
        mass, inertia = drawn(1.5, bodies), drawn(1.5, bodies, 3)
        return Factors(mass, inertia, drawn(1.3, self.model.nv), drawn(1.5, geoms, 3))

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets within 0.005."""
        near = 5e-3 * (2 * noise - 1)
        return near[: self.model.nq], near[self.model.nq :]

    def reward_and_done(
        self, task: Factors, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the velocity; a fall ends the episode."""
        healthy = self._stands(then).double()
        velocity = self.velocity(body, then)[0]
        return velocity + healthy - 1e-3 * action.square().sum(), 1 - healthy

    @abstractmethod
    def _stands(self, body: Body) -> Tensor: ...


class WalkerParams(_Params):
    """A two-legged robot in two dimensions that should run, whatever its physics are.

    A task is `Factors` of the masses, inertias and frictions of its parts ($1.5^u$) and of the
    dampings of its joints ($1.3^u$), with u uniform in ±`scale`. This is the distribution of
    `rand_param_envs`, of ProMP (Rothfuss et al., 2019, arXiv:1810.06784) and PEARL. All else is
    gymnasium's Walker2d-v5.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.WalkerParams(scale=0.0)
        >>> env.tasks(1, torch.Generator()).damping  # those of the model
        tensor([[1., 1., 1., 1., 1., 1., 1., 1., 1.]])
    """

    file = "walker2d_v5.xml"

    def _stands(self, body: Body) -> Tensor:
        height, angle = body.position[1], body.position[2]
        return (height > 0.8) & (height < 2) & (angle.abs() < 1)


class HopperParams(_Params):
    """A one-legged robot in two dimensions that should hop, whatever its physics are.

    The tasks are those of `WalkerParams`. All else is gymnasium's Hopper-v5.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.HopperParams()
        >>> env.tasks(2, torch.Generator()).friction.shape, env.action_size
        (torch.Size([2, 5, 3]), 3)
    """

    file = "hopper.xml"

    def _stands(self, body: Body) -> Tensor:
        in_range = torch.cat([body.position[2:], body.velocity]).abs() < 100
        return in_range.all() & (body.position[1] > 0.7) & (body.position[2].abs() < 0.2)


def _signs(size: int, generator: Generator) -> Tensor:
    return torch.randint(2, (size,), generator=generator, device=generator.device) * 2.0 - 1
