"""Robots simulated by MuJoCo, all episodes in one call: as gymnasium's v5 environments, with
tasks."""

import copy
import importlib
from abc import abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from quickstudy.environments.environment import Environment, normal, uniform
from quickstudy.environments.external_call import outside


class Body(NamedTuple):
    """Where a robot is and how it moves: MuJoCo's generalised coordinates, in float64."""

    position: Tensor  # (nq,)
    velocity: Tensor  # (nv,)


class Factors(NamedTuple):
    """Of a robot's physics: the model's values times these."""

    mass: Tensor  # (bodies,)
    inertia: Tensor  # (bodies, 3)
    damping: Tensor  # (nv,)
    friction: Tensor  # (geoms, 3)


class Robot(Environment):
    """One of gymnasium's robots: its model, beginnings, observations and ends are those of
    the v5 environment. Actions are clipped to ±1 before they act and before they cost.

    The physics of all episodes are one call of `mujoco.rollout`, on as many threads as PyTorch
    has (`torch.set_num_threads`).

    Raises:
        ImportError: MuJoCo is not installed.
    """

    discrete = False
    file: str
    """Of the model, among gymnasium's."""
    skip: int
    """Steps of integration in a step."""
    hidden = 1
    """How many coordinates, the first ones, are not seen: where it is."""
    fastest = float("inf")
    """Velocities are seen clipped to this."""

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

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offsets of an episode's first position (nq,) and velocity (nv,) from the
        model's own, from uniform numbers: positions within 0.1, velocities of deviation 0.1."""
        return 0.1 * (2 * noise[: self.model.nq] - 1), 0.1 * normal(noise[self.model.nq :])

    @abstractmethod
    def reward_and_done(
        self, task: Any, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the reward () of a step, and 1 if it ends the episode ()."""

    def reset(self, task: Any, noise: Tensor) -> tuple[Body, Tensor]:
        """Begins near the model's own position, at rest."""
        place, speed = self.initial_offset(noise.double())
        body = Body(place + torch.from_numpy(self.model.qpos0).to(place.device), speed)
        return body, self._seen(body, noise)

    def step(
        self, task: Any, state: Body, action: Tensor, noise: Tensor
    ) -> tuple[Body, Tensor, Tensor, Tensor]:
        """Goes on for `seconds`."""
        action = action.clamp(-1, 1)
        factors = [x.flatten() for x in task] if isinstance(task, Factors) else []
        body = Body(*outside(self._advance, action, *state, *factors))
        reward, done = self.reward_and_done(task, state, body, action.double())
        return body, self._seen(body, noise), reward.to(noise.dtype), done.to(noise.dtype)

    def _speed(self, body: Body, then: Body) -> Tensor:
        return (then.position[0] - body.position[0]) / self.seconds

    def _seen(self, body: Body, like: Tensor) -> Tensor:
        speed = body.velocity.clamp(-self.fastest, self.fastest)
        return torch.cat([body.position[self.hidden :], speed]).to(like.dtype)

    def _advance(self, action: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        control, place, speed, *factors = (
            x.detach().cpu().double().numpy() for x in (action, *rest)
        )
        pool, data = self._pool
        models = self.model
        if factors:
            models = [self._varied(row.tobytes()) for row in np.concatenate(factors, 1)]
        start = np.concatenate([np.zeros_like(place[:, :1]), place, speed], 1)  # time is first
        found = pool.rollout(models, data, start, control[:, None], nstep=self.skip)[0]
        last = torch.from_numpy(found[:, -1, 1:]).to(action.device)
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
        # what the solver derives from masses
        self.mujoco.mj_setConst(model, self.mujoco.MjData(model))
        return model


class _HalfCheetah(Robot):
    file, skip, can_terminate = "half_cheetah.xml", 5, False


class HalfCheetahVel(_HalfCheetah):
    r"""A cheetah in two dimensions that should run at the task's velocity () in m/s, drawn
    uniformly from `goals` (MAML, Finn et al., 2017, arXiv:1703.03400: 0 to 2; PEARL,
    arXiv:1903.08254: 0 to 3, and a horizon of 200).

    Pays $-|v - v^*| - 0.05 \|a\|^2$, as the code of both. Episodes do not end.
    """

    def __init__(self, goals: tuple[float, float] = (0.0, 2.0), *, horizon: int = 100):
        super().__init__(horizon)
        self.goals = goals

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Velocities (T,)."""
        return uniform(self.goals, (size,), generator)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By how far it is from the velocity."""
        away = (self._speed(body, then) - task).abs()
        return -away - 0.05 * action.square().sum(), torch.zeros_like(away)


class HalfCheetahDir(_HalfCheetah):
    r"""A cheetah in two dimensions that should run forwards or backwards: the task is the
    direction (), 1 or -1 (MAML, Finn et al., 2017, arXiv:1703.03400).

    Pays $d v - 0.05 \|a\|^2$. Episodes do not end.
    """

    def __init__(self, *, horizon: int = 100):
        super().__init__(horizon)

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Directions (T,)."""
        return _signs(size, generator)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By the velocity in the task's direction."""
        forward = task * self._speed(body, then)
        return forward - 0.05 * action.square().sum(), torch.zeros_like(forward)


class AntDir(Robot):
    r"""A robot of four legs that should run in the task's direction (2,), a unit vector, on the
    plane (PEARL, Rakelly et al., 2019, arXiv:1903.08254).

    Pays $d \cdot v - 0.5 \|a\|^2 + 1$; the episode ends where the torso is not between 0.2
    and 1 m high, which pays no 1. Unlike in gymnasium's, contacts cost nothing and are not
    seen, and v is of where the ant is, not of where it was within the last integration step.

    Args:
        circle: any direction, as in PEARL; False: only forwards or backwards, as in MAML.
        horizon: H.
    """

    file, skip, hidden = "ant.xml", 5, 2

    def __init__(self, *, circle: bool = True, horizon: int = 200):
        super().__init__(horizon)
        self.circle = circle

    def tasks(self, size: int, generator: Generator) -> Tensor:
        """Directions (T, 2)."""
        if not self.circle:
            along = _signs(size, generator)
            return torch.stack([along, torch.zeros_like(along)], -1)
        angle = torch.rand(size, generator=generator, device=generator.device) * 2 * torch.pi
        return torch.stack([angle.cos(), angle.sin()], -1)

    def reward_and_done(
        self, task: Tensor, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By the velocity in the task's direction, while it has not fallen."""
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
        """Factors, as tensors with axis T in front."""

        def drawn(base: float, *shape: int) -> Tensor:
            noise = torch.rand(size, *shape, generator=generator, device=generator.device)
            return base ** (self.scale * (2 * noise - 1))

        bodies, geoms = self.model.nbody, self.model.ngeom
        mass, inertia = drawn(1.5, bodies), drawn(1.5, bodies, 3)
        return Factors(mass, inertia, drawn(1.3, self.model.nv), drawn(1.5, geoms, 3))

    def initial_offset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """All within 0.005."""
        near = 5e-3 * (2 * noise - 1)
        return near[: self.model.nq], near[self.model.nq :]

    def reward_and_done(
        self, task: Factors, body: Body, then: Body, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By the velocity, while it stands."""
        healthy = self._stands(then).double()
        return self._speed(body, then) + healthy - 1e-3 * action.square().sum(), 1 - healthy

    @abstractmethod
    def _stands(self, body: Body) -> Tensor:
        """Return whether the robot has not fallen ()."""


class WalkerParams(_Params):
    """A two-legged robot in two dimensions that should run, whatever its physics are: a task
    is what the masses, inertias and frictions of its parts ($1.5^u$) and the dampings of its
    joints ($1.3^u$) are multiplied by, u uniform in ±`scale`, of `Factors` (T, ...).

    The distribution is that of `rand_param_envs`, of ProMP (Rothfuss et al., 2019,
    arXiv:1810.06784) and PEARL; all else is gymnasium's Walker2d-v5.
    """

    file = "walker2d_v5.xml"

    def _stands(self, body: Body) -> Tensor:
        height, angle = body.position[1], body.position[2]
        return (height > 0.8) & (height < 2) & (angle.abs() < 1)


class HopperParams(_Params):
    """A one-legged robot in two dimensions that should hop, whatever its physics are: tasks as
    those of `WalkerParams`; all else is gymnasium's Hopper-v5."""

    file = "hopper.xml"

    def _stands(self, body: Body) -> Tensor:
        in_range = torch.cat([body.position[2:], body.velocity]).abs() < 100
        return in_range.all() & (body.position[1] > 0.7) & (body.position[2].abs() < 0.2)


def _signs(size: int, generator: Generator) -> Tensor:
    return torch.randint(2, (size,), generator=generator, device=generator.device) * 2.0 - 1
