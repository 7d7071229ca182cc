"""Gymnasium's v5 robots with tasks. One call of MuJoCo simulates all episodes."""

import copy
import importlib
from abc import abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, normal
from quickstudy.environments.external_call import outside


class Body(NamedTuple):
    """The position and velocity of a robot, in MuJoCo's generalised coordinates and float64.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> env = qs.environments.HalfCheetahDir()
        >>> body, _ = env.reset(torch.tensor(1.0), torch.full((env.noise_size,), 0.5))
        >>> body.velocity.dtype, body.position.shape
        (torch.float64, torch.Size([9]))
    """

    position: Tensor  # (nq,)
    velocity: Tensor  # (nv,)


class Factors(NamedTuple):
    """Factors of a robot's physics: they multiply the values of the model.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> factors = qs.environments.HopperParams().tasks(2, torch.Generator())
        >>> factors.mass.shape, factors.damping.shape
        (torch.Size([2, 5]), torch.Size([2, 6]))
    """

    mass: Tensor  # (bodies,)
    inertia: Tensor  # (bodies, 3)
    damping: Tensor  # (nv,)
    friction: Tensor  # (geoms, 3)


class Robot(Environment):
    """One of gymnasium's robots.

    Model, initial states, observations and ends of episodes are those of the v5 environment.
    Actions are clipped to ±1 before they act and before they cost.

    One call of `mujoco.rollout` computes the physics of all episodes, on as many threads as
    PyTorch has (`torch.set_num_threads`).

    Raises:
        ImportError: MuJoCo is not installed.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.HalfCheetahDir()
        >>> round(robot.seconds, 3), robot.model.nq  # of a step; coordinates
        (0.05, 9)
    """

    discrete = False
    file: str
    """The model, among gymnasium's."""
    skip: int
    """Steps of integration in a step."""
    hidden = 1
    """How many of the first coordinates, the place of the robot, are not observed."""
    fastest = float("inf")
    """Observed velocities are clipped to this."""

    def __init__(self, horizon: int):
        try:
            self.mujoco: Any = importlib.import_module("mujoco")
            import gymnasium
        except ImportError as error:
            raise ImportError("Install MuJoCo: pip install 'quickstudy[rl]'.") from error
        assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        self.model = self.mujoco.MjModel.from_xml_path(str(assets / self.file))
        self.horizon, self.noise_size = horizon, self.model.nq + self.model.nv
        self.observation_size, self.action_size = self.noise_size - self.hidden, self.model.nu
        self.seconds = self.model.opt.timestep * self.skip
        self._varied = lru_cache(1024)(self._vary)

    @abstractmethod
    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offsets of an episode's first position (nq,) and velocity (nv,) from
        those of the model, from uniform numbers."""

    @abstractmethod
    def reward_and_done(
        self, task: Any, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the reward () of a step, and 1 if it ends the episode ()."""

    def reset(self, task: Any, noise: Tensor) -> tuple[Body, Tensor]:
        """Begin near the position of the model, nearly at rest."""
        place, speed = self.initial_offset(noise.double())
        place = place + torch.from_numpy(self.model.qpos0).to(place.device)
        body = Body(place, speed)
        return body, self._seen(body, noise)

    def step(
        self, task: Any, state: Body, action: Tensor, noise: Tensor
    ) -> tuple[Body, Tensor, Tensor, Tensor]:
        """Simulate `seconds`."""
        action = action.clamp(-1, 1)
        factors = [x.flatten() for x in task] if isinstance(task, Factors) else []
        body = Body(*outside(self._advance, action, *state, *factors))
        reward, done = self.reward_and_done(task, state, body, action.double())
        return body, self._seen(body, noise), reward.to(noise.dtype), done.to(noise.dtype)

    def _seen(self, body: Body, like: Tensor) -> Tensor:
        speed = body.velocity.clamp(-self.fastest, self.fastest)
        return torch.cat([body.position[self.hidden :], speed]).to(like.dtype)

    def _advance(self, action: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        control, place, speed, *factors = (
            x.detach().cpu().double().numpy() for x in (action, *state)
        )
        pool, data = self._pool
        models = self.model
        if factors:
            models = [self._varied(row.tobytes()) for row in np.concatenate(factors, 1)]
        start = np.concatenate([np.zeros_like(place[:, :1]), place, speed], 1)  # time is first
        states = pool.rollout(models, data, start, control[:, None], nstep=self.skip)[0]
        last = torch.from_numpy(states[:, -1, 1:]).to(action.device)
        return last[:, : self.model.nq], last[:, self.model.nq :]

    @cached_property
    def _pool(self) -> Any:
        from mujoco.rollout import Rollout

        threads = torch.get_num_threads()
        data = [self.mujoco.MjData(self.model) for _ in range(threads)]
        return Rollout(nthread=threads if threads > 1 else 0), data

    def _vary(self, factors: bytes) -> Any:
        model, row = copy.copy(self.model), np.frombuffer(factors)
        for name in ("body_mass", "body_inertia", "dof_damping", "geom_friction"):
            values = getattr(model, name)
            values *= row[: values.size].reshape(values.shape)
            row = row[values.size :]
        data = self.mujoco.MjData(model)
        self.mujoco.mj_setConst(model, data)  # what the solver derives from masses
        return model


class _HalfCheetah(Robot):
    file, skip, can_terminate = "half_cheetah.xml", 5, False

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return _wide(self.model, noise)

    def _speed(self, body: Body, then: Body) -> Tensor:
        return (then.position[0] - body.position[0]) / self.seconds


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
        low, high = self.goals
        drawn = torch.rand(size, generator=generator, device=generator.device)
        return low + (high - low) * drawn

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the distance from the velocity of the task."""
        away = (self._speed(body, then) - task).abs()
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
        forward = task * self._speed(body, then)
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
        angle = torch.rand(size, generator=generator, device=generator.device) * 2 * torch.pi
        return torch.stack([angle.cos(), angle.sin()], -1)

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions within 0.1, and velocities of standard deviation 0.1."""
        return _wide(self.model, noise)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward by the velocity in the task's direction; a fall ends the episode."""
        velocity = (then.position[:2] - body.position[:2]) / self.seconds
        finite = then.position.isfinite().all() & then.velocity.isfinite().all()
        height = then.position[2]
        healthy = (finite & (height >= 0.2) & (height <= 1)).double()
        return (task * velocity).sum() - 0.5 * action.square().sum() + healthy, 1 - healthy


class _Params(Robot):
    skip, fastest = 4, 10.0

    def __init__(self, scale: float = 3.0, *, horizon: int = 200):
        super().__init__(horizon)
        self.scale = scale

    def tasks(self, size: int, generator: Generator) -> Factors:
        """Sample factors, as tensors with axis T in front."""

        def drawn(base: float, *shape: int) -> Tensor:
            noise = torch.rand(size, *shape, generator=generator, device=generator.device)
            return base ** (self.scale * (2 * noise - 1))

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
        velocity = (then.position[0] - body.position[0]) / self.seconds
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


def _wide(model: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    return 0.1 * (2 * noise[: model.nq] - 1), 0.1 * normal(noise[model.nq :])


def _signs(size: int, generator: Generator) -> Tensor:
    return torch.randint(2, (size,), generator=generator, device=generator.device) * 2.0 - 1
